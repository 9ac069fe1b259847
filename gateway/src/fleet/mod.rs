//! The gateway's side of providers: who has joined, what they offer, and the tunnels to them.
//!
//! Requests read a [`Snapshot`]; what changes in it is made anew whenever a tunnel, an offer, the catalogue or a standing
//! does, here or at another gateway that shares the fleet.

mod census;
pub mod clock;
pub mod gate;
pub mod health;
pub mod job;
pub mod join;
mod known;
mod last_words;
mod load;
mod members;
pub mod others;
pub mod peer;
pub mod queue;
pub mod receipts;
pub mod seat;
pub mod tunnel;
mod way;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use lumbung_openapi::money::NanoUsd;
use lumbung_openapi::parameter::ParameterSet;
use lumbung_openapi::provider::Offer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::domain::catalogue::CatalogueModel;
use crate::domain::ids::ProviderId;
use crate::domain::meter::FleetMeter;
use crate::domain::provider::Standing;
use crate::domain::routing::roster::Roster;
pub use census::Census;
use gate::Place;
use health::ModelHealth;
use members::{Member, Members};
use others::Links;
use peer::Tunnels;
use queue::WaitQueue;
pub use seat::Seat;
use tunnel::{OfferError, Tunnel};

/// Polls that may be missed in a row before a provider counts as gone.
const MISSES: u32 = 2;
/// Offers with more models than this are not believed.
const MAX_MODELS_PER_OFFER: usize = 64;
/// Changes that come within so long of each other make one snapshot.
const TOGETHER: Duration = Duration::from_millis(25);
/// Over how long providers are told to dial another gateway, in milliseconds.
const MOVES_WITHIN_MS: u64 = 500;

/// Limits of the fleet.
#[derive(Clone, Debug)]
pub struct FleetLimits {
    /// Requests that wait for a slot, per model.
    pub queue_length: usize,
    /// Whether newcomers may serve only models that have a tokenizer, by which their counts are checked.
    pub newcomers_need_tokenizer: bool,
    /// How often each tunnel is asked for its offer. A provider that has frozen is out within two of these.
    pub poll_every: Duration,
    /// What a second of a client's time counts for beside a price, where the client does not say otherwise.
    pub second: NanoUsd,
}

/// Everyone who has joined here, or another gateway that shares the fleet.
pub struct Fleet {
    limits: FleetLimits,
    /// How this gateway and others reach each other, if there may be others.
    links: Option<Links>,
    members: Mutex<Members>,
    snapshot: ArcSwap<Snapshot>,
    tunnels: Arc<Tunnels>,
    /// Gateways that share the fleet, this one included.
    replicas: AtomicUsize,
    /// Something waits to be published.
    unpublished: Notify,
    /// Others have not been told yet of something.
    own_changed: Notify,
    /// Cancelled when providers must go elsewhere.
    leaving: CancellationToken,
    /// What becomes of tunnels.
    pub meter: FleetMeter,
}

/// The fleet as requests see it.
#[derive(Default)]
pub struct Snapshot {
    /// By id and by alias.
    models: HashMap<String, Arc<ModelSeats>>,
}

/// A model of the catalogue and who serves it.
pub struct ModelSeats {
    /// The catalogue's entry.
    pub entry: Arc<CatalogueModel>,
    /// Who serves it now.
    pub seats: Roster<Seat>,
    /// Who waits for a slot.
    pub queue: Arc<WaitQueue>,
    /// How its providers do.
    pub health: Arc<ModelHealth>,
    /// What at least one of the seats honours.
    pub supported: ParameterSet,
}

impl Snapshot {
    /// A model by its id or an alias.
    pub fn model(&self, name: &str) -> Option<&Arc<ModelSeats>> {
        self.models.get(name)
    }

    /// Every model of the catalogue once, with who serves it.
    pub fn models(&self) -> Vec<&Arc<ModelSeats>> {
        let mut models: Vec<_> =
            self.models.iter().filter(|(name, seats)| **name == seats.entry.id.as_str()).map(|(_, s)| s).collect();
        models.sort_by(|a, b| a.entry.id.as_str().cmp(b.entry.id.as_str()));
        models
    }
}

