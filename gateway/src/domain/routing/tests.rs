//! The choice as a whole, on providers that do nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use lumbung_openapi::chat::routing::{Percentiles, Routing, Sort};
use lumbung_openapi::merkle::Hash;
use lumbung_openapi::money::{NanoUsd, TokenPrice};
use proptest::prelude::*;

use super::Candidate;
use super::cost::Work;
use super::dice::Dice;
use super::explain::Notes;
use super::names::ProviderName;
use super::prefix::Prefix;
use super::roster::{Errand, Roster, Source};
use super::vitals::{Prior, Sample, Unread, Vitals};
use super::wishes::{self, Wish};
use crate::domain::ids::ProviderId;
use crate::domain::provider::Standing;

/// Long after everyone came: all are warm.
const LATER: i64 = 1_000_000_000_000;
const SECOND: NanoUsd = NanoUsd::from_nanos(20_000);

struct Stand {
    id: ProviderId,
    name: Option<ProviderName>,
    standing: Standing,
    ask: TokenPrice,
    quantization: &'static str,
    slots: u32,
    running: AtomicU32,
    vitals: Arc<Vitals>,
}

impl Stand {
    fn new(number: usize, cents_per_mtok: i64) -> Self {
        let price = NanoUsd::from_nanos(cents_per_mtok * 10_000_000);
        Self {
            id: Hash::of(&number.to_le_bytes()).to_string().parse().expect("a thumbprint"),
            name: None,
            standing: Standing::Trusted,
            ask: TokenPrice { prompt: price, completion: price },
            quantization: "bf16",
            slots: 8,
            running: AtomicU32::new(0),
            vitals: Arc::new(Vitals::new(0)),
        }
    }

    fn take(&self) {
        self.running.fetch_add(1, Ordering::SeqCst);
        self.vitals.count(1);
        self.vitals.look(|| self.running());
    }

    fn give_back(&self) {
        self.running.fetch_sub(1, Ordering::SeqCst);
        self.vitals.count(-1);
        self.vitals.look(|| self.running());
    }
}

impl Candidate for Stand {
    fn provider(&self) -> &ProviderId {
        &self.id
    }
    fn name(&self) -> Option<&ProviderName> {
        self.name.as_ref()
    }
    fn standing(&self) -> Standing {
        self.standing
    }
    fn ask(&self) -> TokenPrice {
        self.ask
    }
    fn quantization(&self) -> &str {
        self.quantization
    }
    fn slots(&self) -> u32 {
        self.slots
    }
    fn running(&self) -> u32 {
        self.running.load(Ordering::SeqCst)
    }
    fn vitals(&self) -> &Vitals {
        &self.vitals
    }
}

fn roster(stands: impl IntoIterator<Item = Stand>) -> Roster<Stand> {
    Roster::new(stands.into_iter().map(Arc::new).collect(), SECOND)
}

fn errand<'a>(routing: &'a Routing, key: u64) -> Errand<'a> {
    let work = Work { prompt_tokens: 1000, prefix_tokens: 200, completion_tokens: 300 };
    Errand { work, prefix: Prefix { hash: key, tokens: 200 }, routing, second: SECOND, now_us: LATER }
}

/// Who is chosen, by its price in cents.
fn chosen(roster: &Roster<Stand>, routing: &Routing) -> Option<i64> {
    let chosen = roster.choose(&errand(routing, 1), &mut Dice::new(7), |_| true, |_| {})?;
    Some(roster[chosen.at].ask.prompt.nanos() / 10_000_000)
}

fn measured(stand: Stand, secs_per_prompt_token: f64, tokens_per_sec: f64) -> Stand {
    for _ in 0..100 {
        let sample = Sample {
            prompt_tokens: 936,
            first_token_secs: Some(1000.0 * secs_per_prompt_token),
            later_tokens: 200,
            later_secs: 200.0 / tokens_per_sec,
            ..Sample::default()
        };
        stand.vitals.learn(&sample, &Prior::default());
    }
    stand
}

fn only(names: &[&Stand]) -> Vec<String> {
    names.iter().map(|stand| stand.id.to_string()).collect()
}

