//! A seat: one model that one provider serves, with a number of slots.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use lumbung_openapi::money::TokenPrice;
use lumbung_openapi::parameter::ParameterSet;
use lumbung_openapi::provider::Resume;

use super::health::Fuse;
use super::job::{JobStream, OpenError};
use super::queue::WaitQueue;
use super::tunnel::Tunnel;
use crate::domain::breaker::{Trial, Verdict};
use crate::domain::ids::ProviderId;
use crate::domain::provider::Standing;

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
    /// How jobs get there.
    pub(super) tunnel: Arc<Tunnel>,
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
    /// Jobs now; outlives the offer that this seat was made from.
    pub(super) running: Arc<AtomicU32>,
    /// Who waits for a slot of this model.
    pub(super) queue: Arc<WaitQueue>,
    /// Whether it is left alone for a while.
    pub(super) fuse: Arc<Fuse>,
}

impl Seat {
    /// Takes a slot, if one is free and the provider takes jobs.
    pub fn take(self: &Arc<Self>) -> Option<Taken> {
        if !self.is_open() {
            return None;
        }
        let take = |running| (running < self.slots).then_some(running + 1);
        self.running.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).ok()?;
        Some(Taken { trial: Some(self.fuse.begin()), seat: self.clone() })
    }

    /// Whether it works, as far as is known: who fails too often is left alone for a while.
    pub fn is_well(&self) -> bool {
        self.fuse.admits()
    }

    /// Whether jobs can be sent there.
    pub fn is_open(&self) -> bool {
        self.tunnel.is_open()
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
    /// provider has accepted or refused.
    pub async fn open_job(
        &self,
        path: &str,
        ticket: &str,
        body: &Bytes,
        history: Bytes,
    ) -> Result<JobStream, OpenError> {
        self.tunnel.open_job(path, ticket, body, history).await
    }

    /// Jobs now.
    pub fn running(&self) -> u32 {
        self.running.load(Ordering::Relaxed)
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
    type Target = Seat;

    fn deref(&self) -> &Seat {
        &self.seat
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.judge(Verdict::Neither);
        self.seat.running.fetch_sub(1, Ordering::AcqRel);
        self.seat.queue.wake_one();
    }
}
