//! Who serves what, as the gateways on one set of books tell each other through Redis.
//!
//! Each replica keeps a hash of what its own tunnels offer, which expires within seconds unless it is kept up, and publishes
//! every change with a rising version. Whoever misses one, or was away, reads that replica's hash. All keys share a hash tag.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use lumbung_openapi::provider::Offer;
use redis::RedisResult;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{Redis, Result, Store};
use crate::domain::ids::{ProviderId, ReplicaId};

/// How long a replica's entries outlive its last sign of life.
const EXPIRES_AFTER: Duration = Duration::from_secs(5);
/// How long the list of replicas does.
const LIST_EXPIRES_AFTER: Duration = Duration::from_secs(3600);
/// The field that says where a replica is; all others are providers.
const SELF: &str = "";

/// Redis cannot be used at this moment.
#[derive(Debug, thiserror::Error)]
#[error("Redis: {0}")]
pub struct RegistryError(#[from] redis::RedisError);

/// Where a replica is, and how often what it offers has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Which one.
    pub replica: ReplicaId,
    /// Where other gateways reach it, `host:port`; `None` where they cannot.
    pub address: Option<String>,
    /// Rises with every change.
    pub version: u64,
}

/// A replica and what its own tunnels offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaFleet {
    /// Where it is.
    pub presence: Presence,
    /// Its tunnels' offers.
    pub offers: HashMap<ProviderId, Offer>,
}

/// What a provider runs of one model for one replica: (provider, model, jobs).
pub type Running = (ProviderId, String, u32);

/// What a replica tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FleetEvent {
    /// It lives.
    Beat(Presence),
    /// These tunnels came, changed or went. The version before was one less.
    Changed {
        /// As of now.
        presence: Presence,
        /// `None`: it went.
        offers: Vec<(ProviderId, Option<Offer>)>,
    },
    /// So many jobs run for it. What is not named is as before, or none where this is `whole`.
    Running {
        /// For which replica.
        replica: ReplicaId,
        /// Whether this is all of it.
        whole: bool,
        /// By provider and model.
        jobs: Vec<Running>,
    },
    /// It stops: its tunnels are not to be used any more.
    Left {
        /// Which one.
        replica: ReplicaId,
    },
}

/// The registry.
pub struct Registry {
    redis: Redis,
    replica: ReplicaId,
    /// What every key begins with.
    prefix: String,
}

impl Registry {
    /// For `replica` and all others on the same books.
    pub async fn open(redis: Redis, store: &Store, replica: ReplicaId) -> Result<Self> {
        Ok(Self { redis, replica, prefix: format!("lumbung:{{{}}}:fleet", store.id().await?) })
    }

    /// Says that this replica lives, and keeps its entries up. `false`: they are not what they should be (`offers` of them):
    /// all must be told again.
    pub async fn beat(&self, presence: &Presence, offers: usize) -> std::result::Result<bool, RegistryError> {
        let mut commands = self.write(presence)?;
        commands.cmd("HLEN").arg(self.key(&self.replica));
        let (fields,): (usize,) = self.redis.pipeline(&commands).await?;
        self.publish(&FleetEvent::Beat(presence.clone())).await?;
        Ok(fields == offers + 1)
    }

    /// Tells what has changed.
    pub async fn change(
        &self,
        presence: &Presence,
        offers: &[(ProviderId, Option<Offer>)],
    ) -> std::result::Result<(), RegistryError> {
        let mut commands = self.write(presence)?;
        self.set(&mut commands, offers)?;
        let _: () = self.redis.pipeline(&commands).await?;
        self.publish(&FleetEvent::Changed { presence: presence.clone(), offers: offers.to_vec() }).await
    }

    /// Tells all of it.
    pub async fn tell_all(
        &self,
        presence: &Presence,
        offers: &[(ProviderId, Option<Offer>)],
    ) -> std::result::Result<(), RegistryError> {
        let mut commands = redis::pipe();
        commands.atomic().cmd("DEL").arg(self.key(&self.replica)).ignore();
        self.add_write(&mut commands, presence)?;
        self.set(&mut commands, offers)?;
        let _: () = self.redis.pipeline(&commands).await?;
        // Whoever knew another version reads it; whoever did not know this replica does, too.
        self.publish(&FleetEvent::Beat(presence.clone())).await
    }

    /// Tells what runs for this replica.
    pub async fn running(&self, whole: bool, jobs: Vec<Running>) -> std::result::Result<(), RegistryError> {
        self.publish(&FleetEvent::Running { replica: self.replica, whole, jobs }).await
    }