#[test]
fn the_cheapest_of_equals_serves_and_time_is_weighed_against_price() {
    let plain = Routing::default();
    assert_eq!(chosen(&roster([Stand::new(1, 30), Stand::new(2, 20), Stand::new(3, 40)]), &plain), Some(20));
    assert_eq!(chosen(&roster([]), &plain), None);
    // Ten times as slow is worth more than a third of the price: 1300 tokens cost 0.03 cents more, but 90 s less.
    let both = || [measured(Stand::new(1, 30), 0.0005, 40.0), measured(Stand::new(2, 20), 0.005, 4.0)];
    assert_eq!(chosen(&roster(both()), &plain), Some(30));
    let sort = |sort| Routing { sort: Some(sort), ..Routing::default() };
    assert_eq!(chosen(&roster(both()), &sort(Sort::Price)), Some(20));
    assert_eq!(chosen(&roster(both()), &sort(Sort::Throughput)), Some(30));
    assert_eq!(chosen(&roster(both()), &sort(Sort::Latency)), Some(30));
}

#[test]
fn each_sort_looks_at_its_own_figure() {
    // 1: soon to begin, slow afterwards. 2: late to begin, fast afterwards. 3: neither, but cheap.
    let stands = [
        measured(Stand::new(1, 50), 0.0001, 10.0),
        measured(Stand::new(2, 60), 0.01, 200.0),
        measured(Stand::new(3, 10), 0.005, 20.0),
    ];
    let roster = roster(stands);
    for (sort, price) in [(Sort::Latency, 50), (Sort::Throughput, 60), (Sort::Price, 10)] {
        assert_eq!(chosen(&roster, &Routing { sort: Some(sort), ..Routing::default() }), Some(price), "{sort:?}");
    }
}

#[test]
fn newcomers_serve_where_nobody_else_can() {
    let newcomer = Stand { standing: Standing::Newcomer, ..Stand::new(1, 1) };
    let roster = roster([newcomer, Stand { slots: 1, ..Stand::new(2, 50) }]);
    let plain = Routing::default();
    assert_eq!(chosen(&roster, &plain), Some(50), "though the newcomer is cheaper");
    roster[0].take();
    assert_eq!(chosen(&roster, &plain), Some(1), "the other is full");
    let not_newcomers = |stand: &Stand| stand.standing != Standing::Newcomer;
    let refused = roster.choose(&errand(&plain, 1), &mut Dice::new(1), not_newcomers, |_| {});
    assert_eq!(refused, None, "an account that does not want them waits");
    assert!(!roster.has_room(not_newcomers) && roster.has_room(|_| true));
    roster[0].give_back();
    assert!(roster.has_room(not_newcomers));
}

#[test]
fn who_is_new_here_is_drawn_less_at_first() {
    let plain = Routing::default();
    let crowd: Vec<Stand> = (0..100)
        .map(|n| {
            let came = if n < 50 { LATER } else { 0 };
            Stand { vitals: Arc::new(Vitals::new(came)), ..Stand::new(n, 30) }
        })
        .collect();
    let roster = roster(crowd);
    let (mut dice, mut cold) = (Dice::new(3), 0);
    for key in 0..2000 {
        let errand = Errand { prefix: Prefix { hash: key, tokens: 0 }, ..errand(&plain, key) };
        let chosen = roster.choose(&errand, &mut dice, |_| true, |_| {}).expect("there is room");
        cold += u32::from(roster[chosen.at].vitals.warmth(LATER) < 1.0);
    }
    assert!((50..400).contains(&cold), "half of the providers got {cold} of 2000");
    let vitals = Vitals::new(LATER);
    assert!(vitals.warmth(LATER) < 0.2);
    (0..20).for_each(|_| vitals.learn(&Sample::default(), &Prior::default()));
    assert_eq!(vitals.warmth(LATER), 1.0, "jobs make warm sooner");
    assert_eq!(Vitals::new(0).warmth(LATER), 1.0, "so does time");
}

#[test]
fn the_last_free_slot_among_many_is_found() {
    let plain = Routing::default();
    for free in [0, 1, 63, 64, 500, 998, 999] {
        let roster = roster((0..1000).map(|n| Stand { slots: 1, ..Stand::new(n, 30) }));
        (0..1000).filter(|at| *at != free).for_each(|at| roster[at].take());
        let chosen = roster.choose(&errand(&plain, 1), &mut Dice::new(free as u64), |_| true, |_| {});
        assert_eq!(chosen.map(|chosen| chosen.at), Some(free));
        roster[free].take();
        assert_eq!(roster.choose(&errand(&plain, 1), &mut Dice::new(1), |_| true, |_| {}), None);
        assert!(!roster.has_room(|_| true));
        // A slot that comes free is known to the roster of now, though the job began under an older one.
        let newer = Roster::new(roster.to_vec(), SECOND);
        roster[17].give_back();
        let chosen = newer.choose(&errand(&plain, 1), &mut Dice::new(1), |_| true, |_| {});
        assert_eq!(chosen.map(|chosen| chosen.at), Some(17));
    }
}

