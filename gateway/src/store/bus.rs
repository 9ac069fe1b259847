//! What gateways on one set of books tell each other, through Redis: today, that one of them is short of an account's money.
//!
//! Nothing here is needed for the books to be right. A message that is lost costs a request that could have been served:
//! it finds too little credit while another replica holds some of it unused.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tracing::{info, warn};
use ulid::Ulid;

use super::{Redis, Result, Store};
use crate::domain::ids::{AccountId, ReplicaId};

/// What every channel's name begins with; the books' id follows, because a Redis shows messages to everyone on it.
const CHANNEL: &str = "lumbung:replicas:";
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
    store: Store,
    channel: String,
    replica: ReplicaId,
    redis: Redis,
    /// Recalls of this replica that are being answered.
    open: Mutex<HashMap<String, mpsc::Sender<()>>>,
}

impl Bus {
    /// A bus for `replica` and all others on the same books.
    pub async fn open(redis: Redis, store: &Store, replica: ReplicaId) -> Result<Self> {
        let channel = format!("{CHANNEL}{}", store.id().await?);
        Ok(Self { store: store.clone(), channel, replica, redis, open: Mutex::default() })
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
            let others = match self.publish(&message).await? {
                Some(count) => count.saturating_sub(1),
                None => self.store.other_replicas(&self.replica).await.unwrap_or(usize::MAX),
            };
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
            match self.redis.subscribe(&self.channel).await {
                Ok(messages) => {
                    messages.for_each_concurrent(AT_ONCE, |message| self.take(message, &give_back)).await;
                    warn!("the subscription at Redis was lost");
                }
                Err(error) => warn!(%error, "Redis takes no subscription"),
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

    /// Publishes, and says how many got it, if that can be known: each node of a cluster counts its own alone.
    async fn publish(&self, message: &Message) -> redis::RedisResult<Option<usize>> {
        let text = serde_json::to_string(message).map_err(|_| (redis::ErrorKind::Client, "a message has no JSON"))?;
        self.redis.publish(&self.channel, &text).await
    }

    fn opened(&self) -> std::sync::MutexGuard<'_, HashMap<String, mpsc::Sender<()>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gateways of the release before say it so, and read it so.
    #[test]
    fn messages_are_those_of_the_release_before() {
        for text in [
            r#"{"kind":"recall","id":"01K00000000000000000000000","from":"rep_01K00000000000000000000000","account":"acct_01K00000000000000000000000"}"#,
            r#"{"kind":"recalled","id":"01K00000000000000000000000","from":"rep_01K00000000000000000000000"}"#,
        ] {
            let message: Message = serde_json::from_str(text).expect("it is understood");
            assert_eq!(serde_json::to_string(&message).expect("JSON"), text);
        }
    }
}
