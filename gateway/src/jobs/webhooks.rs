//! Webhooks: writes down what the operator's endpoints are to be told, and takes it to them.

use std::time::Duration;

use tracing::{info, warn};

use super::ticks;
use crate::admin::courier::{Courier, CourierError};
use crate::chat::clock;
use crate::domain::webhook::pause;
use crate::store::{DueDelivery, Store};

/// How often what has happened is looked for.
const GATHER_EVERY: Duration = Duration::from_secs(3);
/// How often what was told long ago is looked for.
const FORGET_EVERY: Duration = Duration::from_secs(60);
/// How often deliveries that are due are looked for.
const DELIVER_EVERY: Duration = Duration::from_secs(1);

/// Writes events into the outbox.
pub(super) async fn gather(store: &Store) {
    let mut tick = ticks(GATHER_EVERY);
    loop {
        tick.tick().await;
        match store.gather_webhook_events().await {
            Ok(0) => {}
            Ok(events) => info!(events, "events for webhooks"),
            Err(error) => warn!(%error, "events for webhooks not looked for"),
        }
    }
}

/// Forgets what was told long ago.
pub(super) async fn forget(store: &Store) {
    let mut tick = ticks(FORGET_EVERY);
    loop {
        tick.tick().await;
        match store.forget_webhook_events().await {
            Ok(0) => {}
            Ok(events) => info!(events, "old events for webhooks forgotten"),
            Err(error) => warn!(%error, "old events for webhooks not forgotten"),
        }
    }
}

/// Delivers what is due; the next ones when those are done, however they went.
pub(super) async fn deliver(store: &Store, courier: &Courier) {
    let mut tick = ticks(DELIVER_EVERY);
    loop {
        tick.tick().await;
        match store.claim_webhook_deliveries().await {
            Ok(due) => {
                futures_util::future::join_all(due.iter().map(|delivery| attempt(store, courier, delivery))).await;
            }
            Err(error) => warn!(%error, "webhooks that are due not looked for"),
        }
    }
}

async fn attempt(store: &Store, courier: &Courier, delivery: &DueDelivery) {
    let answer = courier.deliver(delivery, clock::unix_secs()).await;
    let retry = pause(delivery.tries, chance());
    let (webhook, event, tries) = (delivery.webhook, delivery.event, delivery.tries);
    match &answer {
        Ok(200..=299) => {}
        Ok(status) => warn!(%webhook, %event, tries, status, "webhook not taken"),
        // Its cause says which it was: a private address, no name, no connection.
        Err(CourierError::NoAnswer(error)) => warn!(%webhook, %event, tries, ?error, "webhook not delivered"),
        Err(error) => warn!(%webhook, %event, tries, %error, "webhook not delivered"),
    }
    // Not written down, it is tried again when the claim has run out: the endpoint knows it by its id.
    if let Err(error) = store.end_webhook_try(delivery, answer.ok(), retry).await {
        warn!(%webhook, %event, %error, "how a webhook went is not in the books");
    }
}

/// Without entropy the pause is the longest.
fn chance() -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_or(0, |()| u64::from_le_bytes(bytes))
}