#[test]
fn prompts_that_begin_alike_go_to_one_provider_within_its_bound() {
    let plain = Routing::default();
    let roster = roster((0..200).map(|n| Stand { slots: 16, ..Stand::new(n, 30) }));
    let (mut dice, mut owned) = (Dice::new(5), HashMap::<usize, u32>::new());
    for job in 0..1600 {
        // Half of all prompts begin alike: far more than one provider may have.
        let key = if job % 2 == 0 { 1 } else { dice.roll() };
        let bounds: Vec<u32> = roster.iter().map(|stand| roster.bound(stand, LATER)).collect();
        let chosen = roster.choose(&errand(&plain, key), &mut dice, |_| true, |_| {}).expect("there is room");
        let stand = &roster[chosen.at];
        if chosen.source == Source::Prefix {
            assert!(stand.running() < bounds[chosen.at]);
            let even = f64::from(job + 1) / 200.0;
            assert!(f64::from(stand.running() + 1) <= (1.25 * even).ceil() + 1.0, "job {job}: {}", stand.running());
            *owned.entry(chosen.at).or_default() += 1;
        }
        stand.take();
    }
    assert!(owned.values().sum::<u32>() > 300, "{owned:?}");
    // With nothing else going on, it is always the same one.
    let idle = Roster::new((0..200).map(|n| Arc::new(Stand::new(n, 30))).collect(), SECOND);
    let mut owners: Vec<usize> = (0..50)
        .map(|seed| idle.choose(&errand(&plain, 9), &mut Dice::new(seed), |_| true, |_| {}).expect("room").at)
        .collect();
    owners.dedup();
    assert_eq!(owners.len(), 1);
}

#[test]
fn wishes_name_who_may_serve() {
    let stands = || {
        [
            Stand { quantization: "int4", ..Stand::new(1, 10) },
            Stand::new(2, 20),
            Stand { quantization: "Q4_K_M", ..Stand::new(3, 30) },
        ]
    };
    let [a, b, c] = stands();
    let (ids, roster) = ([&a, &b, &c].map(|stand| stand.id.to_string()), roster(stands()));
    let named = |numbers: &[usize]| numbers.iter().map(|n| ids[*n].clone()).collect::<Vec<_>>();
    let none = Routing::default;
    for (routing, price) in [
        (Routing { order: named(&[2, 1]), ..none() }, Some(30)),
        (Routing { order: vec!["nobody".into()], ..none() }, Some(10)),
        (Routing { order: vec!["nobody".into()], allow_fallbacks: false, ..none() }, None),
        (Routing { order: named(&[1]), allow_fallbacks: false, ..none() }, Some(20)),
        (Routing { only: named(&[1, 2]), ..none() }, Some(20)),
        (Routing { only: named(&[1, 2]), order: named(&[2, 0]), ..none() }, Some(30)),
        (Routing { only: named(&[0]), ignore: named(&[0]), ..none() }, None),
        (Routing { ignore: named(&[0]), ..none() }, Some(20)),
        (Routing { ignore: named(&[0, 1, 2]), ..none() }, None),
        (Routing { quantizations: vec!["bf16"], ..none() }, Some(20)),
        (Routing { quantizations: vec!["unknown"], ..none() }, Some(30)),
        (Routing { quantizations: vec!["fp8"], ..none() }, None),
        (Routing { sort: Some(Sort::Price), ignore: named(&[0]), ..none() }, Some(20)),
    ] {
        assert_eq!(chosen(&roster, &routing), price, "{routing:?}");
        let nobody = wishes::nobody(&routing, roster.iter().map(|stand| &**stand));
        assert_eq!(nobody.is_some(), price.is_none(), "{routing:?}");
    }
    let nobody = |routing: &Routing| wishes::nobody(routing, roster.iter().map(|stand| &**stand)).map(Wish::param);
    assert_eq!(nobody(&Routing { only: named(&[0]), ignore: named(&[0]), ..none() }), Some("provider.ignore"));
    assert_eq!(nobody(&Routing { only: vec!["x".into()], ..none() }), Some("provider.only"));
    // Who is wished for and full is passed over, if others may serve.
    (0..8).for_each(|_| roster[roster.find(&ids[2]).expect("it is there")].take());
    assert_eq!(chosen(&roster, &Routing { order: named(&[2, 1]), ..none() }), Some(20));
    assert_eq!(chosen(&roster, &Routing { order: named(&[2]), allow_fallbacks: false, ..none() }), None);
}

