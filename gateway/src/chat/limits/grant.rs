//! What an admitted request has taken of its limits, from its admission until the books have its charge.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, MutexGuard};

use lumbung_openapi::money::NanoUsd;

use super::{Counted, Scopes, is_in_memory, limited};
use crate::chat::clock;
use crate::chat::error::ApiError;
use crate::domain::limits::{Ask, EXACT_BELOW, Mode, Need};

/// What an admitted request has taken of its limits; what it did not use comes back when this is dropped.
pub struct Grant {
    scopes: Arc<Scopes>,
    tokens: u64,
    held: AtomicI64,
    is_over: bool,
}

/// What a request did cost, held against the budgets until the books have it.
pub struct Unposted {
    scopes: Arc<Scopes>,
    charge: NanoUsd,
}

/// What is wanted of the limits.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    /// A request wants to go ahead.
    Admission(Ask),
    /// A running one wants so much more of the budgets.
    More(NanoUsd),
}

/// What was taken, until whoever wanted it has it: it may have gone meanwhile.
pub(super) struct Taken {
    scopes: Arc<Scopes>,
    wanted: Wanted,
    is_kept: bool,
}

impl Scopes {
    /// Takes what a request may come to from every limit, or from none: from memory, unless a limit is small or nearly
    /// used up.
    pub async fn admit(self: &Arc<Self>, ask: Ask) -> Result<Grant, ApiError> {
        let wanted = Wanted::Admission(ask);
        if !is_in_memory(&self.try_take(wanted)?) {
            self.ask(wanted).await?.keep();
        }
        Ok(Grant {
            scopes: self.clone(),
            tokens: ask.tokens,
            held: AtomicI64::new(ask.ceiling.nanos()),
            is_over: false,
        })
    }

    /// Takes what is wanted where all of it is in memory; otherwise says what must be asked for, and takes nothing.
    fn try_take(&self, wanted: Wanted) -> Result<[Need; 2], ApiError> {
        let (mode, now_us, mut locked) = (self.account.counter.mode(), clock::unix_micros(), self.lock());
        let needs = self.check(&mut locked, wanted, mode, now_us)?;
        if is_in_memory(&needs) {
            self.take(&mut locked, wanted, mode, now_us);
        }
        Ok(needs)
    }

    /// What must be asked for before it can be taken; the first scope that is beyond a limit refuses.
    pub(super) fn check(
        &self,
        locked: &mut [MutexGuard<'_, Counted>; 2],
        wanted: Wanted,
        mode: Mode,
        now_us: i64,
    ) -> Result<[Need; 2], ApiError> {
        let mut needs = [Need::default(); 2];
        for (which, (scope, counted)) in self.both().into_iter().zip(locked).enumerate() {
            let gauge = &mut counted.gauge;
            let need = match wanted {
                Wanted::Admission(ask) => gauge.check(&scope.caps, ask, mode, now_us),
                Wanted::More(more) => gauge.afford(&scope.caps, more, mode, now_us),
            };
            needs[which] = need.map_err(|denied| limited(which, denied))?;
        }
        Ok(needs)
    }

    /// Takes it.
    pub(super) fn take(&self, locked: &mut [MutexGuard<'_, Counted>; 2], wanted: Wanted, mode: Mode, now_us: i64) {
        for (scope, counted) in self.both().into_iter().zip(locked) {
            match wanted {
                Wanted::Admission(ask) => counted.gauge.take(&scope.caps, ask, mode, now_us),
                Wanted::More(more) => counted.gauge.hold(more),
            }
            scope.counter.last_used_us.store(now_us, Ordering::Relaxed);
            if let Some(link) = scope.counter.link.as_ref().filter(|_| !scope.caps.is_empty()) {
                link.list(&scope.counter);
            }
        }
    }
}

impl Grant {
    /// Sees to it that at least `total` is held of the budgets, for an answer that grows beyond what was foreseen. `false`:
    /// other replicas must be asked first, as [`Self::raise_to`] does.
    pub fn try_raise_to(&self, total: NanoUsd) -> Result<bool, ApiError> {
        let more = self.missing(total);
        let is_taken = is_in_memory(&self.scopes.try_take(Wanted::More(more))?);
        if is_taken {
            self.held.fetch_add(more.nanos(), Ordering::AcqRel);
        }
        Ok(is_taken)
    }

    /// The same, and asks them.
    pub async fn raise_to(&self, total: NanoUsd) -> Result<(), ApiError> {
        let more = self.missing(total);
        if !is_in_memory(&self.scopes.try_take(Wanted::More(more))?) {
            self.scopes.ask(Wanted::More(more)).await?.keep();
        }
        self.held.fetch_add(more.nanos(), Ordering::AcqRel);
        Ok(())
    }

    /// The answer is over: it came to so many tokens and to this charge.
    pub fn end(mut self, tokens: u64, charge: NanoUsd) -> Unposted {
        let scopes = self.scopes.clone();
        // First held, then let go of: in between it counts twice, never not at all.
        for scope in scopes.both() {
            scope.counter.lock().gauge.hold(charge);
        }
        self.let_go(tokens);
        self.is_over = true;
        Unposted { scopes, charge }
    }

    fn missing(&self, total: NanoUsd) -> NanoUsd {
        NanoUsd::from_nanos(total.nanos().saturating_sub(self.held.load(Ordering::Acquire)).max(0))
    }

    fn let_go(&self, tokens: u64) {
        let held = NanoUsd::from_nanos(self.held.load(Ordering::Acquire));
        self.scopes.let_go(self.tokens, tokens, held);
    }
}

impl Scopes {
    /// A request is over, or did not come about.
    fn let_go(&self, asked: u64, used: u64, held: NanoUsd) {
        let mode = self.account.counter.mode();
        for scope in self.both() {
            let counter = &scope.counter;
            {
                let gauge = &mut counter.lock().gauge;
                gauge.end(&scope.caps, asked, used, mode);
                gauge.release(held);
            }
            // Where places are few, another replica may be waiting for this one.
            let is_scarce = scope.caps.places.is_some_and(|limit| limit < EXACT_BELOW);
            if let Some(link) = counter.link.as_ref().filter(|link| is_scarce && link.is_reachable()) {
                link.hasten(counter);
            }
        }
    }
}

impl Drop for Grant {
    /// No answer, or a panic on the way to it.
    fn drop(&mut self) {
        if !self.is_over {
            self.let_go(0);
        }
    }
}

impl Taken {
    pub(super) fn new(scopes: Arc<Scopes>, wanted: Wanted) -> Self {
        Self { scopes, wanted, is_kept: false }
    }

    fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        match self.wanted {
            Wanted::Admission(ask) => self.scopes.let_go(ask.tokens, 0, ask.ceiling),
            Wanted::More(more) => {
                self.scopes.both().into_iter().for_each(|scope| scope.counter.lock().gauge.release(more));
            }
        }
    }
}

impl Unposted {
    /// The books have it now.
    pub fn posted(self) {
        let (mode, now_us) = (self.scopes.account.counter.mode(), clock::unix_micros());
        for scope in self.scopes.both() {
            scope.counter.lock().gauge.spend(&scope.caps, self.charge, mode, now_us);
        }
    }
}

impl Drop for Unposted {
    fn drop(&mut self) {
        for scope in self.scopes.both() {
            scope.counter.lock().gauge.release(self.charge);
        }
    }
}
