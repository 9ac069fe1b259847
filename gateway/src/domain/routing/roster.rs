//! The providers of one model, and the choice among them.
//!
//! An ordinary request looks at three: the one that its prompt's beginning belongs to (so that the beginning is read
//! once), and two drawn at random, the cheap, fast and trusted ones more often. The lowest cost wins. With so few looked
//! at, a choice takes as long among a hundred thousand as among a hundred, and no two requests that arrive together run
//! to the same provider. Only where all three are taken are others sought, by their free slots.
//!
//! Where there are few providers all are looked at, and where the client has wishes as many as [`SCAN`].

use std::cmp::Ordering;
use std::ops::{Deref, Range};
use std::sync::Arc;

use lumbung_openapi::chat::routing::Routing;
use lumbung_openapi::money::NanoUsd;

use super::Candidate;
use super::cost::{Cost, Work, Worth, cost};
use super::dice::Dice;
use super::names::Named;
use super::prefix::Prefix;
use super::ring::{PROBES, Ring, name_hash};
use super::vacancies::Vacancies;
use super::vitals::Prior;
use super::wishes;
use crate::domain::provider::Standing;

/// Up to so many providers, all are looked at.
const FEW: usize = 16;
/// The most that are looked at for wishes, or in search of a free slot that suits.
const SCAN: usize = 4096;
/// Providers drawn at random.
const DRAWN: usize = 2;
/// Draws for each of them: some are full, some are still warming up.
const DRAWS: usize = 4;
/// Providers with a free slot that are compared when those first looked at have none.
const SPARE: usize = 2;
/// How much more than its part of the load the owner of a prefix may have (consistent hashing with bounded loads,
/// Mirrokni, Thorup and Zadimoghaddam, 2016).
const BOUND: f64 = 1.25;
/// The least weight in a draw, of the dearest, where the best has a thousand.
const LEAST_WEIGHT: f64 = 1.0;
const MOST_WEIGHT: f64 = 1000.0;
/// Points on the ring that the best has beside the one that everyone has.
const MORE_POINTS: f64 = 15.0;
/// The request that providers are weighed by, for the draw.
const TYPICAL: Work = Work { prompt_tokens: 1000, prefix_tokens: 0, completion_tokens: 300 };

/// A model's providers: trusted ones first, each part in the order of their ids.
#[derive(Debug)]
pub struct Roster<S> {
    seats: Vec<Arc<S>>,
    trusted: Tier,
    newcomers: Tier,
    vacancies: Arc<Vacancies>,
    named: Named,
    slots: u64,
    /// What is assumed of whoever has not been measured: the average of those who have.
    pub prior: Prior,
}

/// Those among whom a choice is made first, or where there is nobody else.
#[derive(Debug)]
struct Tier {
    range: Range<usize>,
    ring: Ring,
    /// Sums of the weights up to each, for the draw.
    weights: Vec<u64>,
}

/// What a choice is made for.
#[derive(Clone, Copy, Debug)]
pub struct Errand<'a> {
    /// What is asked.
    pub work: Work,
    /// How its prompt begins.
    pub prefix: Prefix,
    /// What the client wishes.
    pub routing: &'a Routing,
    /// What a second of its time is worth, where it does not say otherwise.
    pub second: NanoUsd,
    /// Unix microseconds.
    pub now_us: i64,
}

/// Why a provider was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Prompts with this beginning belong to it.
    Prefix,
    /// It was drawn.
    Draw,
    /// It has a free slot, where those looked at before have none.
    Vacancy,
    /// All were looked at, because they are few or because of the client's wishes.
    All,
}

/// A provider that was looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Considered {
    /// Its number in the roster.
    pub at: usize,
    /// Why it was.
    pub source: Source,
    /// What it would cost.
    pub cost: Cost,
    /// What comes before the cost: less is better.
    rank: Rank,
}

/// Its place in the client's order; whether it is slower than the client would like; whether it is a newcomer.
type Rank = (usize, bool, bool);