#[test]
fn a_name_stands_for_all_who_have_it() {
    let called = |name: &str, number, cents| Stand { name: ProviderName::new(name), ..Stand::new(number, cents) };
    let roster = roster([
        called("Acme", 1, 40),
        called("acme", 2, 30),
        called("Rice Barn", 3, 20),
        Stand { standing: Standing::Newcomer, ..Stand::new(4, 10) },
    ]);
    let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let none = Routing::default;
    for (routing, price) in [
        (Routing { order: named(&["acme"]), ..none() }, Some(30)),
        (Routing { order: named(&["ACME", "rice-barn"]), ..none() }, Some(30)),
        (Routing { order: named(&["rice-barn", "acme"]), ..none() }, Some(20)),
        (Routing { only: named(&["acme"]), sort: Some(Sort::Price), ..none() }, Some(30)),
        (Routing { only: named(&["acme", "rice_barn"]), ignore: named(&["rice barn"]), ..none() }, Some(30)),
        (Routing { only: named(&["acme"]), ignore: named(&["Acme"]), ..none() }, None),
        (Routing { ignore: named(&["acme"]), ..none() }, Some(20)),
        (Routing { order: named(&["acm"]), allow_fallbacks: false, ..none() }, None),
    ] {
        assert_eq!(chosen(&roster, &routing), price, "{routing:?}");
        let nobody = wishes::nobody(&routing, roster.iter().map(|stand| &**stand));
        assert_eq!(nobody.is_some(), price.is_none(), "{routing:?}");
    }
}

#[test]
fn the_slow_come_last_where_the_client_prefers_the_fast() {
    let stands = || [measured(Stand::new(1, 10), 0.01, 10.0), measured(Stand::new(2, 90), 0.0001, 100.0)];
    let roster = roster(stands());
    let bound = |at: usize, bound| {
        let mut bounds = [None; 4];
        bounds[at] = Some(bound);
        Percentiles { bounds }
    };
    let none = Routing::default;
    for (routing, price) in [
        (Routing { sort: Some(Sort::Price), ..none() }, 10),
        (Routing { sort: Some(Sort::Price), preferred_min_throughput: bound(2, 50.0), ..none() }, 90),
        (Routing { sort: Some(Sort::Price), preferred_max_latency: bound(0, 1.0), ..none() }, 90),
        (Routing { sort: Some(Sort::Price), preferred_min_throughput: bound(0, 5000.0), ..none() }, 10),
    ] {
        assert_eq!(chosen(&roster, &routing), Some(price), "{routing:?}");
    }
    let [slow, fast] = stands();
    let ordered = Routing { order: only(&[&slow, &fast]), preferred_max_latency: bound(0, 1.0), ..none() };
    assert_eq!(chosen(&roster, &ordered), Some(10), "an order is an order");
}

#[test]
fn a_choice_can_be_explained() {
    let (plain, mut notes) = (Routing::default(), Notes::default());
    let roster = roster((0..1000).map(|n| Stand::new(n, 10 + n as i64 % 50)));
    let errand = errand(&plain, 3);
    let chosen = roster.choose(&errand, &mut Dice::new(1), |_| true, |one| notes.take(one)).expect("there is room");
    let explanation = notes.explain(&roster, &errand, "org/model", 1);
    assert_eq!((explanation.providers, explanation.compared, &*explanation.by), (1000, 3, "balance"));
    assert_eq!(explanation.candidates[0].provider, roster[chosen.at].id.as_str());
    let json = serde_json::to_string(&explanation).expect("JSON");
    assert!(json.len() < 2048 && json.is_ascii(), "{json}");
    let few = Roster::new((0..16).map(|n| Arc::new(Stand::new(n, 10 + n as i64))).collect(), SECOND);
    let mut notes = Notes::default();
    let errand = Errand { prefix: Prefix::default(), ..errand };
    few.choose(&errand, &mut Dice::new(1), |_| true, |one| notes.take(one)).expect("there is room");
    let explanation = notes.explain(&few, &errand, "org/model", 1);
    assert_eq!((explanation.compared, explanation.candidates.len()), (16, 5));
    let prices: Vec<NanoUsd> = explanation.candidates.iter().map(|candidate| candidate.price_usd).collect();
    assert!(prices.is_sorted(), "{prices:?}");
}

