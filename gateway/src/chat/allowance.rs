//! Allowances: money that this replica has reserved for an account and may spend without asking the database.
//!
//! In the ledger an allowance is an account of its own; its balance is at least what is left here plus every hold.
//! When the credit is too little, other replicas are asked for what they hold unused, before a request is refused.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use lumbung_openapi::money::NanoUsd;
use tokio::sync::Mutex as AsyncMutex;

use crate::domain::ids::{AccountId, AllowanceId, PostingId, ReplicaId};
use crate::store::{Bus, Reserved, Store, StoreError};

/// What is reserved at a time, unless a request needs more or a tenth of the credit is less.
const SLICE: NanoUsd = NanoUsd::from_nanos(1_000_000_000);
/// An allowance that has not been used for so long goes back.
const IDLE: Duration = Duration::from_secs(60);
/// When the books have answered for so long, whatever they were asked before is done or never will be.
const DECIDED: Duration = Duration::from_secs(300);

/// The allowances of one replica.
pub struct Allowances {
    store: Store,
    /// The way to the other replicas, if there can be any.
    bus: Option<Arc<Bus>>,
    replica: ReplicaId,
    started: Instant,
    accounts: Mutex<HashMap<AccountId, Arc<Allowance>>>,
}

/// One account's allowance at this replica.
pub struct Allowance {
    /// Whose money it is.
    pub account: AccountId,
    /// Its ledger account; known once something has been reserved.
    id: OnceLock<AllowanceId>,
    left: AtomicI64,
    /// Held by whoever reserves more, so that one reservation serves all who wait.
    reserving: AsyncMutex<()>,
    /// Reservations of which the books did not say what became of them: names that are used again.
    unsure: Mutex<Vec<Unsure>>,
    /// What is on its way back to the credit, until the books have said what became of it.
    returning: AsyncMutex<Option<Returning>>,
    /// Milliseconds since the gateway started.
    last_used: AtomicU64,
}

#[derive(Clone, Copy)]
struct Unsure {
    posting: PostingId,
    /// When the books last failed to answer.
    since: Instant,
}

#[derive(Clone, Copy)]
struct Returning {
    /// Names it in the books, so that it is given back once however often that is tried.
    posting: PostingId,
    amount: NanoUsd,
}

/// Why nothing could be held.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// The account has less than that.
    #[error("not enough credit")]
    InsufficientCredit,
    /// The books cannot be reached.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Money held for one job. What is not spent returns to the allowance when this is dropped.
pub struct Hold {
    allowance: Arc<Allowance>,
    /// Nano-dollars; grows while the answer does.
    amount: AtomicI64,
}

impl Allowances {
    /// None yet.
    pub fn new(store: Store, bus: Option<Arc<Bus>>, replica: ReplicaId) -> Self {
        Self { store, bus, replica, started: Instant::now(), accounts: Mutex::default() }
    }