impl Considered {
    /// Which of two comes first.
    pub fn compare(&self, other: &Self) -> Ordering {
        self.rank.cmp(&other.rank).then(self.cost.total.total_cmp(&other.cost.total))
    }
}

impl<S> Deref for Roster<S> {
    type Target = [Arc<S>];

    fn deref(&self) -> &[Arc<S>] {
        &self.seats
    }
}

impl<S: Candidate> Roster<S> {
    /// Of these providers. From now on they tell this roster, and none made before, when a slot comes free.
    pub fn new(mut seats: Vec<Arc<S>>, second: NanoUsd) -> Self {
        let is_newcomer = |seat: &Arc<S>| seat.standing() == Standing::Newcomer;
        seats.sort_by(|a, b| is_newcomer(a).cmp(&is_newcomer(b)).then_with(|| a.provider().cmp(b.provider())));
        let trusted = seats.partition_point(|seat| !is_newcomer(seat));
        let (prior, vacancies) = (average(&seats), Arc::new(Vacancies::new(seats.len())));
        for (at, seat) in seats.iter().enumerate() {
            seat.vitals().stand(&vacancies, at, seat.slots(), || seat.running());
        }
        let worth = Worth::balanced(second);
        let tier = |range: Range<usize>| Tier::new(&seats, range, &prior, &worth);
        Self {
            trusted: tier(0..trusted),
            newcomers: tier(trusted..seats.len()),
            slots: seats.iter().map(|seat| u64::from(seat.slots())).sum(),
            named: Named::of(seats.iter().map(|seat| seat.name())),
            seats,
            vacancies,
            prior,
        }
    }

    /// The provider that serves at the lowest cost, of those looked at that have room and are `eligible`. `seen` is told of
    /// each of them.
    pub fn choose(
        &self,
        errand: &Errand<'_>,
        dice: &mut Dice,
        eligible: impl Fn(&S) -> bool,
        mut seen: impl FnMut(&Considered),
    ) -> Option<Considered> {
        let choice =
            Choice { roster: self, errand, worth: wishes::worth(errand.routing.sort, errand.second), eligible };
        if errand.routing.is_plain() {
            return [&self.trusted, &self.newcomers].into_iter().find_map(|tier| choice.among(tier, dice, &mut seen));
        }
        choice.by_wishes(dice, &mut seen)
    }

    /// Whether anyone who is `eligible` has a free slot.
    pub fn has_room(&self, eligible: impl Fn(&S) -> bool) -> bool {
        self.vacancies.free(0, self.seats.len(), 0).any(|at| self.seats[at].has_room() && eligible(&self.seats[at]))
    }

    /// A provider by its id.
    pub fn find(&self, provider: &str) -> Option<usize> {
        [&self.trusted, &self.newcomers].into_iter().find_map(|tier| {
            let part = &self.seats[tier.range.clone()];
            let at = part.binary_search_by(|seat| seat.provider().as_str().cmp(provider)).ok()?;
            Some(tier.range.start + at)
        })
    }

    /// Providers by an id, or by the name that they have.
    fn find_named(&self, name: &str) -> impl Iterator<Item = usize> {
        let named = self.named.find(name).iter().map(|at| *at as usize);
        self.find(name).into_iter().chain(named.take(SCAN))
    }

    /// How many jobs the owner of a prefix may have: its part of the load and a quarter more, less while it warms up.
    pub fn bound(&self, seat: &S, now_us: i64) -> u32 {
        let load = (self.vacancies.running() + 1) as f64 / self.slots.max(1) as f64;
        let bound = (BOUND * load * f64::from(seat.slots()) * seat.vitals().warmth(now_us)).ceil();
        (bound as u32).clamp(1, seat.slots())
    }
}

