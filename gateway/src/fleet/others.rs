//! The fleet that gateways share: what this one tells of its own tunnels, and what it takes over from others.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lumbung_openapi::provider::Offer;
use tracing::{info, warn};

use super::Fleet;
use super::members::{Members, PeerFleet, PeerOffer};
use super::peer::{Badge, Peer, tls::PeerTls};
use super::way::PeerWay;
use crate::domain::ids::{ProviderId, ReplicaId};
use crate::store::registry::{FleetEvent, Presence, ReplicaFleet, Running};

/// Who is silent for longer is gone. Counted only while events come in.
const SILENT_AFTER: Duration = Duration::from_secs(4);

/// How this gateway and the others reach each other.
pub struct Links {
    /// This gateway.
    pub replica: ReplicaId,
    /// Where the others reach it, if they can: `host:port`.
    pub address: Option<String>,
    /// By what they know each other.
    pub badge: Arc<Badge>,
    /// Whether they talk TLS.
    pub tls: Option<PeerTls>,
}

/// What this gateway has to tell.
pub struct OwnFleet {
    /// Where it is, and the version after these changes.
    pub presence: Presence,
    /// What has changed, or all of it.
    pub offers: Vec<(ProviderId, Option<Offer>)>,
    /// How many tunnels it has.
    pub tunnels: usize,
}

/// Changes of this gateway's own tunnels that others have not been told of.
#[derive(Default)]
pub(super) struct Untold {
    version: u64,
    changed: HashSet<ProviderId>,
}

impl Untold {
    pub(super) fn note(&mut self, provider: &ProviderId) {
        self.changed.insert(provider.clone());
    }
}

/// Whether what another gateway tells can be taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It was.
    Applied,
    /// Something before it was missed: that gateway's whole state must be read.
    Missed(ReplicaId),
}

impl Fleet {
    /// Waits until this gateway's own tunnels have changed.
    pub async fn changed(&self) {
        self.own_changed.notified().await;
    }

    /// What others are to be told: what has changed since this was asked last, or `all` there is. `None` without links.
    pub fn own(&self, all: bool) -> Option<OwnFleet> {
        let links = self.links.as_ref()?;
        let mut members = self.lock();
        let Members { tunnels, untold, .. } = &mut *members;
        let changed = std::mem::take(&mut untold.changed);
        if all || !changed.is_empty() {
            untold.version += 1;
        }
        let offer = |provider: ProviderId| {
            let offer = tunnels.get(&provider).map(|member| member.offer.clone());
            (provider, offer)
        };
        let offers = match all {
            true => tunnels.keys().cloned().map(offer).collect(),
            false => changed.into_iter().map(offer).collect(),
        };
        let presence = Presence { replica: links.replica, address: links.address.clone(), version: untold.version };
        Some(OwnFleet { presence, offers, tunnels: tunnels.len() })
    }

    /// What runs for this gateway: what has changed since this was asked last, or the `whole`.
    pub fn own_running(&self, whole: bool) -> Vec<Running> {
        let members = self.lock();
        let told = members.loads().filter_map(|(provider, model, load)| {
            let changed = load.report();
            let jobs = changed.or_else(|| Some(load.own()).filter(|jobs| whole && *jobs > 0))?;
            Some((provider.clone(), model.clone(), jobs))
        });
        told.collect()
    }

    /// Takes over what another gateway tells.
    pub fn hear(&self, event: FleetEvent) -> Heard {
        let Some(links) = &self.links else { return Heard::Applied };
        let mut members = self.lock();
        let heard = match event {
            FleetEvent::Beat(presence) => {
                if presence.replica == links.replica {
                    return Heard::Applied;
                }
                match members.peers.get_mut(&presence.replica) {
                    Some(known) if known.version == presence.version => {
                        known.heard_at = std::time::Instant::now();
                        return Heard::Applied;
                    }
                    _ => Heard::Missed(presence.replica),
                }
            }
            FleetEvent::Changed { presence, .. } if presence.replica == links.replica => Heard::Applied,
            FleetEvent::Changed { presence, offers } => match members.peers.get_mut(&presence.replica) {
                Some(known) if known.version + 1 == presence.version => {
                    known.version = presence.version;
                    known.heard_at = std::time::Instant::now();
                    let peer = known.peer.clone();
                    let touched: Vec<ProviderId> = offers.iter().map(|(provider, _)| provider.clone()).collect();
                    offers.into_iter().for_each(|(provider, offer)| known.set(&provider, offer, peer.as_ref()));
                    touched.iter().for_each(|provider| members.touch(provider));
                    Heard::Applied
                }
                Some(known) if known.version >= presence.version => Heard::Applied, // read already
                _ => Heard::Missed(presence.replica),
            },
            FleetEvent::Running { replica, .. } if replica == links.replica => Heard::Applied,
            FleetEvent::Running { replica, whole, jobs } => {
                take_running(&mut members, replica, whole, jobs);
                return Heard::Applied;
            }
            FleetEvent::Left { replica } => {
                self.remove(&mut members, &replica, "it has stopped");
                Heard::Applied
            }
        };
        self.publish_soon(&mut members);
        heard
    }

