//! Who is there, by whichever gateway: what a [`Snapshot`] is made from, piece by piece.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use lumbung_openapi::money::NanoUsd;
use lumbung_openapi::parameter::ParameterSet;
use lumbung_openapi::provider::{ModelOffer, Offer};

use super::clock;
use super::health::ModelHealth;
use super::known::Known;
use super::load::Load;
use super::others::Untold;
use super::peer::Peer;
use super::queue::WaitQueue;
use super::seat::Seat;
use super::tunnel::Tunnel;
use super::way::{PeerWay, Way};
use super::{FleetLimits, ModelSeats, Snapshot};
use crate::domain::catalogue::CatalogueModel;
use crate::domain::ids::{ProviderId, ReplicaId};
use crate::domain::provider::Standing;
use crate::domain::routing::names::ProviderName;
use crate::domain::routing::roster::Roster;
use crate::domain::routing::vitals::Vitals;

/// The most slots that one seat may claim.
const MAX_SLOTS: u32 = 4096;

/// Everyone, as far as this gateway knows.
pub(super) struct Members {
    catalogue: Vec<Arc<CatalogueModel>>,
    standings: HashMap<ProviderId, Standing>,
    /// Those that have dialled this gateway.
    pub(super) tunnels: BTreeMap<ProviderId, Member>,
    /// What other gateways tell.
    pub(super) peers: HashMap<ReplicaId, PeerFleet>,
    loads: HashMap<ProviderId, HashMap<String, Arc<Load>>>,
    /// What has been measured of everyone.
    pub(super) known: Known,
    /// By the catalogue's id.
    models: HashMap<String, ModelMembers>,
    /// With which models a provider has a seat.
    seated: HashMap<ProviderId, Vec<String>>,
    /// Whose seats are to be made anew.
    dirty: HashSet<ProviderId>,
    /// Everyone's are.
    all_dirty: bool,
    pub(super) untold: Untold,
    pub(super) published_at: Instant,
}

/// A provider that has dialled this gateway.
pub(super) struct Member {
    pub(super) tunnel: Arc<Tunnel>,
    pub(super) offer: Offer,
    /// The one before, which has no jobs any more but those that run on it.
    pub(super) before: Option<Arc<Tunnel>>,
}

/// Another gateway.
pub(super) struct PeerFleet {
    /// `None` where it cannot be reached.
    pub(super) peer: Option<Arc<Peer>>,
    pub(super) version: u64,
    pub(super) offers: HashMap<ProviderId, PeerOffer>,
    /// What runs for it, by provider and model.
    pub(super) running: HashMap<(ProviderId, String), u32>,
    pub(super) heard_at: Instant,
}

/// What a provider offers over another gateway's tunnel.
pub(super) struct PeerOffer {
    pub(super) offer: Offer,
    pub(super) way: Arc<PeerWay>,
}

struct ModelMembers {
    entry: Arc<CatalogueModel>,
    queue: Arc<WaitQueue>,
    health: Arc<ModelHealth>,
    /// Whether newcomers may serve it.
    takes_newcomers: bool,
    /// What a second of a client's time counts for.
    second: NanoUsd,
    seats: BTreeMap<ProviderId, Arc<Seat>>,
}

impl Members {
    pub(super) fn new() -> Self {
        Self {
            catalogue: Vec::new(),
            standings: HashMap::new(),
            tunnels: BTreeMap::new(),
            peers: HashMap::new(),
            loads: HashMap::new(),
            known: Known::default(),
            models: HashMap::new(),
            seated: HashMap::new(),
            dirty: HashSet::new(),
            all_dirty: false,
            untold: Untold::default(),
            published_at: Instant::now(),
        }
    }

    /// What the store says of models and providers.
    pub(super) fn set_catalogue(
        &mut self,
        catalogue: Vec<CatalogueModel>,
        standings: HashMap<ProviderId, Standing>,
        limits: &FleetLimits,
    ) {
        self.catalogue = catalogue.into_iter().map(Arc::new).collect();
        // Whoever joined while the store was being read is not in what was read. Nobody ceases to have joined.
        for (provider, standing) in std::mem::replace(&mut self.standings, standings) {
            self.standings.entry(provider).or_insert(standing);
        }
        let mut before = std::mem::take(&mut self.models);
        for entry in &self.catalogue {
            let id = entry.id.to_string();
            let known = before.remove(&id).map(|model| (model.queue, model.health));
            let fresh = || (Arc::new(WaitQueue::new(limits.queue_length)), Arc::default());
            let (queue, health) = known.unwrap_or_else(fresh);
            // Newcomers' counts are checked by the model's tokenizer.
            let takes_newcomers = entry.tokenizer.is_some() || !limits.newcomers_need_tokenizer;
            let (entry, seats, second) = (entry.clone(), BTreeMap::new(), limits.second);
            self.models.insert(id, ModelMembers { entry, queue, health, takes_newcomers, second, seats });
        }
        before.values().for_each(|model| model.queue.wake_all());
        self.seated.clear();
        self.all_dirty = true;
        for (provider, member) in &self.tunnels {
            if self.standings.get(provider) == Some(&Standing::Banned) {
                member.tunnel.close();
                member.before.iter().for_each(|before| before.close());
            }
        }
    }

