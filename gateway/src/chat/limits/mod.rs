//! The limits of keys and accounts, enforced in memory: neither database nor Redis stands in the way of an ordinary request.
//!
//! Counters live here and not with the remembered key, so that they survive a look-up. A replica that is alone counts all
//! there is. Several share counters in Redis (`link`): portions of a limit are set aside here in the background (`tell`),
//! and only where a limit is small, or nearly used up, or the portion is, does a request ask (`ask`). With Redis away
//! each replica goes on with its share.
//!
//! What was spent before is read from the books once, when a budget is first needed in this process, and then only what
//! other replicas spent, every few seconds. The shared counters are compared with what was read.

mod ask;
mod grant;
mod link;
mod tell;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex as AsyncMutex;

pub use self::grant::{Grant, Unposted};
use self::link::Link;
use super::clock;
use super::error::{ApiError, Limited};
use crate::domain::calendar::Day;
use crate::domain::ids::{AccountId, KeyId, ReplicaId};
use crate::domain::limits::{Caps, Denied, Gauge, Limits, LineOwner, Mode, Need, Period, Rates, Spent};
use crate::store::{Bus, Counters, Store, StoreError};

/// Counters that nobody has used for so long are forgotten: by then every bucket is full again.
const IDLE: Duration = Duration::from_secs(120);

/// The counters of this replica.
pub struct Gauges {
    store: Store,
    replica: ReplicaId,
    /// The way to the counters that all replicas share, if there can be others.
    link: Option<Arc<Link>>,
    owners: Mutex<HashMap<LineOwner, Arc<Counter>>>,
}

/// One owner's counters.
struct Counter {
    owner: LineOwner,
    store: Store,
    replica: ReplicaId,
    link: Option<Arc<Link>>,
    counted: Mutex<Counted>,
    /// Up to when the books have been read for good, Unix microseconds; held by whoever reads them.
    read_until: AsyncMutex<i64>,
    last_used_us: AtomicI64,
    /// Held during an exchange with the shared counters: each tells what the one before it has left.
    exchanging: AsyncMutex<()>,
    /// Requests that wait for one.
    waiting: AtomicU32,
    last_told_us: AtomicI64,
    /// When others were last asked to give back; held by whoever asks them.
    recalled_us: AsyncMutex<i64>,
    /// Whether the background looks after it.
    is_listed: AtomicBool,
}

/// A gauge, and the limits that were last seen.
#[derive(Default)]
struct Counted {
    gauge: Gauge,
    caps: Caps,
}

/// A key's or an account's limits, and what it has used of them.
pub struct Scope {
    /// The limits, as the books had them when the key was looked up.
    pub limits: Limits,
    caps: Caps,
    counter: Arc<Counter>,
}

/// The scopes that a request must pass: its account's and its key's, always in this order, so that nobody waits in a circle.
pub struct Scopes {
    /// The account's.
    pub account: Scope,
    /// The key's.
    pub key: Scope,
}

impl Gauges {
    /// Nothing counted yet. `shared`: the counters that all replicas share, and the way to the replicas.
    pub fn new(store: Store, replica: ReplicaId, shared: Option<(Counters, Arc<Bus>)>) -> Self {
        let link = shared.map(|(counters, bus)| Arc::new(Link::new(counters, bus)));
        Self { store, replica, link, owners: Mutex::default() }
    }

    /// The scopes of a key, their budgets' past read from the books where that is still to be done.
    pub async fn scopes(
        &self,
        account: AccountId,
        key: KeyId,
        account_limits: Limits,
        key_limits: Limits,
    ) -> Result<Arc<Scopes>, StoreError> {
        let scope = |key, limits: Limits| {
            let (counter, caps) = (self.of(LineOwner { account, key }), limits.caps());
            counter.lock().caps = caps;
            Scope { limits, caps, counter }
        };
        let scopes = Scopes { account: scope(None, account_limits), key: scope(Some(key), key_limits) };
        for scope in scopes.both() {
            let today = Day::of_us(clock::unix_micros());
            if let Some(since) = scope.limits.budgets.first_day(today) {
                scope.counter.learn(since).await?;
            }
        }
        Ok(Arc::new(scopes))
    }