impl Tier {
    fn new<S: Candidate>(seats: &[Arc<S>], range: Range<usize>, prior: &Prior, worth: &Worth) -> Self {
        let costs: Vec<f64> = range.clone().map(|at| typical(&*seats[at], prior, worth)).collect();
        let best = costs.iter().copied().fold(f64::INFINITY, f64::min);
        // By the inverse square of the cost: a provider at half the cost is drawn four times as often.
        let weigh = |(at, cost): (usize, f64)| {
            let share = if cost > 0.0 { (best / cost) * (best / cost) } else { 1.0 };
            (MOST_WEIGHT * share * seats[at].reputation()).max(LEAST_WEIGHT) as u64
        };
        let weights: Vec<u64> = range.clone().zip(costs).map(weigh).collect();
        let names = range.clone().flat_map(|at| {
            let points = 1 + (weights[at - range.start] as f64 / MOST_WEIGHT * MORE_POINTS) as u64;
            let name = name_hash(seats[at].provider().as_str());
            (0..points).map(move |point| (name ^ point.wrapping_mul(0x9e37_79b9_7f4a_7c15), at as u32))
        });
        let ring = Ring::new(names);
        let sums = weights.iter().scan(0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        });
        Self { ring, weights: sums.collect(), range }
    }

    fn weight(&self, at: usize) -> f64 {
        let at = at - self.range.start;
        (self.weights[at] - at.checked_sub(1).map_or(0, |before| self.weights[before])) as f64
    }

    /// A number of this tier, the heavier the likelier.
    fn draw(&self, dice: &mut Dice) -> Option<usize> {
        let drawn = dice.below(*self.weights.last()?);
        Some(self.range.start + self.weights.partition_point(|sum| *sum <= drawn))
    }
}

/// A choice that is being made.
struct Choice<'a, S, E> {
    roster: &'a Roster<S>,
    errand: &'a Errand<'a>,
    worth: Worth,
    eligible: E,
}