    /// Whether it has ever joined.
    pub(super) fn knows(&self, provider: &ProviderId) -> bool {
        self.standings.contains_key(provider)
    }

    /// How far a provider is trusted, as far as it is known here.
    pub fn standing(&self, provider: &ProviderId) -> Standing {
        self.standings.get(provider).copied().unwrap_or(Standing::Newcomer)
    }

    /// The standing of a provider that joined since the store was read.
    pub(super) fn note_standing(&mut self, provider: &ProviderId, standing: Standing) {
        self.standings.entry(provider.clone()).or_insert(standing);
    }

    /// A provider's seats are to be made anew.
    pub(super) fn touch(&mut self, provider: &ProviderId) {
        self.dirty.insert(provider.clone());
    }

    /// Makes what has been touched anew, and the snapshot with it; whoever waits for one of those models looks again.
    pub(super) fn rebuild(&mut self, before: &Snapshot) -> Snapshot {
        let mut touched: HashSet<String> = HashSet::new();
        let mut models = HashMap::new();
        let mut dirty = std::mem::take(&mut self.dirty);
        if std::mem::take(&mut self.all_dirty) {
            dirty.extend(self.tunnels.keys().cloned());
            dirty.extend(self.peers.values().flat_map(|peer| peer.offers.keys().cloned()));
            touched.extend(self.models.keys().cloned());
        } else {
            models.clone_from(&before.models);
        }
        for provider in dirty {
            self.seat(provider, &mut touched);
        }
        for model in touched.iter().filter_map(|id| self.models.get(id)) {
            model.publish(&mut models);
            model.health.tidy();
            model.queue.wake_all();
        }
        self.published_at = Instant::now();
        Snapshot { models }
    }

    /// The snapshot with everyone weighed anew. Nobody has come or gone, so whoever waits goes on waiting.
    pub(super) fn weigh(&mut self) -> Snapshot {
        let mut models = HashMap::new();
        self.models.values().for_each(|model| model.publish(&mut models));
        self.known.tidy(clock::unix_micros());
        Snapshot { models }
    }

    /// Makes one provider's seats anew.
    fn seat(&mut self, provider: ProviderId, touched: &mut HashSet<String>) {
        for id in self.seated.remove(&provider).unwrap_or_default() {
            if let Some(model) = self.models.get_mut(&id) {
                model.seats.remove(&provider);
            }
            touched.insert(id);
        }
        let now_us = clock::unix_micros();
        let Some((offer, ways)) = self.find(&provider) else {
            self.known.left(&provider, now_us);
            let is_idle = |loads: &HashMap<String, Arc<Load>>| loads.values().all(|load| load.own() == 0);
            if self.loads.get(&provider).is_some_and(is_idle) {
                self.loads.remove(&provider);
            }
            return;
        };
        self.known.came(&provider, now_us);
        let standing = self.standings.get(&provider).copied().unwrap_or(Standing::Newcomer);
        let mut seats = Vec::new();
        for offered in &offer.models {
            if let Some(model) = self.models.get(&offered.model)
                && is_acceptable(&model.entry, standing, offered)
                && (model.takes_newcomers || standing != Standing::Newcomer)
                && seats.iter().all(|(id, _)| *id != offered.model)
            {
                let load = self.load(&provider, &offered.model);
                let vitals = self.known.vitals(&provider, &offer.region, &offered.model, now_us);
                let model = &self.models[&offered.model];
                let ways = ways.clone();
                let who = (&provider, standing, &*offer.name);
                let seat = make_seat(model, who, offered, ways, (load, vitals));
                seats.push((offered.model.clone(), seat));
            }
        }
        for (id, seat) in seats {
            if let Some(model) = self.models.get_mut(&id) {
                model.seats.insert(provider.clone(), Arc::new(seat));
            }
            self.seated.entry(provider.clone()).or_default().push(id.clone());
            touched.insert(id);
        }
    }

    /// What a provider offers, and the ways to it, the best first. `None` where there is none, or it drains.
    fn find(&self, provider: &ProviderId) -> Option<(Offer, Vec<Way>)> {
        let own = self.tunnels.get(provider);
        let mut others: Vec<(ReplicaId, &PeerOffer)> =
            self.peers.iter().filter_map(|(replica, fleet)| Some((*replica, fleet.offers.get(provider)?))).collect();
        // Each gateway prefers another one, so that not all of them lead through the same.
        others.sort_by_key(|(replica, _)| weight(replica, provider));
        let offer = own.map(|member| &member.offer).or_else(|| others.first().map(|(_, other)| &other.offer))?;
        // Its own word over a tunnel of this gateway's is at most one poll old; elsewhere the word to stop counts.
        if offer.draining || (own.is_none() && others.iter().any(|(_, other)| other.offer.draining)) {
            return None;
        }
        let own = own.map(|member| Way::Tunnel(member.tunnel.clone()));
        let ways = own.into_iter().chain(others.iter().map(|(_, other)| Way::Peer(other.way.clone())));
        Some((offer.clone(), ways.collect()))
    }