impl Fleet {
    /// A fleet without members.
    pub fn new(limits: FleetLimits, links: Option<Links>) -> Self {
        Self {
            limits,
            links,
            members: Mutex::new(Members::new()),
            snapshot: ArcSwap::default(),
            tunnels: Arc::default(),
            replicas: AtomicUsize::new(1),
            unpublished: Notify::new(),
            own_changed: Notify::new(),
            leaving: CancellationToken::new(),
            meter: FleetMeter::default(),
        }
    }

    /// The fleet as it is now; cheap.
    pub fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// What a second of a client's time counts for beside a price.
    pub fn second(&self) -> NanoUsd {
        self.limits.second
    }

    /// Whether a provider has ever joined the network, as far as it is known here.
    pub fn knows(&self, provider: &ProviderId) -> bool {
        self.lock().knows(provider)
    }

    /// How far a provider is trusted, as far as it is known here.
    pub fn standing(&self, provider: &ProviderId) -> Standing {
        self.lock().standing(provider)
    }

    /// Tells every provider to dial another gateway. Their tunnels stay, for what runs on them.
    pub fn leave(&self) {
        self.leaving.cancel();
    }

    /// This gateway's own tunnels, for other gateways.
    pub fn tunnels(&self) -> Arc<Tunnels> {
        self.tunnels.clone()
    }

    /// Takes over what the store says of models and providers.
    pub fn set_catalogue(&self, catalogue: Vec<CatalogueModel>, standings: HashMap<ProviderId, Standing>) {
        let mut members = self.lock();
        members.set_catalogue(catalogue, standings, &self.limits);
        self.publish(&mut members);
    }