    /// Takes this replica's entries away.
    pub async fn leave(&self) -> std::result::Result<(), RegistryError> {
        let mut commands = redis::pipe();
        commands.atomic().cmd("DEL").arg(self.key(&self.replica)).ignore();
        commands.cmd("SREM").arg(&self.prefix).arg(self.replica.to_string()).ignore();
        let _: () = self.redis.pipeline(&commands).await?;
        self.publish(&FleetEvent::Left { replica: self.replica }).await
    }

    /// Every other replica that lives.
    pub async fn read_all(&self) -> std::result::Result<Vec<ReplicaFleet>, RegistryError> {
        let listed: Vec<String> = self.redis.query(redis::cmd("SMEMBERS").arg(&self.prefix)).await?;
        let mut found = Vec::with_capacity(listed.len());
        for replica in listed.iter().filter_map(|id| id.parse().ok()).filter(|id| *id != self.replica) {
            match self.read(&replica).await? {
                Some(fleet) => found.push(fleet),
                // It died: its entries have expired. Should it live after all, it lists itself again with its next beat.
                None => {
                    self.redis.query::<()>(redis::cmd("SREM").arg(&self.prefix).arg(replica.to_string())).await?;
                }
            }
        }
        Ok(found)
    }

    /// One replica, if it lives.
    pub async fn read(&self, replica: &ReplicaId) -> std::result::Result<Option<ReplicaFleet>, RegistryError> {
        let mut fields: HashMap<String, String> =
            self.redis.query(redis::cmd("HGETALL").arg(self.key(replica))).await?;
        let Some(presence) = fields.remove(SELF).and_then(|text| serde_json::from_str(&text).ok()) else {
            return Ok(None);
        };
        let offers =
            fields.into_iter().filter_map(|(id, offer)| Some((id.parse().ok()?, serde_json::from_str(&offer).ok()?)));
        Ok(Some(ReplicaFleet { presence, offers: offers.collect() }))
    }

    /// What replicas tell from now on, this one included; ends when the connection does.
    pub async fn events(&self) -> std::result::Result<impl Stream<Item = FleetEvent> + Unpin, RegistryError> {
        let messages = self.redis.subscribe(&self.channel()).await?;
        Ok(messages.filter_map(|message| {
            let event = serde_json::from_slice(message.get_payload_bytes());
            std::future::ready(event.inspect_err(|error| warn!(%error, "a message of an unknown kind")).ok())
        }))
    }

    /// The commands that every write begins with.
    fn write(&self, presence: &Presence) -> RedisResult<redis::Pipeline> {
        let mut commands = redis::pipe();
        commands.atomic();
        self.add_write(&mut commands, presence)?;
        Ok(commands)
    }

    fn add_write(&self, commands: &mut redis::Pipeline, presence: &Presence) -> RedisResult<()> {
        let key = self.key(&self.replica);
        commands.cmd("SADD").arg(&self.prefix).arg(self.replica.to_string()).ignore();
        commands.cmd("EXPIRE").arg(&self.prefix).arg(LIST_EXPIRES_AFTER.as_secs()).ignore();
        commands.cmd("HSET").arg(&key).arg(SELF).arg(json(presence)?).ignore();
        commands.cmd("PEXPIRE").arg(&key).arg(EXPIRES_AFTER.as_millis() as u64).ignore();
        Ok(())
    }

    fn set(&self, commands: &mut redis::Pipeline, offers: &[(ProviderId, Option<Offer>)]) -> RedisResult<()> {
        let key = self.key(&self.replica);
        for (provider, offer) in offers {
            match offer {
                Some(offer) => commands.cmd("HSET").arg(&key).arg(provider.as_str()).arg(json(offer)?).ignore(),
                None => commands.cmd("HDEL").arg(&key).arg(provider.as_str()).ignore(),
            };
        }
        Ok(())
    }

    async fn publish(&self, event: &FleetEvent) -> std::result::Result<(), RegistryError> {
        self.redis.publish(&self.channel(), &json(event)?).await?;
        Ok(())
    }

    fn key(&self, replica: &ReplicaId) -> String {
        format!("{}:{replica}", self.prefix)
    }

    fn channel(&self) -> String {
        format!("{}:events", self.prefix)
    }
}

fn json<T: Serialize>(value: &T) -> RedisResult<String> {
    serde_json::to_string(value).map_err(|_| (redis::ErrorKind::Client, "a value has no JSON").into())
}
