//! The limits of keys and accounts, enforced in memory: no database stands in the way of an ordinary request.
//!
//! Counters live here and not with the remembered key, so that they survive a look-up. What was spent before is read from
//! the books once, when a budget is first needed in this process, and then only what other replicas spent, every few
//! seconds. With several replicas, rates and places therefore hold for each of them, and a budget can be overrun by what
//! the others admit between two readings; one replica alone never overruns it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lumbung_openapi::money::NanoUsd;
use tokio::sync::Mutex as AsyncMutex;

use super::clock;
use super::error::{ApiError, Limited};
use crate::domain::calendar::Day;
use crate::domain::ids::{AccountId, KeyId, ReplicaId};
use crate::domain::limits::{Ask, Denied, Gauge, Limits, Rates, Spent};
use crate::store::{Store, StoreError};

/// Counters that nobody has used for so long are forgotten: by then every bucket is full again.
const IDLE: Duration = Duration::from_secs(120);

/// Whose counters they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Owner {
    account: AccountId,
    /// `None`: the account's own, over all its keys.
    key: Option<KeyId>,
}

/// The counters of this replica.
pub struct Gauges {
    store: Store,
    replica: ReplicaId,
    owners: Mutex<HashMap<Owner, Arc<Counter>>>,
}

/// One owner's counters.
struct Counter {
    owner: Owner,
    gauge: Mutex<Gauge>,
    /// Up to when the books have been read for good, Unix microseconds; held by whoever reads them.
    read_until: AsyncMutex<i64>,
    last_used_us: AtomicI64,
}

/// A key's or an account's limits, and what it has used of them.
pub struct Scope {
    /// The limits, as the books had them when the key was looked up.
    pub limits: Limits,
    counter: Arc<Counter>,
}

/// The scopes that a request must pass: its account's and its key's, always in this order, so that nobody waits in a circle.
pub struct Scopes {
    /// The account's.
    pub account: Scope,
    /// The key's.
    pub key: Scope,
}

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

impl Gauges {
    /// Nothing counted yet.
    pub fn new(store: Store, replica: ReplicaId) -> Self {
        Self { store, replica, owners: Mutex::default() }
    }

    /// The scopes of a key, their budgets' past read from the books where that is still to be done.
    pub async fn scopes(
        &self,
        account: AccountId,
        key: KeyId,
        account_limits: Limits,
        key_limits: Limits,
    ) -> Result<Arc<Scopes>, StoreError> {
        let account_scope = Scope { counter: self.of(Owner { account, key: None }), limits: account_limits };
        let key_scope = Scope { counter: self.of(Owner { account, key: Some(key) }), limits: key_limits };
        for scope in [&account_scope, &key_scope] {
            let today = Day::of_us(clock::unix_micros());
            if let Some(since) = scope.limits.budgets.first_day(today) {
                self.read(&scope.counter, Some(since)).await?;
            }
        }
        Ok(Arc::new(Scopes { account: account_scope, key: key_scope }))
    }

    fn of(&self, owner: Owner) -> Arc<Counter> {
        let fresh = || {
            Arc::new(Counter {
                owner,
                gauge: Mutex::default(),
                read_until: AsyncMutex::new(0),
                last_used_us: AtomicI64::new(clock::unix_micros()),
            })
        };
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).entry(owner).or_insert_with(fresh).clone()
    }

    /// Reads what others have spent meanwhile, for those that have been used lately; forgets those that have not.
    pub async fn follow(&self) -> Result<(), StoreError> {
        let oldest = clock::unix_micros() - IDLE.as_micros() as i64;
        let used: Vec<Arc<Counter>> = {
            let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
            let is_used = |counter: &Counter| counter.last_used_us.load(Ordering::Relaxed) > oldest;
            // Whoever holds a reference may count at any moment: two counters of one owner would each allow all of it.
            owners.retain(|_, counter| is_used(counter) || Arc::strong_count(counter) > 1 || !counter.lock().is_idle());
            owners.values().filter(|counter| is_used(counter)).cloned().collect()
        };
        for counter in used {
            self.read(&counter, None).await?;
        }
        Ok(())
    }

    /// Reads the books: all `since` a day, if that is not known yet; otherwise what is new.
    async fn read(&self, counter: &Counter, since: Option<Day>) -> Result<(), StoreError> {
        let mut read_until = counter.read_until.lock().await;
        let since = since.filter(|since| !counter.lock().knows(*since));
        if since.is_none() && *read_until == 0 {
            return Ok(()); // no budget has been asked about
        }
        let counted = counter.lock().own();
        let Owner { account, key } = counter.owner;
        let from_us = since.map_or(*read_until, Day::start_us);
        let read = self.store.spent(&account, key.as_ref(), &self.replica, from_us).await?;
        let (mut own, mut others, mut recent) = (Spent::default(), Spent::default(), Spent::default());
        for line in &read.lines {
            let spent = match (line.is_own, line.is_recent) {
                (true, _) => &mut own,
                (false, false) => &mut others,
                (false, true) => &mut recent,
            };
            spent.add(line.day, line.amount);
        }
        match since {
            Some(since) => counter.lock().learn(since, others, recent, &own, &counted),
            None => counter.lock().follow(&others, recent, clock::unix_micros()),
        }
        *read_until = read.until_us;
        Ok(())
    }
}

