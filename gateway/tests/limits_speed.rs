//! What a request's way through its limits costs: taken at admission, given back at the end, money posted.
//!
//! By hand, with the optimization that is shipped: `cargo nextest run --release --test limits_speed --no-capture`.

use std::sync::Arc;
use std::time::Instant;

use lumbung_gateway::chat::limits::{Gauges, Scopes};
use lumbung_gateway::domain::ids::{AccountId, KeyId, ReplicaId};
use lumbung_gateway::domain::limits::{Ask, Budgets, Limits};
use lumbung_gateway::store::Store;
use lumbung_openapi::money::NanoUsd;

const ROUNDS: u32 = 20_000;

fn everything() -> Limits {
    let usd = |text: &str| Some(text.parse().expect("an amount"));
    Limits {
        budgets: Budgets { day: usd("1000000"), week: None, month: usd("9000000"), total: None },
        requests_per_minute: Some(4_000_000_000),
        tokens_per_minute: Some(4_000_000_000),
        concurrent_requests: Some(1000),
        ..Limits::default()
    }
}

async fn take_and_give(scopes: &Arc<Scopes>) -> f64 {
    let started = Instant::now();
    for _ in 0..ROUNDS {
        let ask = Ask { tokens: 1000, ceiling: NanoUsd::from_nanos(1000) };
        let grant = scopes.admit(ask).await.expect("within every limit");
        grant.end(500, NanoUsd::from_nanos(500)).posted();
    }
    started.elapsed().as_secs_f64() * 1e9 / f64::from(ROUNDS)
}

#[tokio::test]
async fn a_request_passes_its_limits_in_memory() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(&format!("sqlite:{}", folder.path().join("books.db").display())).await.expect("books");
    let gauges = Gauges::new(store, ReplicaId::fresh(), None);
    for (name, limits) in [("no limits", Limits::default()), ("all limits", everything())] {
        let scopes = gauges.scopes(AccountId::fresh(), KeyId::fresh(), limits.clone(), limits).await.expect("scopes");
        take_and_give(&scopes).await;
        let best = [take_and_give(&scopes).await, take_and_give(&scopes).await, take_and_give(&scopes).await];
        let best = best.into_iter().fold(f64::MAX, f64::min);
        println!("{name}: {best:.0} ns a request");
        assert!(best < 100_000.0, "{name}: {best:.0} ns");
    }
}
