//! Shares the fleet: tells other gateways what this one's tunnels offer and what runs for it, and listens to them.
//!
//! No request waits for any of this. When Redis is gone, everyone goes on from what was heard last, and all of it is told and
//! read again when it is back.

use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::ticks;
use crate::chat::Gateway;
use crate::fleet::others::Heard;
use crate::store::registry::{FleetEvent, Registry, RegistryError};

/// How often this gateway says that it lives.
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// How often it tells what runs for it, where that has changed.
const TELL_RUNNING_EVERY: Duration = Duration::from_millis(100);
/// Every so many times it tells all of it, should a message have been lost.
const TELL_ALL_RUNNING: u32 = 50;
/// Changes that come within so long are told together.
const TOGETHER: Duration = Duration::from_millis(20);
/// This gateway's own beats come back to it: when nothing has for so long, the subscription is dead.
const SILENCE: Duration = Duration::from_secs(3);
/// How often everything is read, whatever events came.
const READ_EVERY: Duration = Duration::from_secs(30);
/// Pause before a lost subscription is taken up again.
const RESUBSCRIBE: Duration = Duration::from_millis(500);

/// Does all of it, for as long as it is polled.
pub async fn share(gateway: &Gateway, registry: Option<&Registry>) {
    let Some(registry) = registry else { return gateway.fleet.keep_published().await };
    tokio::join!(
        gateway.fleet.keep_published(),
        tell(gateway, registry),
        tell_running(gateway, registry),
        listen(gateway, registry)
    );
}

/// Keeps this gateway's entries up, until it drains: then it takes them away.
async fn tell(gateway: &Gateway, registry: &Registry) {
    let (mut beat, mut all, mut failing) = (ticks(BEAT_EVERY), true, false);
    loop {
        let is_beat = tokio::select! {
            _ = beat.tick() => true,
            () = gateway.fleet.changed() => false,
        };
        if gateway.life.is_draining() {
            break;
        }
        if !is_beat {
            sleep(TOGETHER).await;
        }
        let told = tell_once(gateway, registry, all).await;
        match &told {
            Ok(()) if failing => info!("other gateways hear from this one again"),
            Err(error) if !failing => warn!(%error, "other gateways do not hear from this one"),
            _ => {}
        }
        (all, failing) = (told.is_err(), told.is_err());
    }
    if let Err(error) = registry.leave().await {
        warn!(%error, "other gateways were not told that this one stops; they see it in a few seconds");
    }
}

async fn tell_once(gateway: &Gateway, registry: &Registry, all: bool) -> Result<(), RegistryError> {
    let Some(own) = gateway.fleet.own(all) else { return Ok(()) };
    if all {
        return registry.tell_all(&own.presence, &own.offers).await;
    }
    if !own.offers.is_empty() {
        return registry.change(&own.presence, &own.offers).await;
    }
    if !registry.beat(&own.presence, own.tunnels).await?
        && let Some(own) = gateway.fleet.own(true)
    {
        registry.tell_all(&own.presence, &own.offers).await?;
    }
    Ok(())
}

/// Tells what runs for this gateway: slots are the provider's, whoever asks for them.
async fn tell_running(gateway: &Gateway, registry: &Registry) {
    let (mut tick, mut number) = (ticks(TELL_RUNNING_EVERY), 0_u32);
    loop {
        tick.tick().await;
        number = number.wrapping_add(1);
        let whole = number.is_multiple_of(TELL_ALL_RUNNING);
        let jobs = gateway.fleet.own_running(whole);
        if whole || !jobs.is_empty() {
            // What is lost is made good by the next whole; `tell` says that Redis is gone.
            let _ = registry.running(whole, jobs).await;
        }
    }
}

/// Follows what the others tell, and reads it again whenever something may have been missed.
async fn listen(gateway: &Gateway, registry: &Registry) {
    loop {
        if let Err(error) = listen_once(gateway, registry).await {
            warn!(%error, "other gateways are not heard");
        }
        sleep(RESUBSCRIBE).await;
    }
}

async fn listen_once(gateway: &Gateway, registry: &Registry) -> Result<(), RegistryError> {
    let mut events = registry.events().await?;
    read_all(gateway, registry).await?;
    // Those whose entries are missing have some seconds to tell them again: Redis may have lost everything.
    gateway.fleet.forgive_silence();
    let mut read = ticks(READ_EVERY);
    read.reset();
    loop {
        let event = tokio::select! {
            event = timeout(SILENCE, events.next()) => event,
            _ = read.tick() => {
                read_all(gateway, registry).await?;
                continue;
            }
        };
        match event {
            Ok(Some(event)) => hear(gateway, registry, event).await?,
            Ok(None) => {
                warn!("the subscription to other gateways was lost");
                return Ok(());
            }
            Err(_) => {
                warn!("nothing is heard from Redis");
                return Ok(());
            }
        }
        gateway.fleet.forget_silent();
    }
}

async fn hear(gateway: &Gateway, registry: &Registry, event: FleetEvent) -> Result<(), RegistryError> {
    if let Heard::Missed(replica) = gateway.fleet.hear(event)
        && let Some(fleet) = registry.read(&replica).await?
    {
        gateway.fleet.take_over(fleet);
    }
    Ok(())
}

async fn read_all(gateway: &Gateway, registry: &Registry) -> Result<(), RegistryError> {
    let fleets = registry.read_all().await?;
    fleets.into_iter().for_each(|fleet| gateway.fleet.take_over(fleet));
    Ok(())
}