    /// Takes over another gateway's whole state.
    pub fn take_over(&self, fleet: ReplicaFleet) {
        let Some(links) = &self.links else { return };
        let ReplicaFleet { presence, offers } = fleet;
        if presence.replica == links.replica {
            return;
        }
        let mut members = self.lock();
        let known = members.peers.entry(presence.replica).or_insert_with(|| {
            info!(peer = %presence.replica, address = presence.address.as_deref(), "another gateway");
            PeerFleet::new()
        });
        if known.peer.as_ref().map(|peer| peer.address()) != presence.address.as_deref() {
            if let Some(old) = known.peer.take() {
                old.close();
            }
            let start = |address| Peer::start(presence.replica, address, links.badge.clone(), links.tls.clone());
            known.peer = presence.address.map(start);
        }
        (known.version, known.heard_at) = (presence.version, std::time::Instant::now());
        let peer = known.peer.clone();
        let gone: Vec<ProviderId> = known.offers.keys().filter(|id| !offers.contains_key(*id)).cloned().collect();
        let mut touched = Vec::with_capacity(offers.len() + gone.len());
        for (provider, offer) in
            gone.into_iter().map(|id| (id, None)).chain(offers.into_iter().map(|(p, o)| (p, Some(o))))
        {
            known.set(&provider, offer, peer.as_ref());
            touched.push(provider);
        }
        touched.iter().for_each(|provider| members.touch(provider));
        self.count_replicas(&members);
        self.publish_soon(&mut members);
    }

    /// Lets go of gateways that have been silent for too long. Only to be called while events come in: when Redis is gone,
    /// silence says nothing.
    pub fn forget_silent(&self) {
        let mut members = self.lock();
        let is_silent = |fleet: &PeerFleet| fleet.heard_at.elapsed() > SILENT_AFTER;
        let silent: Vec<ReplicaId> =
            members.peers.iter().filter(|(_, fleet)| is_silent(fleet)).map(|(replica, _)| *replica).collect();
        for replica in &silent {
            self.remove(&mut members, replica, "it is silent");
        }
        if !silent.is_empty() {
            self.publish_soon(&mut members);
        }
    }

    /// Events come in again after an outage: everyone gets the time to be heard.
    pub fn forgive_silence(&self) {
        let now = std::time::Instant::now();
        self.lock().peers.values_mut().for_each(|fleet| fleet.heard_at = now);
    }

    fn remove(&self, members: &mut Members, replica: &ReplicaId, why: &str) {
        let Some(fleet) = members.peers.remove(replica) else { return };
        warn!(peer = %replica, why, "another gateway is gone");
        if let Some(peer) = fleet.peer {
            peer.close();
        }
        fleet.offers.keys().for_each(|provider| members.touch(provider));
        fleet.running.keys().for_each(|key| members.recount_others(key));
        self.count_replicas(members);
    }

    fn count_replicas(&self, members: &Members) {
        self.replicas.store(1 + members.peers.len(), Ordering::Relaxed);
    }
}

impl PeerFleet {
    fn new() -> Self {
        Self {
            peer: None,
            version: 0,
            offers: HashMap::new(),
            running: HashMap::new(),
            heard_at: std::time::Instant::now(),
        }
    }

    /// A provider's offer there; one that cannot be reached is no use.
    fn set(&mut self, provider: &ProviderId, offer: Option<Offer>, peer: Option<&Arc<Peer>>) {
        match (offer, peer) {
            (Some(offer), Some(peer)) => {
                let way = Arc::new(PeerWay::new(peer.clone(), provider.clone()));
                self.offers.insert(provider.clone(), PeerOffer { offer, way });
            }
            _ => drop(self.offers.remove(provider)),
        }
    }
}

/// A gateway tells what runs for it.
fn take_running(members: &mut Members, replica: ReplicaId, whole: bool, jobs: Vec<Running>) {
    let Some(fleet) = members.peers.get_mut(&replica) else { return };
    let mut changed: HashSet<(ProviderId, String)> = HashSet::new();
    if whole {
        changed.extend(std::mem::take(&mut fleet.running).into_keys());
    }
    for (provider, model, jobs) in jobs {
        let key = (provider, model);
        match jobs {
            0 => drop(fleet.running.remove(&key)),
            jobs => drop(fleet.running.insert(key.clone(), jobs)),
        }
        changed.insert(key);
    }
    changed.iter().for_each(|key| members.recount_others(key));
}
