//! A replica's lease: its right to spend allowances, on the database's clock. What a replica that is gone has left is
//! given back only after its lease has ended, so a replica must stop admitting before that.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use sqlx::Row;

use super::{Result, Store, StoreError, lock, sql};
use crate::domain::ids::ReplicaId;

/// A running lease.
#[derive(Clone, Debug)]
pub struct Lease {
    /// Whose it is.
    pub replica: ReplicaId,
    /// How long it runs after each renewal.
    pub length: Duration,
    /// Read before the database was asked, so the lease runs for at least `length` from here.
    renewed: Moment,
}

/// Another replica's lease is in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("replica {by} holds this database for another {seconds_left} s; a gateway without Redis must be the only one")]
pub struct LeaseHeld {
    /// Who holds it.
    pub by: ReplicaId,
    /// Seconds until it ends, unless it is renewed; rounded up.
    pub seconds_left: u64,
}

/// A moment on both of this process's clocks: the monotonic one stands still while a machine is suspended, the other one
/// can be set.
#[derive(Clone, Copy, Debug)]
struct Moment {
    monotonic: Instant,
    wall: SystemTime,
}

impl Moment {
    fn now() -> Self {
        Self { monotonic: Instant::now(), wall: SystemTime::now() }
    }

    /// The longer of the two times since; all of time where the wall clock was set back.
    fn elapsed(&self) -> Duration {
        self.monotonic.elapsed().max(self.wall.elapsed().unwrap_or(Duration::MAX))
    }
}

impl Store {
    /// Takes a lease for a replica that has had none. `exclusive` (no Redis, so no second gateway may run): refused while
    /// any other lease on this database runs; without it, only while an exclusive one does.
    pub async fn acquire_lease(
        &self,
        replica: &ReplicaId,
        length: Duration,
        exclusive: bool,
    ) -> Result<std::result::Result<Lease, LeaseHeld>> {
        sql::retrying(|| self.try_acquire_lease(replica, length, exclusive)).await
    }

    async fn try_acquire_lease(
        &self,
        replica: &ReplicaId,
        length: Duration,
        exclusive: bool,
    ) -> Result<std::result::Result<Lease, LeaseHeld>> {
        let renewed = Moment::now();
        let (clock, mine) = (self.clock(), i64::from(exclusive));
        let mut tx = self.transaction().await?;
        lock(&mut tx, "leases").await?;
        let held = format!(
            "SELECT id, CAST((ends_at - {clock} + 999999) / 1000000 AS BIGINT) FROM replicas
             WHERE ends_at > {clock} AND id <> $1 AND ($2 = 1 OR exclusive = 1) ORDER BY ends_at DESC LIMIT 1"
        );
        if let Some(row) = sql::query(held).bind(replica.to_string()).bind(mine).fetch_optional(&mut *tx).await? {
            let (by, seconds_left): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
            let by = by.parse().map_err(|_| StoreError::corrupt("a replica's id is malformed"))?;
            return Ok(Err(LeaseHeld { by, seconds_left: seconds_left.max(0).unsigned_abs() }));
        }
        let insert =
            format!("INSERT INTO replicas (id, started_at, ends_at, exclusive) VALUES ($1, {clock}, {clock} + $2, $3)");
        sql::query(insert)
            .bind(replica.to_string())
            .bind(length.as_micros() as i64)
            .bind(mine)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(Ok(Lease { replica: *replica, length, renewed }))
    }

    /// Lets a lease run for its length from now. `false`: it has ended, and cannot be renewed any more.
    pub async fn renew_lease(&self, lease: &mut Lease) -> Result<bool> {
        let renewed = Moment::now();
        let renew = format!("UPDATE replicas SET ends_at = {0} + $2 WHERE id = $1 AND ends_at > {0}", self.clock());
        let done = sql::query(renew)
            .bind(lease.replica.to_string())
            .bind(lease.length.as_micros() as i64)
            .execute(&self.writer)
            .await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        lease.renewed = renewed;
        Ok(true)
    }

