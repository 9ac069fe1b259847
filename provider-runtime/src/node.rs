//! What this provider is while it runs: its models, their slots, and whether it still takes work.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lumbung_openapi::money::NanoUsd;
use lumbung_openapi::provider::Offer;
use lumbung_openapi::ticket::Ticket;
use tokio::sync::{Notify, Semaphore};

use crate::clock::local_secs;
use crate::gateway::Gateway;
use crate::holds::{Hold, Holds};
use crate::journal::Journal;
use crate::observe::Meter;
use crate::served::{Models, Served};
use crate::status::Counters;
use crate::takings::{Takings, claim};

/// Request bodies that may be read at once beyond the slots: each may hold 4 MiB before its job is known.
const SPARE_INTAKES: usize = 64;

/// What this provider says of itself.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// What it wants to be called; empty if nothing else than its id.
    pub name: String,
    /// Where it is; empty if it does not say.
    pub region: String,
    /// What it runs on.
    pub hardware: String,
}

/// This provider while it runs.
pub struct Node {
    /// Its id.
    pub provider: String,
    /// Its gateway.
    pub gateway: Arc<Gateway>,
    /// Its receipts.
    pub journal: Journal,
    /// What it has done.
    pub counters: Counters,
    /// How long it took.
    pub meter: Meter,
    /// What its receipts claimed lately.
    pub takings: Takings,
    /// Why it takes no new jobs.
    pub holds: Holds,
    /// When it started, Unix seconds by this machine's own clock.
    pub started_at: u64,
    /// May be held while a job's first frames are read.
    pub intake: Semaphore,
    /// What is served.
    pub models: Models,
    about: About,
    /// How far the gateway trusts this provider, as it told last; empty until then.
    standing: Mutex<String>,
    tunnels: Mutex<Tunnels>,
    /// How many gateways share the fleet, as they told last.
    replicas: AtomicUsize,
    /// A tunnel has ended, or there are more gateways.
    room: Notify,
}

impl Node {
    /// A provider that serves these models.
    pub fn new(provider: String, gateway: Arc<Gateway>, journal: Journal, models: Vec<Served>, about: About) -> Self {
        let slots: usize = models.iter().map(|served| served.slot_count() as usize).sum();
        Self {
            provider,
            gateway,
            journal,
            counters: Counters::default(),
            meter: Meter::default(),
            takings: Takings::default(),
            holds: Holds::default(),
            started_at: local_secs(),
            intake: Semaphore::new(slots + SPARE_INTAKES),
            models: Models::new(models),
            about,
            standing: Mutex::default(),
            tunnels: Mutex::default(),
            replicas: AtomicUsize::new(1),
            room: Notify::new(),
        }
    }

    /// What is offered now.
    pub fn offer(&self) -> Offer {
        Offer {
            draining: self.holds.any(),
            name: self.about.name.clone(),
            region: self.about.region.clone(),
            hardware: self.about.hardware.clone(),
            models: self.models.offer(),
        }
    }

    /// From now on this one is served, too.
    pub fn serve(&self, served: Served) {
        self.intake.add_permits(served.slot_count() as usize);
        self.models.add(served);
    }

    /// From now on that one takes no jobs. Those that run are finished. Returns how many do, if it was served.
    pub fn leave(&self, model: &str) -> Option<u32> {
        let slots = self.models.find(model).map_or(0, |served| served.slot_count());
        self.intake.forget_permits(slots as usize);
        self.models.remove(model)
    }

    /// From now on no job is taken, for good.
    pub fn drain(&self) {
        self.holds.set(Hold::Draining, true);
    }

    /// A job with this ticket at this model is over, in so many microseconds.
    pub fn note_job(
        &self,
        served: &Served,
        ticket: &Ticket,
        outcome: &'static str,
        (prompt, completion): (u32, u32),
        took_us: u64,
    ) {
        // Nobody pays for half a document.
        let is_paid = outcome == "complete" || !ticket.whole;
        let claimed = if is_paid { claim(ticket, prompt, completion) } else { NanoUsd::ZERO };
        self.takings.add(claimed, local_secs());
        served.tally.note(completion, claimed, took_us);
    }

    /// How far the gateway trusts this provider, as it told last; empty until then.
    pub fn standing(&self) -> String {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A gateway says how far this provider is trusted.
    pub fn set_standing(&self, standing: &str) {
        let mut known = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != standing {
            standing.clone_into(&mut known);
        }
    }

    /// The gateway replicas at the other ends of the tunnels.
    pub fn connected(&self) -> Vec<String> {
        self.tunnels().connected.iter().map(|link| link.replica.clone()).collect()
    }

    /// A replica has asked for the offer over its tunnel.
    pub fn note_asked(&self, replica: &str) {
        let connected = &mut self.tunnels().connected;
        connected.iter_mut().filter(|link| link.replica == replica).for_each(|link| link.is_asked = true);
    }

    /// The replicas that jobs may come from.
    pub fn offered_to(&self) -> Vec<String> {
        self.tunnels().connected.iter().filter(|link| link.is_asked).map(|link| link.replica.clone()).collect()
    }

    /// Notes that a tunnel to a replica is up, until the guard is dropped. `None` if there is one already: two to the same
    /// gateway are no better than one.
    pub fn connect(self: &Arc<Self>, replica: &str) -> Option<Connected> {
        let connected = &mut self.tunnels().connected;
        if connected.iter().any(|link| link.replica == replica) {
            return None;
        }
        connected.push(Link { replica: replica.to_owned(), is_asked: false });
        Some(Connected { node: self.clone(), replica: replica.to_owned() })
    }

    /// A gateway says how many share the fleet.
    pub fn count_replicas(&self, replicas: usize) {
        if self.replicas.swap(replicas, Ordering::Relaxed) < replicas {
            self.room.notify_waiters();
        }
    }

    /// Waits until one more tunnel, of so many at most, could lead to a gateway that has none yet. It counts as being
    /// dialled until the guard is dropped.
    pub async fn room_for_tunnel(self: &Arc<Self>, most: usize) -> Dialling {
        loop {
            let room = self.room.notified();
            let gateways = self.replicas.load(Ordering::Relaxed).max(self.gateway.address_count());
            {
                let mut tunnels = self.tunnels();
                if tunnels.connected.len() + tunnels.dialling < most.min(gateways) {
                    tunnels.dialling += 1;
                    return Dialling(self.clone());
                }
            }
            room.await;
        }
    }

    fn tunnels(&self) -> MutexGuard<'_, Tunnels> {
        self.tunnels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// This provider's tunnels.
#[derive(Default)]
struct Tunnels {
    connected: Vec<Link>,
    dialling: usize,
}

/// A tunnel that is up.
struct Link {
    /// The replica at the other end.
    replica: String,
    /// Whether that has asked for the offer: jobs may come.
    is_asked: bool,
}

/// A tunnel that is being dialled.
pub struct Dialling(Arc<Node>);

impl Drop for Dialling {
    fn drop(&mut self) {
        self.0.tunnels().dialling -= 1;
        self.0.room.notify_waiters();
    }
}

/// A tunnel that is up.
pub struct Connected {
    node: Arc<Node>,
    replica: String,
}

impl Drop for Connected {
    fn drop(&mut self) {
        let mut tunnels = self.node.tunnels();
        if let Some(at) = tunnels.connected.iter().position(|link| link.replica == self.replica) {
            tunnels.connected.swap_remove(at);
        }
        drop(tunnels);
        self.node.room.notify_waiters();
    }
}
