//! The gateway's side of providers: who has joined, what they offer, and the tunnels to them.
//!
//! Requests read a [`Snapshot`]; it is made anew whenever a tunnel, an offer, the catalogue or a standing changes.

pub mod health;
pub mod job;
pub mod join;
pub mod queue;
pub mod receipts;
pub mod seat;
pub mod tunnel;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use lumbung_openapi::parameter::ParameterSet;
use lumbung_openapi::provider::{ModelOffer, Offer};
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::{info, warn};

use crate::domain::catalogue::CatalogueModel;
use crate::domain::ids::ProviderId;
use crate::domain::provider::Standing;
use health::ModelHealth;
use queue::WaitQueue;
use seat::Seat;
use tunnel::Tunnel;

/// How often each tunnel is asked for its offer, and how long the answer may take.
const POLL_EVERY: Duration = Duration::from_secs(5);
/// Polls that may be missed in a row before a provider counts as gone.
const MISSES: u32 = 2;
/// Offers with more models than this are not believed.
const MAX_MODELS_PER_OFFER: usize = 64;
/// The most slots that one seat may claim.
const MAX_SLOTS: u32 = 4096;

/// Limits of the fleet.
#[derive(Clone, Debug)]
pub struct FleetLimits {
    /// Tunnels at a time.
    pub max_tunnels: usize,
    /// Requests that wait for a slot, per model.
    pub queue_length: usize,
    /// Whether newcomers may serve only models that have a tokenizer, by which their counts are checked.
    pub newcomers_need_tokenizer: bool,
}

/// Everyone who has joined here.
pub struct Fleet {
    limits: FleetLimits,
    members: Mutex<Members>,
    snapshot: ArcSwap<Snapshot>,
}

#[derive(Default)]
struct Members {
    catalogue: Vec<Arc<CatalogueModel>>,
    standings: HashMap<ProviderId, Standing>,
    tunnels: BTreeMap<ProviderId, Member>,
    queues: HashMap<String, Arc<WaitQueue>>,
    health: HashMap<String, Arc<ModelHealth>>,
}

struct Member {
    tunnel: Arc<Tunnel>,
    offer: Offer,
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
    pub seats: Vec<Arc<Seat>>,
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
    pub fn new(limits: FleetLimits) -> Self {
        Self { limits, members: Mutex::default(), snapshot: ArcSwap::default() }
    }

    /// The fleet as it is now; cheap.
    pub fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// Whether another tunnel fits.
    pub fn has_room(&self) -> bool {
        self.lock().tunnels.len() < self.limits.max_tunnels
    }

    /// Takes over what the store says of models and providers.
    pub fn set_catalogue(&self, catalogue: Vec<CatalogueModel>, standings: HashMap<ProviderId, Standing>) {
        let mut members = self.lock();
        members.catalogue = catalogue.into_iter().map(Arc::new).collect();
        members.standings = standings;
        for (provider, member) in &members.tunnels {
            if members.standings.get(provider) == Some(&Standing::Banned) {
                member.tunnel.close();
            }
        }
        self.publish(&mut members);
    }