impl<S: Candidate, E: Fn(&S) -> bool> Choice<'_, S, E> {
    fn among(&self, tier: &Tier, dice: &mut Dice, seen: &mut impl FnMut(&Considered)) -> Option<Considered> {
        let owner = self.owner(tier);
        if tier.range.len() <= FEW {
            let all = tier.range.clone().filter(|at| self.can_take(*at));
            return best(all.map(|at| self.consider(at, Source::All, owner == Some(at))), seen);
        }
        let drawn = (0..DRAWN).filter_map(|_| self.draw(tier, dice));
        let drawn = drawn.map(|at| self.consider(at, Source::Draw, owner == Some(at)));
        let owner = owner.map(|at| self.consider(at, Source::Prefix, true));
        best(owner.into_iter().chain(drawn), seen).or_else(|| {
            let spare = self.vacant(tier.range.clone(), dice).take(SPARE);
            best(spare.map(|at| self.consider(at, Source::Vacancy, false)), seen)
        })
    }

    /// Those that the client names, in its order; otherwise whoever it allows.
    fn by_wishes(&self, dice: &mut Dice, seen: &mut impl FnMut(&Considered)) -> Option<Considered> {
        let (roster, routing) = (self.roster, self.errand.routing);
        // Each with the place of its name in the list: several may have the same.
        let named = |names: &[String]| -> Vec<(usize, usize)> {
            let places = names.iter().enumerate();
            let found = places.flat_map(|(place, name)| roster.find_named(name).map(move |at| (place, at)));
            found.filter(|(_, at)| self.is_allowed(*at) && self.can_take(*at)).collect()
        };
        let in_order = named(&routing.order).into_iter();
        let first = best(in_order.map(|(place, at)| self.rank(at, place)), seen);
        if first.is_some() || (!routing.order.is_empty() && !routing.allow_fallbacks) {
            return first;
        }
        let others = routing.order.len();
        if !routing.only.is_empty() {
            return best(named(&routing.only).into_iter().map(|(_, at)| self.rank(at, others)), seen);
        }
        let all = self.vacant(0..roster.seats.len(), dice).filter(|at| self.is_allowed(*at));
        best(all.map(|at| self.rank(at, others)), seen)
    }

    /// The first to whom the prompt's beginning belongs that can take more. Of those that the ring names, the cheap and fast
    /// come first the more often, and always in the same order for the same beginning (weighted rendezvous hashing).
    fn owner(&self, tier: &Tier) -> Option<usize> {
        let Errand { prefix, now_us, .. } = self.errand;
        if prefix.tokens == 0 {
            return None;
        }
        let mut owners = [(f64::INFINITY, 0); PROBES];
        for (slot, (point, at)) in owners.iter_mut().zip(tier.ring.owners(prefix.hash)) {
            let at = at as usize;
            *slot = (-(1.0 - Dice::new(prefix.hash ^ point).unit()).ln() / tier.weight(at), at);
        }
        owners.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let owners = owners.iter().filter(|(score, _)| score.is_finite()).map(|(_, at)| *at);
        owners.into_iter().find(|at| {
            let seat = &self.roster.seats[*at];
            self.can_take(*at) && seat.running() < self.roster.bound(seat, *now_us)
        })
    }

    /// One of them at random. Whoever is still warming up is passed over more often than not.
    fn draw(&self, tier: &Tier, dice: &mut Dice) -> Option<usize> {
        (0..DRAWS).find_map(|_| {
            let at = tier.draw(dice)?;
            let warmth = self.roster.seats[at].vitals().warmth(self.errand.now_us);
            ((warmth >= 1.0 || dice.unit() < warmth) && self.can_take(at)).then_some(at)
        })
    }

    /// Those with a free slot, beginning anywhere.
    fn vacant(&self, range: Range<usize>, dice: &mut Dice) -> impl Iterator<Item = usize> {
        let from = range.start + dice.below(range.len() as u64) as usize;
        self.roster.vacancies.free(range.start, range.end, from).take(SCAN).filter(|at| self.can_take(*at))
    }

    fn can_take(&self, at: usize) -> bool {
        let seat = &*self.roster.seats[at];
        seat.has_room() && (self.eligible)(seat)
    }

    fn is_allowed(&self, at: usize) -> bool {
        wishes::allows(self.errand.routing, &*self.roster.seats[at])
    }

    fn consider(&self, at: usize, source: Source, is_owner: bool) -> Considered {
        let (seat, Errand { work, prefix, .. }) = (&*self.roster.seats[at], self.errand);
        let vitals = seat.vitals();
        let reading = vitals.read(&self.roster.prior, work, prefix.hash, is_owner);
        let cost = cost(work, &self.worth, &seat.ask(), &reading, vitals.unread(), seat.crowd());
        Considered { at, source, cost, rank: Rank::default() }
    }

    fn rank(&self, at: usize, place: usize) -> Considered {
        let (seat, routing, prior) = (&*self.roster.seats[at], self.errand.routing, &self.roster.prior);
        let mut considered = self.consider(at, Source::All, false);
        let is_fast = wishes::is_fast_enough(routing, seat.vitals(), prior, considered.cost.first_token_secs);
        considered.rank = (place, !is_fast, seat.standing() == Standing::Newcomer);
        considered
    }
}

fn best(considered: impl Iterator<Item = Considered>, seen: &mut impl FnMut(&Considered)) -> Option<Considered> {
    considered.inspect(|one| seen(one)).min_by(Considered::compare)
}

fn typical(seat: &impl Candidate, prior: &Prior, worth: &Worth) -> f64 {
    let reading = seat.vitals().read(prior, &TYPICAL, 0, false);
    cost(&TYPICAL, worth, &seat.ask(), &reading, 0, 0.0).total
}

/// The average speeds of those that have been measured.
fn average<S: Candidate>(seats: &[Arc<S>]) -> Prior {
    let (mut prompt, mut output, mut measured) = (0.0, 0.0, 0.0);
    for (secs_per_prompt_token, tokens_per_sec) in seats.iter().filter_map(|seat| seat.vitals().speeds()) {
        prompt += secs_per_prompt_token;
        output += tokens_per_sec;
        measured += 1.0;
    }
    match measured > 0.0 {
        true => {
            Prior { secs_per_prompt_token: prompt / measured, tokens_per_sec: output / measured, ..Prior::default() }
        }
        false => Prior::default(),
    }
}
