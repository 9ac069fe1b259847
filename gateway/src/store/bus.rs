//! What gateways on one set of books tell each other, through Redis: today, that one of them is short of an account's money.
//!
//! Nothing here is needed for the books to be right. A message that is lost costs a request that could have been served:
//! it finds too little credit while another replica holds some of it unused.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tracing::{info, warn};
use ulid::Ulid;

use super::{Result, Store, StoreError};
use crate::domain::ids::{AccountId, ReplicaId};

/// What every channel's name begins with; the books' id follows, because a Redis shows messages to everyone on it.
const CHANNEL: &str = "lumbung:replicas:";
/// How long Redis may take to answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the other replicas may take to give back what they hold unused.
const RECALLED_WITHIN: Duration = Duration::from_millis(500);
/// Pause before a lost subscription is taken up again.
const RESUBSCRIBE: Duration = Duration::from_millis(500);
/// Recalls that are answered at the same time.
const AT_ONCE: usize = 16;
/// Answers that wait to be counted; more replicas than this answer one recall in several turns of the runtime.
const ANSWERS: usize = 64;

/// A message between replicas.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Message {
    /// `from` is short of this account's money: give back what is not in use.
    Recall { id: String, from: ReplicaId, account: AccountId },
    /// `from` has given back what it could.
    Recalled { id: String, from: ReplicaId },
}

/// The way to the other replicas.
pub struct Bus {
    channel: String,
    replica: ReplicaId,
    client: redis::Client,
    publisher: ConnectionManager,
    /// Recalls of this replica that are being answered.
    open: Mutex<HashMap<String, mpsc::Sender<()>>>,
}

impl Bus {
    /// A bus for `replica` and all others on the same books, over the Redis at `url` (`redis://…`, or `rediss://…` for
    /// TLS). Connects when it is first used, and again whenever the connection was lost. Fails with `Invalid` for a URL
    /// that cannot be used.
    pub async fn open(url: &str, store: &Store, replica: ReplicaId) -> Result<Self> {
        let invalid = |_| StoreError::Invalid("REDIS_URL cannot be used: redis://host:port/number is expected");
        let client = redis::Client::open(url).map_err(invalid)?;
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(1)
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        let publisher = ConnectionManager::new_lazy_with_config(client.clone(), config).map_err(invalid)?;
        let channel = format!("{CHANNEL}{}", store.id().await?);
        Ok(Self { channel, replica, client, publisher, open: Mutex::default() })
    }

    /// Asks every other replica to give back what it holds unused of an account's money, and waits until all of them have,
    /// half a second at most.
    pub async fn recall(&self, account: &AccountId) {
        let id = Ulid::generate().to_string();
        let (answer, mut answers) = mpsc::channel(ANSWERS);
        self.opened().insert(id.clone(), answer);
        let waiting = async {
            let message = Message::Recall { id: id.clone(), from: self.replica, account: *account };
            // Everyone who is subscribed gets it, this replica too.
            let others = self.publish(&message).await?.saturating_sub(1);
            for _ in 0..others {
                answers.recv().await;
            }
            Ok::<(), redis::RedisError>(())
        };
        match tokio::time::timeout(RECALLED_WITHIN, waiting).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "other replicas not asked for unused allowances"),
            Err(_) => info!(%account, "not every replica has answered a recall in time"),
        }
        self.opened().remove(&id);
    }

    /// Answers other replicas' recalls with `give_back`, for as long as it is polled; subscribes again when Redis was gone.
    pub async fn serve<F: Future<Output = ()>>(&self, give_back: impl Fn(AccountId) -> F) {
        loop {
            match self.client.get_async_pubsub().await {
                Ok(mut subscription) => match subscription.subscribe(&self.channel).await {
                    Ok(()) => {
                        let messages = subscription.into_on_message();
                        messages.for_each_concurrent(AT_ONCE, |message| self.take(message, &give_back)).await;
                        warn!("the subscription at Redis was lost");
                    }
                    Err(error) => warn!(%error, "Redis takes no subscription"),
                },
                Err(error) => warn!(%error, "Redis cannot be reached"),
            }
            tokio::time::sleep(RESUBSCRIBE).await;
        }
    }

    async fn take<F: Future<Output = ()>>(&self, message: redis::Msg, give_back: &impl Fn(AccountId) -> F) {
        match serde_json::from_slice(message.get_payload_bytes()) {
            Ok(Message::Recall { id, from, account }) if from != self.replica => {
                give_back(account).await;
                if let Err(error) = self.publish(&Message::Recalled { id, from: self.replica }).await {
                    warn!(%error, "a recall was followed, but not answered");
                }
            }
            Ok(Message::Recalled { id, from }) if from != self.replica => {
                if let Some(waiting) = self.opened().get(&id) {
                    let _ = waiting.try_send(()); // nobody may wait any more
                }
            }
            Ok(Message::Recall { .. } | Message::Recalled { .. }) => {}
            Err(error) => warn!(%error, "a message of an unknown kind"),
        }
    }

    /// Publishes, and says how many got it.
    async fn publish(&self, message: &Message) -> redis::RedisResult<usize> {
        let text = serde_json::to_string(message).map_err(|_| (redis::ErrorKind::Client, "a message has no JSON"))?;
        redis::cmd("PUBLISH").arg(&self.channel).arg(text).query_async(&mut self.publisher.clone()).await
    }

    fn opened(&self) -> std::sync::MutexGuard<'_, HashMap<String, mpsc::Sender<()>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
