//! Asking the shared counters while a request waits: where a limit is small or nearly used up, or more comes at once than
//! was set aside.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::grant::{Taken, Wanted};
use super::link::Link;
use super::{Counter, Scopes, is_in_memory, limited};
use crate::chat::clock;
use crate::chat::error::ApiError;
use crate::domain::calendar::Day;
use crate::domain::limits::{Ask, Denied, LineOwner, Report};

/// Times that are asked at most: the counters may have to be compared with the books, or others to give back.
const ROUNDS: usize = 40;
/// How long another replica's reading of the books is waited for, each time.
const READ_ELSEWHERE: Duration = Duration::from_millis(30);

/// Others are asked to give back once in so long, for each account.
const RECALL_EVERY_US: i64 = 250_000;

/// What came of asking.
enum Asked {
    Taken,
    /// The counters went away, or what was in memory was taken meanwhile.
    Again,
    /// These scopes' counters must be compared with the books first.
    Unread([bool; 2]),
    /// A budget is used up, but others have set some of it aside.
    Elsewhere,
}

impl Scopes {
    /// Takes what is wanted, asking for what is not in memory. In a task of its own: whoever wants it may leave before it
    /// is decided, and what was granted by then must be known here.
    pub(super) async fn ask(self: &Arc<Self>, wanted: Wanted) -> Result<Taken, ApiError> {
        let scopes = self.clone();
        for scope in self.both() {
            scope.counter.waiting.fetch_add(1, Ordering::Relaxed);
        }
        let asking = tokio::spawn(async move {
            let taken = scopes.ask_until_decided(wanted).await;
            for scope in scopes.both() {
                scope.counter.waiting.fetch_sub(1, Ordering::Relaxed);
            }
            taken.map(|()| Taken::new(scopes, wanted))
        });
        asking.await.unwrap_or(Err(ApiError::Overloaded))
    }

    async fn ask_until_decided(&self, wanted: Wanted) -> Result<(), ApiError> {
        let Some(link) = &self.account.counter.link else { return Err(ApiError::Overloaded) };
        let mut has_recalled = false;
        let mut trusting = false;
        for _ in 0..ROUNDS {
            match self.ask_once(link, wanted, trusting, has_recalled).await? {
                Asked::Taken => return Ok(()),
                Asked::Again => {}
                Asked::Unread(which) => {
                    for scope in
                        self.both().into_iter().zip(which).filter_map(|(scope, unread)| unread.then_some(scope))
                    {
                        trusting |= !scope.counter.is_compared().await;
                    }
                }
                Asked::Elsewhere => {
                    has_recalled = true;
                    self.account.counter.recall(link).await;
                }
            }
        }
        Err(ApiError::BooksUnavailable)
    }

    /// One exchange, with both counters' turns held.
    async fn ask_once(
        &self,
        link: &Link,
        wanted: Wanted,
        trusting: bool,
        has_recalled: bool,
    ) -> Result<Asked, ApiError> {
        let _account = self.account.counter.exchanging.lock().await;
        let _key = self.key.counter.exchanging.lock().await;
        // Whoever was here before us may have got enough for both.
        let lines = match self.prepare(link, wanted, trusting)? {
            None => return Ok(Asked::Taken),
            Some(lines) if lines.is_empty() => return Ok(Asked::Again),
            Some(lines) => lines,
        };
        let reports: Vec<(LineOwner, Report)> =
            lines.iter().map(|(which, report)| (self.owner(*which), *report)).collect();
        let replies = match link.counters.exchange(&reports).await {
            Ok(replies) => replies,
            Err(away) => {
                link.lose(&away);
                for (which, report) in &lines {
                    self.both()[*which].counter.lock().gauge.lost(report);
                }
                return Ok(Asked::Again);
            }
        };
        let (mode, now_us, mut locked) = (self.account.counter.mode(), clock::unix_micros(), self.lock());
        for ((which, report), reply) in lines.iter().zip(&replies) {
            locked[*which].gauge.reply(report, reply, now_us);
            self.both()[*which].counter.last_told_us.store(now_us, Ordering::Relaxed);
        }
        let mut unread = [false; 2];
        for ((which, report), reply) in lines.iter().zip(&replies) {
            unread[*which] = reply.money.unread && report.money.min > 0;
        }
        if unread != [false; 2] {
            return Ok(Asked::Unread(unread));
        }
        for ((which, report), reply) in lines.iter().zip(&replies) {
            let Some(denied) = locked[*which].gauge.refusal(report, reply, wanted.tokens()) else { continue };
            let refused = limited(*which, denied);
            return match denied {
                Denied::Budget { .. } if reply.money.elsewhere > 0 && !has_recalled => {
                    locked[*which].gauge.doubt();
                    Ok(Asked::Elsewhere)
                }
                _ => Err(refused),
            };
        }
        // What was here beside may have been taken by another request meanwhile.
        if !is_in_memory(&self.check(&mut locked, wanted, mode, now_us)?) {
            return Ok(Asked::Again);
        }
        self.take(&mut locked, wanted, mode, now_us);
        Ok(Asked::Taken)
    }

    /// Takes what is wanted if all of it is in memory by now; otherwise what to tell and to ask for.
    fn prepare(&self, link: &Link, wanted: Wanted, trusting: bool) -> Result<Option<Vec<(usize, Report)>>, ApiError> {
        let (mode, now_us, mut locked) = (self.account.counter.mode(), clock::unix_micros(), self.lock());
        let needs = self.check(&mut locked, wanted, mode, now_us)?;
        if is_in_memory(&needs) {
            self.take(&mut locked, wanted, mode, now_us);
            return Ok(None);
        }
        let mut lines = Vec::with_capacity(2);
        for (which, need) in needs.into_iter().enumerate().filter(|(_, need)| !need.is_none()) {
            let scope = self.both()[which];
            let waiting = scope.counter.waiting.load(Ordering::Relaxed).saturating_sub(1);
            let report = locked[which].gauge.report(&scope.caps, need, waiting, link.replicas(), now_us);
            lines.push((which, Report { trusting, ..report }));
        }
        Ok(Some(lines))
    }

    fn owner(&self, which: usize) -> LineOwner {
        self.both()[which].counter.owner
    }
}

impl Counter {
    /// Has other replicas give back what they have to spare of this account's budgets; once for all who wait for it.
    async fn recall(&self, link: &Link) {
        let mut last_us = self.recalled_us.lock().await;
        if clock::unix_micros() - *last_us > RECALL_EVERY_US {
            link.bus.recall(&self.owner.account).await;
            *last_us = clock::unix_micros();
        }
    }

    /// Compares the shared counters with the books, or waits for another replica that does. `false`: the books are away.
    async fn is_compared(&self) -> bool {
        let today = Day::of_us(clock::unix_micros());
        let since = self.lock().caps.budgets.first_day(today);
        match self.compare(since).await {
            Ok(true) => true,
            Ok(false) => {
                tokio::time::sleep(READ_ELSEWHERE).await;
                true
            }
            Err(error) => {
                tracing::warn!(%error, "what was spent cannot be read");
                false
            }
        }
    }
}

impl Wanted {
    fn tokens(self) -> u64 {
        match self {
            Self::Admission(Ask { tokens, .. }) => tokens,
            Self::More(_) => 0,
        }
    }
}