    /// Serves a provider's end of an upgraded connection until the tunnel ends.
    pub async fn run_tunnel<IO>(&self, provider: ProviderId, standing: Standing, io: IO)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (tunnel, connection) = match Tunnel::open(provider.clone(), io).await {
            Ok(opened) => opened,
            Err(error) => return warn!(%provider, %error, "tunnel did not open"),
        };
        let polled = self.poll(&tunnel, standing);
        let reason = tokio::select! {
            ended = connection => ended.err().map_or_else(|| "closed by the provider".to_owned(), |error| error.to_string()),
            reason = polled => reason,
        };
        tunnel.close();
        self.forget(&tunnel);
        info!(%provider, reason, "tunnel ended");
    }

    /// Asks for offers until the provider misses too many; returns why it ended.
    async fn poll(&self, tunnel: &Arc<Tunnel>, standing: Standing) -> String {
        let mut misses = 0;
        loop {
            match tunnel.fetch_offer(POLL_EVERY).await {
                Ok(offer) => {
                    misses = 0;
                    self.update(tunnel, standing, offer);
                }
                Err(error) => {
                    misses += 1;
                    warn!(provider = %tunnel.provider, %error, misses, "no offer");
                    if misses >= MISSES {
                        return "does not answer".into();
                    }
                }
            }
            tokio::time::sleep(POLL_EVERY).await;
            if !tunnel.is_open() {
                return "closed by this gateway".into();
            }
        }
    }

    fn update(&self, tunnel: &Arc<Tunnel>, standing: Standing, mut offer: Offer) {
        offer.models.truncate(MAX_MODELS_PER_OFFER);
        let mut members = self.lock();
        members.standings.entry(tunnel.provider.clone()).or_insert(standing);
        let known = members.tunnels.get(&tunnel.provider);
        if known.is_some_and(|member| Arc::ptr_eq(&member.tunnel, tunnel) && member.offer == offer) {
            return;
        }
        let models: Vec<&str> = offer.models.iter().map(|m| m.model.as_str()).collect();
        info!(provider = %tunnel.provider, ?models, draining = offer.draining, "offer");
        let replaced = members.tunnels.insert(tunnel.provider.clone(), Member { tunnel: tunnel.clone(), offer });
        if let Some(old) = replaced.filter(|old| !Arc::ptr_eq(&old.tunnel, tunnel)) {
            old.tunnel.close(); // the provider dialled again: its older connection is dead or soon will be
        }
        self.publish(&mut members);
    }

    fn forget(&self, tunnel: &Arc<Tunnel>) {
        let mut members = self.lock();
        if members.tunnels.get(&tunnel.provider).is_some_and(|member| Arc::ptr_eq(&member.tunnel, tunnel)) {
            members.tunnels.remove(&tunnel.provider);
            self.publish(&mut members);
        }
    }

    fn publish(&self, members: &mut Members) {
        let mut models = HashMap::new();
        for entry in &members.catalogue {
            let FleetLimits { queue_length: limit, newcomers_need_tokenizer, .. } = self.limits;
            let is_checked = entry.tokenizer.is_some() || !newcomers_need_tokenizer;
            let queue = members.queues.entry(entry.id.to_string()).or_insert_with(|| Arc::new(WaitQueue::new(limit)));
            let health = members.health.entry(entry.id.to_string()).or_default();
            let seats: Vec<Arc<Seat>> = members
                .tunnels
                .values()
                .filter(|member| !member.offer.draining)
                .flat_map(|member| member.offer.models.iter().map(move |offer| (member, offer)))
                .filter_map(|(member, offer)| make_seat(entry, &members.standings, member, offer, queue, health))
                .filter(|seat| is_checked || seat.standing != Standing::Newcomer)
                .collect();
            let mut supported = ParameterSet::default();
            seats.iter().flat_map(|seat| seat.supported.iter()).for_each(|parameter| supported.insert(parameter));
            let (queue, health) = (queue.clone(), health.clone());
            let seats = Arc::new(ModelSeats { entry: entry.clone(), seats, queue, health, supported });
            for name in std::iter::once(entry.id.as_str()).chain(entry.aliases.iter().map(String::as_str)) {
                models.insert(name.to_owned(), seats.clone());
            }
        }
        self.snapshot.store(Arc::new(Snapshot { models }));
        members.health.values().for_each(|health| health.tidy());
        members.queues.values().for_each(|queue| queue.wake_all());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A seat from an offer, unless the catalogue, the price cap or the provider's standing speaks against it.
fn make_seat(
    entry: &CatalogueModel,
    standings: &HashMap<ProviderId, Standing>,
    member: &Member,
    offer: &ModelOffer,
    queue: &Arc<WaitQueue>,
    health: &ModelHealth,
) -> Option<Arc<Seat>> {
    let standing = standings.get(&member.tunnel.provider).copied().unwrap_or(Standing::Newcomer);
    let known_digest = entry.digests.is_empty() || entry.digests.contains(&offer.weights_digest);
    let fair_ask = !offer.ask.is_negative() && offer.ask.is_within(&entry.reference);
    if offer.model != entry.id.as_str()
        || standing == Standing::Banned
        || !known_digest
        || !fair_ask
        || offer.slots == 0
    {
        return None;
    }
    Some(Arc::new(Seat {
        provider: member.tunnel.provider.clone(),
        tunnel: member.tunnel.clone(),
        standing,
        ask: offer.ask,
        weights_digest: offer.weights_digest.clone(),
        quantization: offer.quantization.clone(),
        resume: offer.resume,
        context_length: offer.context_length.min(entry.context_length),
        supported: ParameterSet::from_names(offer.supported_parameters.iter().map(String::as_str)),
        slots: offer.slots.min(MAX_SLOTS),
        running: member.tunnel.running(entry.id.as_str()),
        queue: queue.clone(),
        fuse: health.fuse(&member.tunnel.provider),
    }))
}