    /// The counter of a provider's jobs with a model.
    pub(super) fn load(&mut self, provider: &ProviderId, model: &str) -> Arc<Load> {
        let loads = self.loads.entry(provider.clone()).or_default();
        loads.entry(model.to_owned()).or_default().clone()
    }

    /// Every counter.
    pub(super) fn loads(&self) -> impl Iterator<Item = (&ProviderId, &String, &Arc<Load>)> {
        self.loads.iter().flat_map(|(provider, models)| models.iter().map(move |(model, load)| (provider, model, load)))
    }

    /// What other gateways have told of a provider's jobs with a model, and nobody waits in vain for a slot that came free.
    pub(super) fn recount_others(&mut self, key: &(ProviderId, String)) {
        let jobs: u32 = self.peers.values().filter_map(|peer| peer.running.get(key)).sum();
        let known = self.loads.get(&key.0).is_some_and(|models| models.contains_key(&key.1));
        if known || jobs > 0 {
            self.load(&key.0, &key.1).set_others(jobs);
        }
        if let Some(model) = self.models.get(&key.1) {
            model.seats.get(&key.0).into_iter().for_each(|seat| seat.look());
            model.queue.wake_one();
        }
    }
}

impl ModelMembers {
    /// Puts the model into a snapshot, under each of its names.
    fn publish(&self, models: &mut HashMap<String, Arc<ModelSeats>>) {
        let seats = self.to_seats();
        for name in std::iter::once(self.entry.id.as_str()).chain(self.entry.aliases.iter().map(String::as_str)) {
            models.insert(name.to_owned(), seats.clone());
        }
    }

    fn to_seats(&self) -> Arc<ModelSeats> {
        let seats: Vec<Arc<Seat>> = self.seats.values().cloned().collect();
        let mut supported = ParameterSet::default();
        seats.iter().flat_map(|seat| seat.supported.iter()).for_each(|parameter| supported.insert(parameter));
        let (entry, queue, health) = (self.entry.clone(), self.queue.clone(), self.health.clone());
        let seats = Roster::new(seats, self.second);
        Arc::new(ModelSeats { entry, seats, queue, health, supported })
    }
}

/// Whether the catalogue, the price cap and the provider's standing allow what is offered.
fn is_acceptable(entry: &CatalogueModel, standing: Standing, offer: &ModelOffer) -> bool {
    let known_digest = entry.digests.is_empty() || entry.digests.contains(&offer.weights_digest);
    let fair_ask = !offer.ask.is_negative() && offer.ask.is_within(&entry.reference);
    standing != Standing::Banned && known_digest && fair_ask && offer.slots > 0
}

fn make_seat(
    model: &ModelMembers,
    (provider, standing, name): (&ProviderId, Standing, &str),
    offer: &ModelOffer,
    ways: Vec<Way>,
    (load, vitals): (Arc<Load>, Arc<Vitals>),
) -> Seat {
    Seat {
        provider: provider.clone(),
        // A stranger could call itself anything, and take what is meant for another.
        name: ProviderName::new(name).filter(|_| standing == Standing::Trusted),
        ways,
        standing,
        ask: offer.ask,
        weights_digest: offer.weights_digest.clone(),
        quantization: offer.quantization.clone(),
        resume: offer.resume,
        context_length: offer.context_length.min(model.entry.context_length),
        supported: ParameterSet::from_names(offer.supported_parameters.iter().map(String::as_str)),
        slots: offer.slots.min(MAX_SLOTS),
        vitals,
        load,
        queue: model.queue.clone(),
        fuse: model.health.fuse(provider),
    }
}

/// An order of gateways that differs from provider to provider, and is the same everywhere.
fn weight(replica: &ReplicaId, provider: &ProviderId) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    (replica, provider).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lumbung_openapi::jws::SigningKey;

    use super::*;

    #[test]
    fn who_joins_while_the_store_is_being_read_has_joined() {
        let provider = |seed: u8| ProviderId::from(SigningKey::from_seed(&[seed; 32]).public());
        let (newcomer, banned) = (provider(1), provider(2));
        let limits = FleetLimits {
            queue_length: 1,
            newcomers_need_tokenizer: false,
            poll_every: Duration::from_secs(1),
            second: NanoUsd::ZERO,
        };
        let mut members = Members::new();
        members.note_standing(&newcomer, Standing::Newcomer);
        members.note_standing(&banned, Standing::Newcomer);
        members.set_catalogue(Vec::new(), HashMap::from([(banned.clone(), Standing::Banned)]), &limits);
        assert!(members.knows(&newcomer) && !members.knows(&provider(3)));
        assert_eq!(members.standing(&banned), Standing::Banned, "what the store says counts");
    }
}
