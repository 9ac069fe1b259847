//! How long a choice takes. `make bench`.

use std::sync::Arc;
use std::time::Instant;

use lumbung_gateway::domain::routing::Candidate;
use lumbung_gateway::domain::routing::cost::Work;
use lumbung_gateway::domain::routing::dice::Dice;
use lumbung_gateway::domain::routing::prefix::Prefix;
use lumbung_gateway::domain::routing::roster::{Errand, Roster};
use lumbung_openapi::chat::routing::{Routing, Sort};

use crate::policy::SECOND;
use crate::world::Stand;

const CHOICES: usize = 50_000;

/// Quantiles, because a mean would also count what else this machine does.
struct Measured {
    p50_us: f64,
    p90_us: f64,
    p99_us: f64,
}

/// Chooses, takes the slot, and gives back what was taken some choices ago, so that `taken` of all slots are taken.
fn measure(roster: &Roster<Stand>, routing: &Routing, taken: f64, choices: usize) -> Measured {
    let mut dice = Dice::new(1);
    let slots: u32 = roster.iter().map(|stand| stand.slots()).sum();
    let errand = |dice: &mut Dice, routing| Errand {
        work: Work { prompt_tokens: 1000, prefix_tokens: 200, completion_tokens: 300 },
        prefix: Prefix { hash: dice.roll(), tokens: 200 },
        routing,
        second: SECOND,
        now_us: 1_000_000_000_000,
    };
    let mut running = std::collections::VecDeque::new();
    // Without wishes, which are what takes long: only the choices below are measured.
    let plain = Routing::default();
    while (running.len() as f64) < taken * f64::from(slots) {
        let chosen = roster.choose(&errand(&mut dice, &plain), &mut dice, |_| true, |_| {}).expect("there is room");
        roster[chosen.at].take();
        running.push_back(chosen.at);
    }
    let mut spent: Vec<u64> = Vec::with_capacity(choices);
    for _ in 0..choices {
        let errand = errand(&mut dice, routing);
        let begun = Instant::now();
        let chosen = roster.choose(&errand, &mut dice, |_| true, |_| {}).expect("there is room");
        spent.push(begun.elapsed().as_nanos() as u64);
        roster[chosen.at].take();
        running.push_back(chosen.at);
        roster[running.pop_front().expect("someone runs")].give_back();
    }
    spent.sort_unstable();
    let quantile = |percent: usize| spent[choices * percent / 100] as f64 / 1000.0;
    Measured { p50_us: quantile(50), p90_us: quantile(90), p99_us: quantile(99) }
}

#[test]
#[ignore = "a measurement: make bench"]
fn a_choice_is_quick_however_many_providers_there_are() {
    let mut dice = Dice::new(1);
    let mut stands: Vec<Stand> = (0..100_000).map(|n| Stand::new(n, &mut dice)).collect();
    let (plain, sorted) = (Routing::default(), Routing { sort: Some(Sort::Price), ..Routing::default() });
    for (providers, most_us) in [(10, 5.0), (100, 5.0), (1000, 5.0), (10_000, 20.0), (100_000, 20.0)] {
        let some: Vec<Arc<Stand>> = stands.iter_mut().take(providers).map(|stand| Arc::new(stand.afresh())).collect();
        let begun = Instant::now();
        let roster = Roster::new(some, SECOND);
        let made_ms = begun.elapsed().as_secs_f64() * 1000.0;
        for taken in [0.5, 0.95] {
            let Measured { p50_us, p90_us, p99_us } = measure(&roster, &plain, taken, CHOICES);
            println!(
                "{providers:>7} providers, {:>2.0} % of slots taken: {p50_us:.2} µs a choice, p90 {p90_us:.2} µs, p99 {p99_us:.2} µs",
                100.0 * taken
            );
            assert!(p90_us < most_us, "{p90_us} µs at {providers} providers");
            (0..roster.len()).for_each(|at| (0..roster[at].running()).for_each(|_| roster[at].give_back()));
        }
        let Measured { p50_us, .. } = measure(&roster, &sorted, 0.1, 50);
        println!("{providers:>7} providers: {p50_us:.1} µs a choice by price; a roster is made in {made_ms:.1} ms");
    }
}