    /// Serves a provider's end of an upgraded connection until the tunnel ends, or its place is needed.
    pub async fn run_tunnel<IO>(&self, provider: ProviderId, standing: Standing, place: Place, io: IO)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (tunnel, connection) = match Tunnel::open(provider.clone(), io).await {
            Ok(opened) => opened,
            Err(error) => return warn!(%provider, %error, "tunnel did not open"),
        };
        self.meter.tunnels_opened.add(1);
        let polled = self.poll(&tunnel, standing);
        let (kind, reason) = tokio::select! {
            ended = connection => match ended {
                Ok(()) => ("closed", "closed by the provider".to_owned()),
                Err(error) => ("broken", error.to_string()),
            },
            reason = polled => ("silent", reason),
            () = place.taken_back() => ("made_way", "makes way for a trusted provider".to_owned()),
            never = self.send_away(&tunnel) => match never {},
        };
        tunnel.close();
        self.meter.tunnels_ended.count(kind);
        self.forget(&tunnel);
        info!(%provider, reason, "tunnel ended");
    }

    /// Once this gateway leaves, asks the provider to dial another. Not all of them at the same moment.
    async fn send_away(&self, tunnel: &Tunnel) -> Infallible {
        self.leaving.cancelled().await;
        // A provider's id is a hash: its first bytes are spread evenly.
        let spread = tunnel.provider.as_str().bytes().take(4).fold(0, |sum: u32, byte| sum * 64 + u32::from(byte % 64));
        tokio::time::sleep(Duration::from_millis(u64::from(spread) % MOVES_WITHIN_MS)).await;
        if let Err(error) = tunnel.ask_to_move(self.limits.poll_every).await {
            warn!(provider = %tunnel.provider, %error, "provider not told to dial another gateway");
        }
        std::future::pending().await
    }

    /// Asks for offers until the provider misses too many; returns why it ended. After a miss it is asked again at once, and
    /// patience is two fifths of the pause: so it takes less than two pauses to know.
    async fn poll(&self, tunnel: &Arc<Tunnel>, standing: Standing) -> String {
        let (mut misses, patience) = (0, self.limits.poll_every.mul_f32(0.4));
        loop {
            let asked_at = Instant::now();
            let standing_now = self.standing(&tunnel.provider);
            match tunnel.fetch_offer(self.replicas.load(Ordering::Relaxed), standing_now, patience).await {
                Ok(offer) => {
                    misses = 0;
                    self.lock().known.round_trip(&tunnel.provider, asked_at.elapsed().as_secs_f64());
                    self.update(tunnel, standing, offer);
                    tokio::time::sleep(self.limits.poll_every).await;
                }
                Err(error) => {
                    misses += 1;
                    self.meter.missed_offers.add(1);
                    warn!(provider = %tunnel.provider, %error, misses, "no offer");
                    if misses >= MISSES {
                        return "does not answer".into();
                    }
                    if !matches!(error, OfferError::Timeout) {
                        tokio::time::sleep(patience).await;
                    }
                }
            }
            if tunnel.is_closed() {
                return "closed by this gateway".into();
            }
        }
    }

    fn update(&self, tunnel: &Arc<Tunnel>, standing: Standing, mut offer: Offer) {
        offer.models.truncate(MAX_MODELS_PER_OFFER);
        let provider = &tunnel.provider;
        let mut members = self.lock();
        match members.tunnels.contains_key(provider) {
            true if !tunnel.is_open() => return, // the provider's word is what it says on its later tunnel
            false if members.standing(provider) == Standing::Banned => return tunnel.close(),
            _ => tunnel.reinstate(),
        }
        members.note_standing(provider, standing);
        let known = members.tunnels.get(provider);
        if known.is_some_and(|member| Arc::ptr_eq(&member.tunnel, tunnel) && member.offer == offer) {
            return;
        }
        let models: Vec<&str> = offer.models.iter().map(|m| m.model.as_str()).collect();
        info!(%provider, ?models, draining = offer.draining, "offer");
        let before = match members.tunnels.remove(provider) {
            Some(known) if Arc::ptr_eq(&known.tunnel, tunnel) => known.before,
            // The provider dialled again: its older connection is dead, which polls find out, or its process is being replaced
            // by another and finishes what it has. Either way two are enough.
            Some(known) => {
                known.before.iter().for_each(|oldest| oldest.close());
                known.tunnel.supersede();
                Some(known.tunnel)
            }
            None => None,
        };
        members.tunnels.insert(provider.clone(), Member { tunnel: tunnel.clone(), offer, before });
        self.tunnels.set(provider, Some(tunnel.clone()));
        self.own_tunnel_changed(&mut members, provider);
    }

    fn forget(&self, tunnel: &Arc<Tunnel>) {
        let provider = &tunnel.provider;
        let mut members = self.lock();
        if members.tunnels.get(provider).is_some_and(|member| Arc::ptr_eq(&member.tunnel, tunnel)) {
            members.tunnels.remove(provider);
            self.tunnels.set(provider, None);
            self.own_tunnel_changed(&mut members, provider);
        }
    }

    fn own_tunnel_changed(&self, members: &mut Members, provider: &ProviderId) {
        members.touch(provider);
        if self.links.is_some() {
            members.untold.note(provider);
            self.own_changed.notify_one();
        }
        self.publish_soon(members);
    }

    /// Publishes what has been touched: at once after a quiet moment, otherwise together with what comes in the next.
    fn publish_soon(&self, members: &mut Members) {
        match members.published_at.elapsed() >= TOGETHER {
            true => self.publish(members),
            false => self.unpublished.notify_one(),
        }
    }

    /// Publishes what [`publish_soon`](Self::publish_soon) has put off, for as long as it is polled.
    pub async fn keep_published(&self) {
        loop {
            self.unpublished.notified().await;
            tokio::time::sleep(TOGETHER).await;
            self.publish(&mut self.lock());
        }
    }

    /// Weighs everyone anew, by what has been measured since the fleet last changed.
    pub fn weigh(&self) {
        let mut members = self.lock();
        let snapshot = members.weigh();
        self.snapshot.store(Arc::new(snapshot));
    }

    fn publish(&self, members: &mut Members) {
        let snapshot = members.rebuild(&self.snapshot.load());
        self.snapshot.store(Arc::new(snapshot));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
