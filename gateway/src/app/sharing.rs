//! What it takes to share the fleet with other gateways: Redis, and a port where they reach this one.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{RedisPlace, ServeConfig};
use crate::domain::ids::ReplicaId;
use crate::fleet::Fleet;
use crate::fleet::others::Links;
use crate::fleet::peer::{self, Badge, tls::PeerTls};
use crate::followed::Followed;
use crate::store::registry::Registry;
use crate::store::{Bus, Counters, Redis, Store, StoreError};

/// The ways to other gateways.
pub struct Sharing {
    /// For money.
    pub bus: Arc<Bus>,
    /// For limits.
    pub counters: Counters,
    /// For who serves what.
    pub registry: Arc<Registry>,
    /// For jobs.
    pub links: Links,
    port: Option<TcpListener>,
    files: Option<RedisFiles>,
}

/// What says where Redis is, and may change.
pub struct RedisFiles {
    redis: Redis,
    place: RedisPlace,
}

impl RedisFiles {
    /// Has Redis be reached as the files say, whenever they change.
    pub async fn follow(self) {
        let Self { redis, mut place } = self;
        let followed = std::mem::replace(&mut place.followed, Followed::none());
        let take_up = |held: Vec<Vec<u8>>| {
            let (redis, now) = (redis.clone(), place.by(&held));
            async move {
                let (url, authority) = now.map_err(|_| StoreError::Invalid("it is not text"))?;
                redis.move_to(&url, authority).await
            }
        };
        followed.follow("Redis' URL or authority", take_up).await;
    }
}

impl Sharing {
    /// As configured; `None` without Redis. `bound`: where clients and providers connect.
    pub async fn open(
        config: &ServeConfig,
        store: &Store,
        replica: ReplicaId,
        bound: SocketAddr,
    ) -> anyhow::Result<Option<Self>> {
        let Some(place) = config.redis().context("cannot use --redis-file or --redis-ca")? else { return Ok(None) };
        let redis = Redis::open(&place.url, place.authority.clone())?;
        let bus = Arc::new(Bus::open(redis.clone(), store, replica).await?);
        let counters = Counters::open(redis.clone(), store, replica).await?;
        let registry = Arc::new(Registry::open(redis.clone(), store, replica).await?);
        let keys = store.signing_keys().await.context("cannot read the signing keys")?;
        let port = listen(config, bound).await?;
        let address = match (&port, &config.internal_advertise) {
            (_, Some(address)) => Some(address.clone()),
            (Some(port), None) => Some(port.local_addr()?.to_string()),
            (None, None) => None,
        };
        match &address {
            Some(address) => info!(address, "other gateways pass on jobs here"),
            None => warn!("without --internal-listen, the providers of this gateway's tunnels serve it alone"),
        }
        let badge = Arc::new(Badge::new(replica, store.clone(), keys));
        let links = Links { replica, address, badge, tls: tls(config)? };
        Ok(Some(Self { bus, counters, registry, links, port, files: Some(RedisFiles { redis, place }) }))
    }

    /// What is spoken with the other gateways, whose files are to be followed.
    pub fn tls(&self) -> Option<PeerTls> {
        self.links.tls.clone()
    }

    /// Takes what says where Redis is, to be followed.
    pub fn take_files(&mut self) -> Option<RedisFiles> {
        self.files.take()
    }

    /// Takes the port, to be served by [`serve`].
    pub fn take_port(&mut self) -> Option<Port> {
        let listener = self.port.take()?;
        Some(Port { listener, badge: self.links.badge.clone(), tls: self.links.tls.clone() })
    }
}

/// Where other gateways connect.
pub struct Port {
    listener: TcpListener,
    badge: Arc<Badge>,
    tls: Option<PeerTls>,
}

impl Port {
    /// Serves other gateways until `stop`, and what they have begun to its end.
    pub async fn serve(self, fleet: &Fleet, stop: CancellationToken) {
        peer::serve(self.listener, fleet.tunnels(), self.badge, self.tls, stop).await;
    }
}

/// The port that is configured, or a free one where only this machine can reach it.
async fn listen(config: &ServeConfig, bound: SocketAddr) -> anyhow::Result<Option<TcpListener>> {
    let address = match config.internal_listen {
        Some(address) => address,
        None if bound.ip().is_loopback() => SocketAddr::new(bound.ip(), 0),
        None => return Ok(None),
    };
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    if address.ip().is_unspecified() && config.internal_advertise.is_none() {
        anyhow::bail!(
            "--internal-listen {address} is every address: --internal-advertise must say how others reach it"
        );
    }
    Ok(Some(listener))
}

/// What gateways talk TLS with, if they do.
pub fn tls(config: &ServeConfig) -> anyhow::Result<Option<PeerTls>> {
    let (Some(certificate), Some(key), Some(authority)) =
        (&config.internal_tls_cert, &config.internal_tls_key, &config.internal_tls_ca)
    else {
        return Ok(None);
    };
    Ok(Some(PeerTls::read(certificate, key, authority).context("cannot use --internal-tls-cert")?))
}