    fn of(&self, owner: LineOwner) -> Arc<Counter> {
        let fresh = || {
            Arc::new(Counter {
                owner,
                store: self.store.clone(),
                replica: self.replica,
                link: self.link.clone(),
                counted: Mutex::default(),
                read_until: AsyncMutex::new(0),
                last_used_us: AtomicI64::new(clock::unix_micros()),
                exchanging: AsyncMutex::default(),
                waiting: AtomicU32::new(0),
                last_told_us: AtomicI64::new(0),
                recalled_us: AsyncMutex::new(0),
                is_listed: AtomicBool::new(false),
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
            owners.retain(|_, counter| {
                is_used(counter) || Arc::strong_count(counter) > 1 || !counter.lock().gauge.is_idle()
            });
            owners.values().filter(|counter| is_used(counter)).cloned().collect()
        };
        for counter in used {
            counter.follow().await?;
        }
        Ok(())
    }
}

impl Counter {
    /// Held for some arithmetic only, never over a wait.
    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mode(&self) -> Mode {
        self.link.as_ref().map_or(Mode::Alone, |link| link.mode())
    }

    /// Reads all that the books have `since` a day, if that is not known yet.
    async fn learn(&self, since: Day) -> Result<(), StoreError> {
        if !self.lock().gauge.knows(since) {
            self.compare(Some(since)).await?;
        }
        Ok(())
    }

    /// Reads what is new in the books, if there is a budget that asked about them before.
    async fn follow(&self) -> Result<(), StoreError> {
        self.compare(None).await.map(drop)
    }

    /// Reads the books, and lets the shared counters take over what they say; `false`: they wait for another replica's
    /// reading, or need none.
    async fn compare(&self, since: Option<Day>) -> Result<bool, StoreError> {
        let reading = self.begin_reading().await;
        if !self.read(since).await? {
            return Ok(false);
        }
        let Some((link, reading, report)) = reading else { return Ok(false) };
        let spent = {
            let counted = self.lock();
            Period::ALL.map(|period| counted.gauge.spent(period, report.today))
        };
        let taken_over = link.counters.finish_reading(self.owner, reading, &report, spent).await;
        if let Err(away) = &taken_over {
            link.lose(away);
        }
        Ok(taken_over.is_ok())
    }

    /// Reads the books: all `since` a day, if that is not known yet; otherwise what is new. `false`: no budget has been
    /// asked about.
    async fn read(&self, since: Option<Day>) -> Result<bool, StoreError> {
        let mut read_until = self.read_until.lock().await;
        let since = since.filter(|since| !self.lock().gauge.knows(*since));
        if since.is_none() && *read_until == 0 {
            return Ok(false);
        }
        let counted = self.lock().gauge.own();
        let LineOwner { account, key } = self.owner;
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
        let gauge = &mut self.lock().gauge;
        match since {
            Some(since) => gauge.learn(since, others, recent, &own, &counted),
            None => gauge.follow(&others, recent, clock::unix_micros()),
        }
        *read_until = read.until_us;
        Ok(true)
    }
}

impl Scopes {
    /// Where the rates stand, of each the tighter one.
    pub fn rates(&self) -> Rates {
        let (mode, now_us) = (self.account.counter.mode(), clock::unix_micros());
        let [account, key] = self.both().map(|scope| scope.counter.lock().gauge.rates(&scope.caps, mode, now_us));
        key.tighter(account)
    }

    fn both(&self) -> [&Scope; 2] {
        [&self.account, &self.key]
    }

    /// The counters of both, locked in their order.
    fn lock(&self) -> [MutexGuard<'_, Counted>; 2] {
        let account = self.account.counter.lock();
        [account, self.key.counter.lock()]
    }
}

/// Whose limit it is, in the order of [`Scopes::both`].
const WHOSE: [&str; 2] = ["account", "key"];

fn limited(which: usize, denied: Denied) -> ApiError {
    ApiError::Limited(Limited { whose: WHOSE[which], denied })
}

fn is_in_memory(needs: &[Need; 2]) -> bool {
    needs.iter().all(Need::is_none)
}
