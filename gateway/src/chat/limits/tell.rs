//! The background's part of shared limits: it tells the shared counters what was used, sets portions aside for the next
//! moment, gives back what is idle, and says now and then that this replica still has what it has.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::iter;
use tokio::time::{MissedTickBehavior, interval};

use super::link::Link;
use super::{Counter, Gauges};
use crate::chat::clock;
use crate::domain::ids::AccountId;
use crate::domain::limits::{Need, Reply, Report};
use crate::store::Reading;

/// How often it is looked for what there is to tell.
const TELL_EVERY: Duration = Duration::from_millis(250);
/// Counters that were used so lately are looked after though they have nothing.
const LATELY_US: i64 = 2_000_000;
/// Exchanges at a time.
const AT_ONCE: usize = 64;

impl Gauges {
    /// Joins the other replicas, so that the first request finds its limits shared. Does nothing without a way to them.
    pub async fn join(&self) {
        if let Some(link) = &self.link {
            link.be_seen(Duration::ZERO).await;
        }
    }

    /// Looks after the shared limits, for as long as it is polled.
    pub async fn keep(&self) {
        if let Some(link) = &self.link {
            tokio::join!(link.keep_seen(), tell_on(link), hurry_on(link));
        }
    }

    /// Gives back what an account has to spare here, because another replica is short of it.
    pub async fn give_back_of(&self, account: &AccountId) {
        let Some(link) = &self.link else { return };
        let of_account: Vec<Arc<Counter>> = {
            let listed = link.listed.lock().unwrap_or_else(PoisonError::into_inner);
            listed.iter().filter(|counter| counter.owner.account == *account).cloned().collect()
        };
        for counter in of_account {
            counter.lock().gauge.is_wanted(clock::unix_micros());
            counter.tell(link).await;
        }
    }

    /// Gives back all that is not in use, and leaves the other replicas.
    pub async fn leave(&self) {
        let Some(link) = &self.link else { return };
        let listed = std::mem::take(&mut *link.listed.lock().unwrap_or_else(PoisonError::into_inner));
        for counter in &listed {
            counter.lock().gauge.is_wanted(clock::unix_micros());
        }
        iter(listed).for_each_concurrent(AT_ONCE, async |counter| counter.tell(link).await).await;
        if let Err(away) = link.counters.seen(false).await {
            tracing::warn!(error = %away, "other replicas are not told that this one leaves");
        }
    }
}

async fn tell_on(link: &Link) {
    let mut tick = interval(TELL_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let listed = std::mem::take(&mut *link.listed.lock().unwrap_or_else(PoisonError::into_inner));
        let is_reachable = link.is_reachable();
        iter(listed).for_each_concurrent(AT_ONCE, async |counter| counter.look_after(link, is_reachable).await).await;
    }
}

async fn hurry_on(link: &Link) {
    loop {
        link.hurry.notified().await;
        let urgent = std::mem::take(&mut *link.urgent.lock().unwrap_or_else(PoisonError::into_inner));
        iter(urgent).for_each_concurrent(AT_ONCE, async |counter| counter.tell(link).await).await;
    }
}

impl Counter {
    /// A moment has passed: tells what there is to tell, and stays listed as long as there may be more.
    async fn look_after(self: Arc<Self>, link: &Link, is_reachable: bool) {
        let now_us = clock::unix_micros();
        let (is_due, confirm_us) = {
            let mut counted = self.lock();
            let caps = counted.caps;
            (counted.gauge.tick(&caps, link.mode(), link.replicas(), now_us), counted.gauge.confirm_us(&caps))
        };
        let silent_us = now_us - self.last_told_us.load(Ordering::Relaxed);
        if is_reachable && (is_due || confirm_us.is_some_and(|after_us| silent_us >= after_us)) {
            self.tell(link).await;
        }
        self.is_listed.store(false, Ordering::Release);
        if is_due || confirm_us.is_some() || now_us - self.last_used_us.load(Ordering::Relaxed) < LATELY_US {
            link.list(&self);
        }
    }

    /// One exchange for nobody in particular.
    async fn tell(&self, link: &Link) {
        let _turn = self.exchanging.lock().await;
        let report = self.report(link);
        match link.counters.exchange(&[(self.owner, report)]).await {
            Ok(replies) => replies.iter().for_each(|reply| self.take_over(&report, reply)),
            Err(away) => {
                link.lose(&away);
                self.lock().gauge.lost(&report);
            }
        }
    }

    /// Begins a reading of the books that the shared counters will take over, where they can and need to.
    pub(super) async fn begin_reading(&self) -> Option<(&Link, Reading, Report)> {
        let link = self.link.as_deref().filter(|link| link.is_reachable())?;
        if self.lock().caps.budgets == Default::default() {
            return None;
        }
        let _turn = self.exchanging.lock().await;
        let report = self.report(link);
        match link.counters.begin_reading(self.owner, report).await {
            Ok((reply, reading)) => {
                self.take_over(&report, &reply);
                Some((link, reading?, report))
            }
            Err(away) => {
                link.lose(&away);
                self.lock().gauge.lost(&report);
                None
            }
        }
    }

    fn report(&self, link: &Link) -> Report {
        let mut counted = self.lock();
        let caps = counted.caps;
        counted.gauge.report(&caps, Need::default(), 0, link.replicas(), clock::unix_micros())
    }

    fn take_over(&self, report: &Report, reply: &Reply) {
        let now_us = clock::unix_micros();
        self.last_told_us.store(now_us, Ordering::Relaxed);
        self.lock().gauge.reply(report, reply, now_us);
    }
}