#[test]
fn speeds_are_learned() {
    let stand = measured(Stand::new(1, 10), 0.002, 80.0);
    let (prompt, output) = stand.vitals.speeds().expect("measured");
    assert!((0.0018..0.0022).contains(&prompt) && (74.0..84.0).contains(&output), "{prompt} {output}");
    assert!(stand.vitals.first_token_secs(0.5).is_some_and(|secs| (1.6..2.4).contains(&secs)));
    assert!(stand.vitals.reached_tokens_per_sec(0.9).is_some_and(|speed| (60.0..100.0).contains(&speed)));
    // A failure now and then makes it dearer, and is forgotten.
    let work = Work { prompt_tokens: 1000, prefix_tokens: 0, completion_tokens: 10 };
    let failures = |vitals: &Vitals| vitals.read(&Prior::default(), &work, 1, false).failures;
    let before = failures(&stand.vitals);
    (0..5).for_each(|_| stand.vitals.failed());
    let after = failures(&stand.vitals);
    assert!(before < 0.001 && after > 0.15, "{before} {after}");
    (0..100).for_each(|_| stand.vitals.learn(&Sample::default(), &Prior::default()));
    assert!(failures(&stand.vitals) < 0.01);
    assert_eq!(stand.vitals.speeds(), Some((prompt, output)), "jobs without a token tell nothing of speed");
}

#[test]
fn a_prompt_that_waits_is_counted_until_its_first_token() {
    let vitals = Arc::new(Vitals::new(0));
    let prefix = Prefix { hash: 0x1234_5678_9abc_def0, tokens: 100 };
    assert!(!vitals.has_read(prefix.hash));
    let first = Unread::send(&vitals, prefix);
    let second = Unread::send(&vitals, prefix);
    assert_eq!((first.ahead, first.expected_cached, second.ahead, second.expected_cached), (0, false, 1, true));
    assert_eq!(vitals.unread(), 2);
    first.end();
    first.end();
    drop(first);
    assert_eq!(vitals.unread(), 1);
    drop(second);
    assert_eq!((vitals.unread(), vitals.has_read(prefix.hash)), (0, true));
    vitals.returned(LATER);
    assert!(!vitals.has_read(prefix.hash), "its cache may be gone");
    // What is cached need not be read again; where it never is, nothing is expected any more.
    let (work, prior) = (Work { prompt_tokens: 1000, prefix_tokens: 100, completion_tokens: 1 }, Prior::default());
    let cached = |is_owner| vitals.read(&prior, &work, prefix.hash, is_owner).cached_tokens;
    assert_eq!((cached(false), cached(true)), (0.0, 50.0));
    drop(Unread::send(&vitals, prefix));
    assert_eq!(cached(false), 500.0);
    let never = Sample { prompt_tokens: 1000, expected_cached: true, ..Sample::default() };
    (0..60).for_each(|_| vitals.learn(&never, &prior));
    assert!(cached(false) < 2.0);
}

proptest! {
    #[test]
    fn whoever_is_chosen_has_room_and_suits(seed in any::<u64>(), size in 1_usize..80, taken in proptest::collection::vec(0_u32..4, 80), unfit in proptest::collection::vec(any::<bool>(), 80), sorted in any::<bool>()) {
        let roster = roster((0..size).map(|n| Stand { slots: 3, standing: if n % 3 == 0 { Standing::Newcomer } else { Standing::Trusted }, ..Stand::new(n, 10 + n as i64) }));
        for (at, stand) in roster.iter().enumerate() {
            (0..taken[at].min(3)).for_each(|_| stand.take());
        }
        let routing = Routing { sort: sorted.then_some(Sort::Price), ..Routing::default() };
        let fits = |stand: &Stand| !unfit[roster.find(stand.id.as_str()).expect("it is there")];
        let can = |at: usize| roster[at].has_room() && fits(&roster[at]);
        let chosen = roster.choose(&errand(&routing, seed), &mut Dice::new(seed), fits, |_| {});
        let anyone = (0..size).any(can);
        prop_assert_eq!(chosen.is_some(), anyone);
        prop_assert_eq!(roster.has_room(fits), anyone);
        if let Some(chosen) = chosen {
            prop_assert!(can(chosen.at));
            let trusted_can = (0..size).any(|at| can(at) && roster[at].standing == Standing::Trusted);
            prop_assert_eq!(roster[chosen.at].standing == Standing::Trusted, trusted_can);
            if sorted {
                let cheaper = (0..size).filter(|at| can(*at) && roster[*at].standing == roster[chosen.at].standing).any(|at| roster[at].ask.prompt < roster[chosen.at].ask.prompt);
                prop_assert!(!cheaper);
            }
        }
    }
}
