//! The way to Redis. Nothing there is needed for the books to be right, and no request waits for it longer than it must.

mod form;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use redis::aio::PubSubStream;
use redis::{Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::{Result, StoreError};
use form::{Connection, Form};

/// How long Redis may take to accept a connection, and to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// How soon after a failed attempt to connect the next one is made: until then callers are refused at once.
const CONNECT_AGAIN: Duration = Duration::from_millis(250);

/// A Redis that is connected to when it is first used, and again whenever the connection was lost. Clones share the
/// connection.
#[derive(Clone)]
pub struct Redis(Arc<Shared>);

struct Shared {
    form: ArcSwap<Form>,
    current: ArcSwapOption<Connection>,
    /// Held while connecting; when that last failed.
    connecting: Mutex<Option<Instant>>,
}

impl Redis {
    /// The Redis that a URL names (`redis/form.rs` lists the forms). `authority`: the certificates to trust instead of the
    /// system's, as PEM. Fails with `Invalid` for what cannot be used; asks nobody.
    pub fn open(url: &str, authority: Option<Vec<u8>>) -> Result<Self> {
        let form = ArcSwap::from_pointee(parse(url, authority)?);
        Ok(Self(Arc::new(Shared { form, current: ArcSwapOption::empty(), connecting: Mutex::default() })))
    }

    /// Reaches it as this URL says from now on, once that works: the same Redis, with another password, say. What was sent on
    /// the connection before is answered there.
    pub async fn move_to(&self, url: &str, authority: Option<Vec<u8>>) -> Result<()> {
        let form = parse(url, authority)?;
        let connected = timeout(2 * PATIENCE, form.connect()).await.unwrap_or_else(|_| Err(no_answer()));
        let connection = connected.map_err(|_| StoreError::Invalid("Redis does not let this gateway in with it"))?;
        self.0.form.store(Arc::new(form));
        self.0.current.store(Some(Arc::new(connection)));
        Ok(())
    }

    /// One command, not repeated when the connection breaks.
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        let (mut connection, shared) = self.connection().await?;
        let answer = timeout(PATIENCE, command.query_async(&mut connection)).await;
        self.look_at(answer.unwrap_or_else(|_| Err(no_answer())), &shared)
    }

    /// Several commands, sent together; where the pipeline is atomic, done together. In a cluster all their keys must share
    /// a hash tag.
    pub async fn pipeline<T: FromRedisValue>(&self, commands: &Pipeline) -> RedisResult<T> {
        let (mut connection, shared) = self.connection().await?;
        let answer = timeout(PATIENCE, commands.query_async(&mut connection)).await;
        self.look_at(answer.unwrap_or_else(|_| Err(no_answer())), &shared)
    }

    /// What is published on a channel from now on; ends when the connection does.
    pub async fn subscribe(&self, channel: &str) -> RedisResult<PubSubStream> {
        let subscribed = async {
            let form = self.0.form.load_full();
            let mut subscription = form.connect_pubsub().await?;
            subscription.subscribe(channel).await?;
            Ok(subscription.into_on_message())
        };
        timeout(2 * PATIENCE, subscribed).await.unwrap_or_else(|_| Err(no_answer()))
    }

    /// Publishes, and says how many got it, if that can be known.
    pub async fn publish(&self, channel: &str, message: &str) -> RedisResult<Option<usize>> {
        let count: usize = self.query(redis::cmd("PUBLISH").arg(channel).arg(message)).await?;
        Ok(self.0.form.load().counts_receivers().then_some(count))
    }

    async fn connection(&self) -> RedisResult<(Connection, Arc<Connection>)> {
        let pair = |shared: Arc<Connection>| (Connection::clone(&shared), shared);
        if let Some(current) = self.0.current.load_full() {
            return Ok(pair(current));
        }
        let mut failed_at = self.0.connecting.lock().await;
        if let Some(current) = self.0.current.load_full() {
            return Ok(pair(current)); // another caller has connected meanwhile
        }
        if failed_at.is_some_and(|at| at.elapsed() < CONNECT_AGAIN) {
            return Err((ErrorKind::Io, "Redis could not be reached a moment ago").into());
        }
        let form = self.0.form.load_full();
        match timeout(2 * PATIENCE, form.connect()).await.unwrap_or_else(|_| Err(no_answer())) {
            Ok(connection) => {
                *failed_at = None;
                let shared = Arc::new(connection);
                self.0.current.store(Some(shared.clone()));
                Ok(pair(shared))
            }
            Err(error) => {
                *failed_at = Some(Instant::now());
                Err(error)
            }
        }
    }

    /// Lets go of a connection that has failed, and of one to a master that is no more.
    fn look_at<T>(&self, answer: RedisResult<T>, used: &Arc<Connection>) -> RedisResult<T> {
        if let Err(error) = &answer {
            let is_demoted = matches!(error.code(), Some("READONLY" | "MASTERDOWN" | "LOADING"));
            if error.is_io_error() || error.is_unrecoverable_error() || is_demoted {
                self.0.current.compare_and_swap(&Some(used.clone()), None);
            }
        }
        answer
    }
}

fn parse(url: &str, authority: Option<Vec<u8>>) -> Result<Form> {
    Form::parse(url, authority.as_deref()).map_err(|_| {
        StoreError::Invalid(
            "REDIS_URL cannot be used: redis://host:port/number, redis+sentinel://host:port,host:port/name or \
             redis+cluster://host:port,host:port is expected; rediss for TLS",
        )
    })
}

fn no_answer() -> RedisError {
    (ErrorKind::Io, "Redis does not answer").into()
}