    /// The allowance of an account, empty at first.
    pub fn of(&self, account: &AccountId) -> Arc<Allowance> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || {
            Arc::new(Allowance {
                account: *account,
                id: OnceLock::new(),
                left: AtomicI64::new(0),
                reserving: AsyncMutex::new(()),
                unsure: Mutex::default(),
                returning: AsyncMutex::new(None),
                last_used: AtomicU64::new(0),
            })
        };
        accounts.entry(*account).or_insert_with(fresh).clone()
    }

    /// Holds money for a job: from memory where there is enough, otherwise by one reservation in the database.
    pub async fn hold(&self, allowance: &Arc<Allowance>, amount: NanoUsd) -> Result<Hold, HoldError> {
        allowance.last_used.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
        if !allowance.take(amount) {
            // Whoever was here before us may have reserved enough for both.
            let _reserving = allowance.reserving.lock().await;
            while !allowance.take(amount) {
                self.reserve(allowance, amount).await?;
            }
        }
        Ok(Hold::new(allowance, amount))
    }

    /// Adds at least what is missing to `amount`. Requests that need less may take it before the caller does.
    async fn reserve(&self, allowance: &Arc<Allowance>, amount: NanoUsd) -> Result<(), HoldError> {
        if self.try_reserve(allowance, amount).await? {
            return Ok(());
        }
        let Some(bus) = &self.bus else { return Err(HoldError::InsufficientCredit) };
        if self.store.set_aside_elsewhere(&allowance.account, &self.replica).await? == NanoUsd::ZERO {
            return Err(HoldError::InsufficientCredit);
        }
        bus.recall(&allowance.account).await;
        match self.try_reserve(allowance, amount).await? {
            true => Ok(()),
            false => Err(HoldError::InsufficientCredit),
        }
    }

    /// One reservation; `false`: the credit is too little. In a task of its own: whoever asked may leave before it is
    /// decided, and what has been set aside by then must be known here, or nobody could spend it or give it back.
    async fn try_reserve(&self, allowance: &Arc<Allowance>, amount: NanoUsd) -> Result<bool, HoldError> {
        let short = amount.nanos() - allowance.left.load(Ordering::Acquire).clamp(0, amount.nanos());
        let (store, replica, allowance) = (self.store.clone(), self.replica, allowance.clone());
        let reserving = tokio::spawn(async move {
            // An earlier one may have happened though it seemed to fail: under the same name it happens once.
            let earlier = allowance.unsure().pop();
            let posting = earlier.map_or_else(PostingId::fresh, |unsure| unsure.posting);
            let short = NanoUsd::from_nanos(short);
            match store.reserve_once(&allowance.account, &replica, short, SLICE, posting, earlier.is_some()).await {
                Ok(Some(reserved)) => {
                    allowance.add(&reserved);
                    Ok(true)
                }
                Ok(None) => {
                    allowance.unsure().extend(earlier);
                    Ok(false)
                }
                Err(error) => {
                    allowance.answer_was_lost(posting);
                    Err(error.into())
                }
            }
        });
        let cut_off = |_| Err(StoreError::Corrupt("a reservation did not come to its end".into()).into());
        reserving.await.unwrap_or_else(cut_off)
    }

    /// Has every replica give back what it holds unused of an account's money, as far as they can be asked.
    pub async fn recall(&self, account: &AccountId) -> Result<(), StoreError> {
        self.give_back_of(account).await?;
        if let Some(bus) = &self.bus {
            bus.recall(account).await;
        }
        Ok(())
    }

    /// Gives back what an account has unused here, because another replica is short of it.
    pub async fn give_back_of(&self, account: &AccountId) -> Result<(), StoreError> {
        let known = self.accounts.lock().unwrap_or_else(PoisonError::into_inner).get(account).cloned();
        match known {
            Some(allowance) => self.give_back_left(&allowance).await,
            None => Ok(()),
        }
    }

    /// Holds money from memory alone; `None` where that has too little.
    pub fn try_hold(&self, allowance: &Arc<Allowance>, amount: NanoUsd) -> Option<Hold> {
        allowance.take(amount).then(|| Hold::new(allowance, amount))
    }

    /// How many accounts have something here, and how much of it is free to be held.
    pub fn free(&self) -> (usize, NanoUsd) {
        let accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let left = accounts.values().map(|allowance| allowance.left.load(Ordering::Acquire)).filter(|left| *left > 0);
        let (count, sum) = left.fold((0, 0_i64), |(count, sum), left| (count + 1, sum.saturating_add(left)));
        (count, NanoUsd::from_nanos(sum))
    }

    /// Gives back what has not been used for a while, or everything when the gateway stops.
    pub async fn give_back(&self, everything: bool) -> Result<(), StoreError> {
        let now = self.started.elapsed().as_millis() as u64;
        let candidates: Vec<Arc<Allowance>> = {
            let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
            // An entry that nobody else refers to and that holds nothing need not be remembered.
            accounts.retain(|_, a| Arc::strong_count(a) > 1 || a.left.load(Ordering::Acquire) > 0 || a.is_unsettled());
            let idle =
                |a: &Allowance| now.saturating_sub(a.last_used.load(Ordering::Relaxed)) > IDLE.as_millis() as u64;
            accounts.values().filter(|a| everything || idle(a) || a.is_unsettled()).cloned().collect()
        };
        for allowance in candidates {
            self.give_back_left(&allowance).await?;
        }
        Ok(())
    }

    /// Asks the books what became of reservations that seemed to fail.
    async fn resolve(&self, allowance: &Allowance) -> Result<(), StoreError> {
        let unsure = std::mem::take(&mut *allowance.unsure());
        for (at, one) in unsure.iter().enumerate() {
            match self.store.reservation(one.posting).await {
                Ok(Some(reserved)) => allowance.add(&reserved),
                Ok(None) if one.since.elapsed() > DECIDED => {}
                Ok(None) => allowance.unsure().push(*one),
                Err(error) => {
                    let again = |one: &Unsure| Unsure { since: Instant::now(), ..*one };
                    allowance.unsure().extend(unsure[at..].iter().map(again));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    async fn give_back_left(&self, allowance: &Allowance) -> Result<(), StoreError> {
        self.resolve(allowance).await?;
        let Some(id) = allowance.id.get() else { return Ok(()) };
        let mut returning = allowance.returning.lock().await;
        if let Some(earlier) = *returning {
            self.store.give_back_once(id, earlier.amount, earlier.posting).await?;
            *returning = None;
        }
        let left = allowance.left.swap(0, Ordering::AcqRel);
        if left > 0 {
            // On an error it is unknown whether it went through: then it is tried again, under the same id.
            let now = returning.insert(Returning { posting: PostingId::fresh(), amount: NanoUsd::from_nanos(left) });
            self.store.give_back_once(id, now.amount, now.posting).await?;
            *returning = None;
        }
        Ok(())
    }
}

impl Allowance {
    /// Whether the books must be asked again what became of something.
    fn is_unsettled(&self) -> bool {
        !self.unsure().is_empty() || self.returning.try_lock().map_or(true, |returning| returning.is_some())
    }

    /// Remembers a reservation of which the books did not say what became of it.
    pub fn answer_was_lost(&self, posting: PostingId) {
        self.unsure().push(Unsure { posting, since: Instant::now() });
    }

    fn unsure(&self) -> MutexGuard<'_, Vec<Unsure>> {
        self.unsure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, reserved: &Reserved) {
        self.id.get_or_init(|| reserved.allowance);
        self.left.fetch_add(reserved.amount.nanos(), Ordering::AcqRel);
    }

    /// Takes from what is left. Not before something has been reserved: a hold names the ledger account that pays.
    fn take(&self, amount: NanoUsd) -> bool {
        if self.id.get().is_none() {
            return false;
        }
        let take = |left: i64| (left >= amount.nanos()).then(|| left - amount.nanos());
        self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).is_ok()
    }
}

impl Hold {
    fn new(allowance: &Arc<Allowance>, amount: NanoUsd) -> Self {
        Self { allowance: allowance.clone(), amount: AtomicI64::new(amount.nanos()) }
    }

    /// The ledger account that pays.
    pub fn allowance(&self) -> &AllowanceId {
        self.allowance.id.get().expect("a hold exists only once something has been reserved")
    }

    /// Whose money it is.
    pub fn account(&self) -> &AccountId {
        &self.allowance.account
    }

    /// How much is held.
    pub fn amount(&self) -> NanoUsd {
        NanoUsd::from_nanos(self.amount.load(Ordering::Relaxed))
    }

    /// Adds what else is held for the same job, from the same allowance.
    pub fn add(&self, more: Self) {
        debug_assert!(Arc::ptr_eq(&self.allowance, &more.allowance));
        self.amount.fetch_add(more.amount.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Spends part of it; the rest returns to the allowance.
    pub fn spend(self, charge: NanoUsd) {
        debug_assert!(charge <= self.amount());
        let left = self.amount().checked_sub(charge).unwrap_or(NanoUsd::ZERO);
        self.amount.store(left.nanos().max(0), Ordering::Relaxed);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.allowance.left.fetch_add(self.amount().nanos(), Ordering::AcqRel);
    }
}