impl Counter {
    /// Held for some arithmetic only, never over a wait.
    fn lock(&self) -> MutexGuard<'_, Gauge> {
        self.gauge.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Scopes {
    /// Takes what a request may come to from every limit, or from none.
    pub fn admit(self: &Arc<Self>, ask: Ask) -> Result<Grant, ApiError> {
        let now_us = clock::unix_micros();
        let (mut account, mut key) = (self.account.counter.lock(), self.key.counter.lock());
        account.check(&self.account.limits, ask, now_us).map_err(|denied| self.limited("account", denied))?;
        key.check(&self.key.limits, ask, now_us).map_err(|denied| self.limited("key", denied))?;
        account.take(&self.account.limits, ask);
        key.take(&self.key.limits, ask);
        for scope in self.both() {
            scope.counter.last_used_us.store(now_us, Ordering::Relaxed);
        }
        Ok(Grant {
            scopes: self.clone(),
            tokens: ask.tokens,
            held: AtomicI64::new(ask.ceiling.nanos()),
            is_over: false,
        })
    }

    /// Where the rates stand, of each the tighter one.
    pub fn rates(&self) -> Rates {
        let now_us = clock::unix_micros();
        let [account, key] = self.both().map(|scope| scope.counter.lock().rates(&scope.limits, now_us));
        key.tighter(account)
    }

    fn both(&self) -> [&Scope; 2] {
        [&self.account, &self.key]
    }

    fn limited(&self, whose: &'static str, denied: Denied) -> ApiError {
        ApiError::Limited(Limited { whose, denied })
    }
}

impl Grant {
    /// Sees to it that at least `total` is held of the budgets, for an answer that grows beyond what was foreseen.
    pub fn raise_to(&self, total: NanoUsd) -> Result<(), ApiError> {
        let more = NanoUsd::from_nanos(total.nanos().saturating_sub(self.held.load(Ordering::Acquire)).max(0));
        let (scopes, now_us) = (&self.scopes, clock::unix_micros());
        let (mut account, mut key) = (scopes.account.counter.lock(), scopes.key.counter.lock());
        account.afford(&scopes.account.limits, more, now_us).map_err(|denied| scopes.limited("account", denied))?;
        key.afford(&scopes.key.limits, more, now_us).map_err(|denied| scopes.limited("key", denied))?;
        account.hold(more);
        key.hold(more);
        self.held.fetch_add(more.nanos(), Ordering::AcqRel);
        Ok(())
    }

    /// The answer is over: it came to so many tokens and to this charge.
    pub fn end(mut self, tokens: u64, charge: NanoUsd) -> Unposted {
        let scopes = self.scopes.clone();
        // First held, then let go of: in between it counts twice, never not at all.
        for scope in scopes.both() {
            scope.counter.lock().hold(charge);
        }
        self.let_go(tokens);
        self.is_over = true;
        Unposted { scopes, charge }
    }

    fn let_go(&self, tokens: u64) {
        let held = NanoUsd::from_nanos(self.held.load(Ordering::Acquire));
        for scope in self.scopes.both() {
            let mut gauge = scope.counter.lock();
            gauge.end(&scope.limits, self.tokens, tokens);
            gauge.release(held);
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

impl Unposted {
    /// The books have it now.
    pub fn posted(self) {
        let now_us = clock::unix_micros();
        for scope in self.scopes.both() {
            scope.counter.lock().spend(self.charge, now_us);
        }
    }
}

impl Drop for Unposted {
    fn drop(&mut self) {
        for scope in self.scopes.both() {
            scope.counter.lock().release(self.charge);
        }
    }
}
