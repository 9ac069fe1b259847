//! Background work: keeps the lease, follows changes in the books, gives back what is not used, tells the
//! operator's systems.

mod fleet;
mod webhooks;

pub mod tokenizers;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::admin::courier::Courier;
use crate::chat::Gateway;
use crate::domain::ids::AccountId;
use crate::store::registry::Registry;
use crate::store::{Bus, Store, StoreError};

/// How often the books are asked whether keys, models or standings changed: a revoked key works no longer than this.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);
/// How long the books may take to say: a connection that hangs must not keep a revoked key alive.
const FOLLOW_PATIENCE: Duration = Duration::from_secs(5);
/// How often what other replicas have spent of budgets is read.
const READ_SPENT_EVERY: Duration = Duration::from_secs(3);
/// How often providers are weighed anew, by what has been measured of them.
const WEIGH_EVERY: Duration = Duration::from_secs(5);
/// How often unused allowances and unclaimed money are looked for.
const TIDY_EVERY: Duration = Duration::from_secs(10);

/// Does all of it, until it is dropped. `stop` is cancelled when this gateway cannot go on.
pub async fn run(
    gateway: Arc<Gateway>,
    store: Store,
    bus: Option<Arc<Bus>>,
    registry: Option<Arc<Registry>>,
    courier: Arc<Courier>,
    lease: Duration,
    stop: CancellationToken,
) {
    tokio::join!(
        keep_lease(&gateway, lease, &stop),
        follow(&gateway, &store),
        tokenizers::follow(&gateway, &store),
        tidy(&gateway, &store),
        read_spent(&gateway),
        weigh(&gateway),
        gateway.gauges.keep(),
        answer_recalls(&gateway, bus.as_deref()),
        fleet::share(&gateway, registry.as_deref()),
        webhooks::gather(&store),
        webhooks::forget(&store),
        webhooks::deliver(&store, &courier)
    );
}

/// A lost lease ends this gateway, in good order: its allowances may be gone, so it can spend nothing more, and what it
/// had begun is settled as far as they still cover it. Whoever supervises it starts another.
async fn keep_lease(gateway: &Gateway, length: Duration, stop: &CancellationToken) {
    let mut tick = ticks(length / 6);
    loop {
        tick.tick().await;
        // A database that hangs must not keep the next try waiting.
        match timeout(length / 3, gateway.lease.renew()).await.unwrap_or(Err(StoreError::Silent)) {
            Ok(true) => {}
            Ok(false) => {
                error!("the lease on the books was lost: this gateway stops");
                return stop.cancel();
            }
            Err(error) => failed(gateway, "lease", &error),
        }
    }
}

/// Gives back what is unused here when another replica is short of it: of an account's money, and of its budgets.
async fn answer_recalls(gateway: &Gateway, bus: Option<&Bus>) {
    let Some(bus) = bus else { return };
    bus.serve(|account: AccountId| {
        let (allowances, gauges) = (gateway.allowances.clone(), gateway.gauges.clone());
        async move {
            gauges.give_back_of(&account).await;
            if let Err(error) = allowances.give_back_of(&account).await {
                warn!(%account, %error, "a recalled allowance was not given back");
            }
        }
    })
    .await;
}

async fn follow(gateway: &Gateway, store: &Store) {
    let (mut tick, mut known) = (ticks(FOLLOW_EVERY), None);
    loop {
        tick.tick().await;
        match timeout(FOLLOW_PATIENCE, reload(gateway, store, known)).await.unwrap_or(Err(StoreError::Silent)) {
            Ok(epoch) => known = Some(epoch),
            Err(error) => failed(gateway, "follow", &error),
        }
    }
}

/// Takes over API keys, signing keys, models and standings, if they have changed since `known`.
pub async fn reload(gateway: &Gateway, store: &Store, known: Option<i64>) -> Result<i64, StoreError> {
    let epoch = store.epoch().await?;
    if known == Some(epoch) {
        return Ok(epoch);
    }
    let standings = store.providers().await?.into_iter().map(|provider| (provider.id, provider.standing)).collect();
    gateway.fleet.set_catalogue(store.models().await?, standings);
    gateway.keys.follow(&store.signing_keys().await?);
    gateway.keyring.set_epoch(epoch);
    Ok(epoch)
}

/// What other replicas spend is read a few seconds later, and the counters that all share are compared with it.
async fn read_spent(gateway: &Gateway) {
    let mut tick = ticks(READ_SPENT_EVERY);
    loop {
        tick.tick().await;
        if let Err(error) = gateway.gauges.follow().await {
            failed(gateway, "read_spent", &error);
        }
    }
}

async fn weigh(gateway: &Gateway) {
    let mut tick = ticks(WEIGH_EVERY);
    loop {
        tick.tick().await;
        gateway.fleet.weigh();
    }
}

async fn tidy(gateway: &Gateway, store: &Store) {
    let mut tick = ticks(TIDY_EVERY);
    loop {
        tick.tick().await;
        if let Err(error) = gateway.allowances.give_back(false).await {
            failed(gateway, "give_back", &error);
        }
        match store.release_ended(gateway.claim_window).await {
            Ok(0) => {}
            Ok(released) => info!(released, "allowances of ended replicas given back"),
            Err(error) => failed(gateway, "release_ended", &error),
        }
        if let Err(error) = store.forget_idempotency_keys().await {
            failed(gateway, "forget_idempotency_keys", &error);
        }
        if let Err(error) = store.forget_audited_keys().await {
            failed(gateway, "forget_audited_keys", &error);
        }
        if let Err(error) = store.forget_challenges().await {
            failed(gateway, "forget_challenges", &error);
        }
        match store.forget_responses().await {
            Ok(0) => {}
            Ok(forgotten) => info!(forgotten, "responses that were kept long enough"),
            Err(error) => warn!(%error, "old responses not forgotten"),
        }
        if let Err(error) = store.roll_up().await {
            failed(gateway, "roll_up", &error);
        }
        if let Err(error) = store.roll_up_usage().await {
            failed(gateway, "roll_up_usage", &error);
        }
        match store.reclaim_withheld().await {
            Ok(0) => {}
            Ok(reclaimed) => info!(reclaimed, "shares without a receipt given back"),
            Err(error) => failed(gateway, "reclaim_withheld", &error),
        }
        match store.mature(gateway.holdback).await {
            Ok(0) => {}
            Ok(matured) => info!(matured, "attempts whose earnings are payable now"),
            Err(error) => failed(gateway, "mature", &error),
        }
    }
}

/// Some of it did not go through; it is tried again when its turn comes.
fn failed(gateway: &Gateway, work: &'static str, error: &StoreError) {
    gateway.meter.background_failures.count(work);
    warn!(work, %error, "background work on the books failed");
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
