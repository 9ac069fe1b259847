//! A seat: one model that one provider serves, with a number of slots.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lumbung_openapi::money::TokenPrice;
use lumbung_openapi::parameter::ParameterSet;
use lumbung_openapi::provider::Resume;
use lumbung_telemetry::trace::Context;

use super::health::Fuse;
use super::job::{JobStream, OpenError};
use super::load::Load;
use super::queue::WaitQueue;
use super::way::Way;
use crate::domain::breaker::{Trial, Verdict};
use crate::domain::ids::ProviderId;
use crate::domain::provider::Standing;
use crate::domain::routing::Candidate;
use crate::domain::routing::names::ProviderName;
use crate::domain::routing::vitals::Vitals;

/// How long a provider counts as full after it said so; other gateways' figures take less to arrive.
const BUSY_FOR: Duration = Duration::from_millis(250);

/// What two providers must have in common for one to say what the other would have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weights {
    /// Digest of the weights.
    pub digest: String,
    /// As OpenRouter names it.
    pub quantization: String,
    /// Tokens of prompt and completion together.
    pub context_length: u32,
}

/// One model that one provider serves, as of its last offer.
pub struct Seat {
    /// Who serves it.
    pub provider: ProviderId,
    /// What it is called; only of those that are trusted.
    pub name: Option<ProviderName>,
    /// How jobs get there: the best way first.
    pub(super) ways: Vec<Way>,
    /// How far the provider is trusted.
    pub standing: Standing,
    /// What it asks, and what the client pays.
    pub ask: TokenPrice,
    /// Digest of its weights; empty where it has none to tell.
    pub weights_digest: String,
    /// How its weights are quantized, as it says.
    pub quantization: String,
    /// Whether it can go on with another's answer.
    pub resume: Resume,
    /// Tokens of prompt and completion together.
    pub context_length: u32,
    /// Which of OpenAI's parameters it honours.
    pub supported: ParameterSet,
    /// Jobs at a time.
    pub slots: u32,
    /// How fast and reliable it is; outlives tunnels and offers.
    pub vitals: Arc<Vitals>,
    /// Jobs now; outlives the offer that this seat was made from.
    pub(super) load: Arc<Load>,
    /// Who waits for a slot of this model.
    pub(super) queue: Arc<WaitQueue>,
    /// Whether it is left alone for a while.
    pub(super) fuse: Arc<Fuse>,
}

impl Seat {
    /// Takes a slot, if one is free and the provider takes jobs.
    pub fn take(self: &Arc<Self>) -> Option<Taken> {
        if !self.is_open() || !self.load.take(self.slots) {
            return None;
        }
        self.vitals.count(1);
        self.look();
        Some(Taken { trial: Some(self.fuse.begin()), seat: self.clone() })
    }

    /// Notes whether a slot is free, for those who look for one.
    pub(super) fn look(&self) {
        self.vitals.look(|| self.running());
    }

    /// Whether jobs go to the provider itself, not through another gateway.
    pub fn is_direct(&self) -> bool {
        matches!(self.ways.iter().find(|way| way.is_open()), Some(Way::Tunnel(_)))
    }

    /// Whether it works, as far as is known: who fails too often is left alone for a while.
    pub fn is_well(&self) -> bool {
        self.fuse.admits()
    }

    /// Whether jobs can be sent there.
    pub fn is_open(&self) -> bool {
        self.ways.iter().any(Way::is_open)
    }

    /// By what others can go on with its answers; `None` where nobody can.
    pub fn resumable_weights(&self) -> Option<Weights> {
        let is_resumable = self.resume == Resume::Tokens && !self.weights_digest.is_empty();
        is_resumable.then(|| Weights {
            digest: self.weights_digest.clone(),
            quantization: self.quantization.clone(),
            context_length: self.context_length,
        })
    }

    /// Whether it can go on with an answer of these weights.
    pub fn can_resume(&self, weights: &Weights) -> bool {
        self.resume == Resume::Tokens
            && self.weights_digest == weights.digest
            && self.quantization == weights.quantization
            && self.context_length == weights.context_length
    }

    /// Sends a job: its ticket, the client's body, and, as frames, what earlier attempts have delivered. Returns when the
    /// provider has accepted or refused. `trace` is what the provider's part of a sampled trace belongs to.
    pub async fn open_job(
        &self,
        path: &str,
        ticket: &str,
        body: &Bytes,
        history: Bytes,
        trace: Option<Context>,
    ) -> Result<JobStream, OpenError> {
        match self.ways.iter().find(|way| way.is_open()) {
            Some(way) => way.open_job(path, ticket, body, history, trace).await,
            None => Err(OpenError::NoTunnel),
        }
    }

    /// Jobs now, those of other gateways included as far as they are known.
    pub fn running(&self) -> u32 {
        self.load.total()
    }

    /// The provider has just said that every slot is taken, by jobs that this gateway does not know of yet: for a moment
    /// nothing is sent there, and requests wait in line.
    pub fn was_busy(self: &Arc<Self>) {
        self.load.set_full(true);
        self.look();
        let seat = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(BUSY_FOR).await;
            seat.load.set_full(false);
            seat.look();
            seat.queue.wake_one();
        });
    }
}

impl Candidate for Seat {
    fn provider(&self) -> &ProviderId {
        &self.provider
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
        &self.quantization
    }

    fn slots(&self) -> u32 {
        self.slots
    }

    fn running(&self) -> u32 {
        Self::running(self)
    }

    fn vitals(&self) -> &Vitals {
        &self.vitals
    }
}

/// A slot that is taken until this is dropped.
pub struct Taken {
    seat: Arc<Seat>,
    /// Until the job is over.
    trial: Option<Trial>,
}

impl Taken {
    /// The job is over; this is what it says of the provider. Where nobody says anything, it says nothing.
    pub fn judge(&mut self, verdict: Verdict) {
        self.trial.take().into_iter().for_each(|trial| self.seat.fuse.end(trial, verdict));
    }
}

impl std::ops::Deref for Taken {
    type Target = Arc<Seat>;

    fn deref(&self) -> &Arc<Seat> {
        &self.seat
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.judge(Verdict::Neither);
        self.seat.load.give_back();
        self.seat.vitals.count(-1);
        self.seat.look();
        self.seat.queue.wake_one();
    }
}
