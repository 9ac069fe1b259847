//! The ways to a provider: a tunnel of this gateway's own, or other gateways that have one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use lumbung_telemetry::trace::Context;

use super::job::{JobStream, OpenError};
use super::peer::Peer;
use super::tunnel::Tunnel;
use crate::domain::ids::ProviderId;

/// A way to a provider.
#[derive(Clone)]
pub(super) enum Way {
    /// It has dialled this gateway.
    Tunnel(Arc<Tunnel>),
    /// It has dialled another one.
    Peer(Arc<PeerWay>),
}

/// The way through another gateway.
pub(super) struct PeerWay {
    peer: Arc<Peer>,
    provider: ProviderId,
    /// The other gateway has said that it has no tunnel any more; what it tells next replaces this way.
    gone: AtomicBool,
}

impl Way {
    pub(super) fn is_open(&self) -> bool {
        match self {
            Self::Tunnel(tunnel) => tunnel.is_open(),
            Self::Peer(way) => !way.gone.load(Ordering::Acquire) && way.peer.is_open(),
        }
    }

    pub(super) async fn open_job(
        &self,
        path: &str,
        ticket: &str,
        body: &Bytes,
        history: Bytes,
        trace: Option<Context>,
    ) -> Result<JobStream, OpenError> {
        match self {
            Self::Tunnel(tunnel) => tunnel.open_job(path, ticket, body, history, trace).await,
            Self::Peer(way) => {
                let opened = way.peer.open_job(&way.provider, path, ticket, body, history, trace).await;
                if matches!(opened, Err(OpenError::NoTunnel)) {
                    way.gone.store(true, Ordering::Release);
                }
                opened
            }
        }
    }
}

impl PeerWay {
    pub(super) fn new(peer: Arc<Peer>, provider: ProviderId) -> Self {
        Self { peer, provider, gone: AtomicBool::new(false) }
    }
}