    /// Lets a lease that has ended run again, if nobody has acted on its end: what its replica has reserved is still there,
    /// and no gateway that must be the only one has begun. What others have settled from receipts meanwhile stays settled.
    pub async fn revive_lease(&self, lease: &mut Lease) -> Result<bool> {
        let (renewed, clock) = (Moment::now(), self.clock());
        let mut tx = self.transaction().await?;
        lock(&mut tx, "leases").await?;
        let revive = format!(
            "UPDATE replicas SET ends_at = {clock} + $2 WHERE id = $1 AND released_at IS NULL AND NOT EXISTS
                (SELECT 1 FROM replicas other WHERE other.id <> $1 AND other.ends_at > {clock}
                 AND (other.exclusive = 1 OR replicas.exclusive = 1))"
        );
        let done = sql::query(revive)
            .bind(lease.replica.to_string())
            .bind(lease.length.as_micros() as i64)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        if done.rows_affected() == 0 {
            return Ok(false);
        }
        lease.renewed = renewed;
        Ok(true)
    }

    /// How many replicas other than this one have a lease that runs.
    pub async fn other_replicas(&self, replica: &ReplicaId) -> Result<usize> {
        let count = format!("SELECT COUNT(*) FROM replicas WHERE id <> $1 AND ends_at > {}", self.clock());
        let others: i64 = sql::query(count).bind(replica.to_string()).fetch_one(&self.reader).await?.try_get(0)?;
        Ok(usize::try_from(others).unwrap_or(0))
    }

    /// Ends a lease now, so that the next replica need not wait for it.
    pub async fn end_lease(&self, lease: &Lease) -> Result<()> {
        let end = format!("UPDATE replicas SET ends_at = {0} WHERE id = $1 AND ends_at > {0}", self.clock());
        sql::query(end).bind(lease.replica.to_string()).execute(&self.writer).await?;
        Ok(())
    }
}

/// A lease in the hands of those who spend under it.
pub struct LeaseGuard {
    store: Store,
    /// Read by every request, so without a lock.
    lease: ArcSwap<Lease>,
    lost: AtomicBool,
    ended: AtomicBool,
    margin: Duration,
    /// When it was last tried to renew it.
    tried: Mutex<Moment>,
}

impl LeaseGuard {
    /// Guards a lease; it stops counting as valid `margin` before the database would say so.
    pub fn new(store: Store, lease: Lease, margin: Duration) -> Self {
        Self {
            store,
            lease: ArcSwap::from_pointee(lease),
            lost: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            margin,
            tried: Mutex::new(Moment::now()),
        }
    }

    /// Whether something may still be spent under it. Asks nobody: reads this process's clocks only.
    pub fn is_valid(&self) -> bool {
        let lease = self.lease.load();
        let is_over = self.lost.load(Ordering::Acquire) || self.ended.load(Ordering::Acquire);
        !is_over && lease.renewed.elapsed() < lease.length.saturating_sub(self.margin)
    }

    /// Whether it ended without being [ended](Self::end): this process was frozen or cut off for longer than it ran.
    pub fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Renews it; call this several times per length. One that has ended while the books were out of reach runs again, if
    /// this process has gone on trying all the time: it knows that it has spent nothing since. `false`: it is lost for
    /// good, and this process must not go on.
    pub async fn renew(&self) -> Result<bool> {
        let mut lease = self.lease();
        let since_tried = std::mem::replace(&mut *self.tried(), Moment::now()).elapsed();
        let renewed = self.store.renew_lease(&mut lease).await?
            || (since_tried < lease.length
                && !self.ended.load(Ordering::Acquire)
                && self.store.revive_lease(&mut lease).await?);
        match renewed {
            true => self.lease.store(Arc::new(lease)),
            false => self.lost.store(true, Ordering::Release),
        }
        Ok(renewed)
    }

    fn tried(&self) -> MutexGuard<'_, Moment> {
        self.tried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it: nothing may be spent any more.
    pub async fn end(&self) -> Result<()> {
        self.ended.store(true, Ordering::Release);
        self.store.end_lease(&self.lease()).await
    }

    fn lease(&self) -> Lease {
        Lease::clone(&self.lease.load())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_a_suspended_machine_nor_a_clock_set_back_lengthens_a_lease() {
        let long_ago = Moment { monotonic: Instant::now(), wall: SystemTime::now() - Duration::from_secs(60) };
        assert!(long_ago.elapsed() >= Duration::from_secs(60), "the machine was suspended for a minute");
        let ahead = Moment { monotonic: Instant::now(), wall: SystemTime::now() + Duration::from_secs(60) };
        assert_eq!(ahead.elapsed(), Duration::MAX);
    }
}
