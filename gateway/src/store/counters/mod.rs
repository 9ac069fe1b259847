//! Counters of limits that all replicas share, in Redis. An exchange is one script, so what it looks at and what it
//! changes happen at one moment, on Redis' own clock. Every key expires. What is kept there are ids, counts and amounts.
//!
//! Losing all of it costs accuracy for a moment and no money: what is spent is in the books.

mod script;

use std::time::Duration;

use lumbung_openapi::money::NanoUsd;
use redis::{ErrorKind, RedisError};
use ulid::Ulid;

use self::script::Script;
use super::{Redis, Store, StoreError};
use crate::domain::ids::ReplicaId;
use crate::domain::limits::{
    Caps, LineOwner, MoneyReply, Period, PlacesReply, RateReply, RateReport, Reply, Report, Share,
};

/// What every key's name begins with; the books' id follows, because several networks may use one Redis.
const PREFIX: &str = "lumbung:limits:";
/// How long a request waits for an exchange.
const PATIENCE: Duration = Duration::from_millis(500);
/// A replica that has not been heard of for so long is not counted any more.
const GONE: Duration = Duration::from_secs(5);
/// The places of a replica that has not been heard of for so long are free again.
const PLACES_KEPT: Duration = Duration::from_secs(5);
/// So is its money. Receipts of jobs that it did not live to settle have come by then, as a rule.
const MONEY_KEPT: Duration = Duration::from_secs(120);

/// The shared counters.
pub struct Counters {
    redis: Redis,
    prefix: String,
    replica: ReplicaId,
    exchange: Script,
    read: Script,
    seen: Script,
}

/// The shared counters cannot be reached, or do not answer in time.
#[derive(Debug, thiserror::Error)]
#[error("the shared counters cannot be reached: {0}")]
pub struct CountersAway(RedisError);

/// What the counters answer.
type Result<T> = std::result::Result<T, CountersAway>;

/// A reading of the books that the counters wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading(String);

impl Counters {
    /// The counters of all replicas on these books.
    pub async fn open(redis: Redis, store: &Store, replica: ReplicaId) -> std::result::Result<Self, StoreError> {
        let prefix = format!("{PREFIX}{}:", store.id().await?);
        let [exchange, read, seen] =
            [include_str!("exchange.lua"), include_str!("read.lua"), include_str!("seen.lua")].map(Script::new);
        Ok(Self { redis, prefix, replica, exchange, read, seen })
    }

    /// Tells and asks for up to two owners of one account, in one step: all of them get what they need, or none does.
    pub async fn exchange(&self, lines: &[(LineOwner, Report)]) -> Result<Vec<Reply>> {
        let replies = self.lines(lines, "").await?;
        Ok(replies.into_iter().map(|(reply, _)| reply).collect())
    }

    /// Begins a reading of the books for one owner, if nobody else does just now: [`Self::finish_reading`] must follow.
    pub async fn begin_reading(&self, owner: LineOwner, report: Report) -> Result<(Reply, Option<Reading>)> {
        let token = Ulid::generate().to_string();
        let (reply, has_begun) = self.lines(&[(owner, report)], &token).await?.pop().ok_or_else(another_form)?;
        Ok((reply, has_begun.then_some(Reading(token))))
    }

    /// What the books have of one owner, read after [`Self::begin_reading`]: `spent` in each period that `report` was of.
    pub async fn finish_reading(
        &self,
        owner: LineOwner,
        reading: Reading,
        report: &Report,
        spent: [NanoUsd; 4],
    ) -> Result<()> {
        let mut arguments = vec![reading.0];
        arguments.extend(spent.map(|amount| amount.nanos().to_string()));
        arguments.extend(Period::ALL.map(|period| period.first_day(report.today).number().to_string()));
        self.read.run::<i64>(&self.redis, &[self.name(owner)], &arguments).await.map_err(CountersAway)?;
        Ok(())
    }

    /// Says that this replica is there (or leaves), and which part of a limit is its own.
    pub async fn seen(&self, stays: bool) -> Result<Share> {
        let arguments = [self.replica.to_string(), GONE.as_micros().to_string(), i64::from(stays).to_string()];
        let key = format!("{}replicas", self.prefix);
        let mut replicas: Vec<String> = self.seen.run(&self.redis, &[key], &arguments).await.map_err(CountersAway)?;
        replicas.sort_unstable();
        let rank = replicas.iter().position(|replica| *replica == arguments[0]).unwrap_or(0);
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Ok(Share { rank: count(rank), replicas: count(replicas.len()).max(1) })
    }

    async fn lines(&self, lines: &[(LineOwner, Report)], token: &str) -> Result<Vec<(Reply, bool)>> {
        let keys: Vec<String> = lines.iter().map(|(owner, _)| self.name(*owner)).collect();
        let mut arguments =
            vec![self.replica.to_string(), PLACES_KEPT.as_micros().to_string(), MONEY_KEPT.as_micros().to_string()];
        lines.iter().for_each(|(_, report)| write(report, token, &mut arguments));
        let running = self.exchange.run::<Vec<Vec<String>>>(&self.redis, &keys, &arguments);
        let no_answer = |_| Err(RedisError::from((ErrorKind::Io, "Redis does not answer in time")));
        let answer = tokio::time::timeout(PATIENCE, running).await.unwrap_or_else(no_answer).map_err(CountersAway)?;
        if answer.len() != lines.len() {
            return Err(another_form());
        }
        answer.iter().map(|line| read(line)).collect()
    }

    /// One hash tag for all of an account's, so that a cluster keeps them together.
    fn name(&self, owner: LineOwner) -> String {
        let LineOwner { account, key } = owner;
        match key {
            Some(key) => format!("{}{{{account}}}:{key}", self.prefix),
            None => format!("{}{{{account}}}", self.prefix),
        }
    }
}

/// A line, as `exchange.lua` reads it.
fn write(report: &Report, token: &str, to: &mut Vec<String>) {
    let Report { caps, today, requests, tokens, places, money, trusting } = report;
    let limit = |limit: Option<u32>| limit.map_or_else(|| "-1".to_owned(), |limit| limit.to_string());
    for (count, rate) in [(caps.requests, requests), (caps.tokens, tokens)] {
        let RateReport { give_back, add, min, max } = rate;
        to.push(limit(count));
        to.extend([give_back, add, min, max].map(u64::to_string));
    }
    to.push(limit(caps.places));
    to.extend([places.keep, places.min, places.max].map(|count| count.to_string()));
    let Caps { budgets, .. } = caps;
    to.push(i64::from(*budgets != Default::default()).to_string());
    to.extend([money.posted, money.keep, money.min, money.max].map(|nanos| nanos.max(0).to_string()));
    to.extend([i64::from(*trusting).to_string(), token.to_owned()]);
    to.extend(Period::ALL.map(|period| budgets.of(period).map_or_else(String::new, |it| it.nanos().to_string())));
    to.extend(Period::ALL.map(|period| period.first_day(*today).number().to_string()));
}

/// A line's answer, and whether a reading has begun.
fn read(line: &[String]) -> Result<(Reply, bool)> {
    let number = |at: usize| line.get(at).and_then(|text| text.parse::<i64>().ok()).ok_or_else(another_form);
    let count = |at| Ok::<_, CountersAway>(u64::try_from(number(at)?).unwrap_or(0));
    let places = |at| Ok::<_, CountersAway>(u32::try_from(number(at)?).unwrap_or(u32::MAX));
    let rate =
        |at| Ok::<_, CountersAway>(RateReply { granted: count(at)?, used: count(at + 1)?, wait_us: number(at + 2)? });
    let mut left = [None; 4];
    for (period, left) in left.iter_mut().enumerate() {
        let text = line.get(15 + period).ok_or_else(another_form)?;
        *left = if text.is_empty() { None } else { Some(number(15 + period)?) };
    }
    let reply = Reply {
        born_us: number(0)?,
        requests: rate(1)?,
        tokens: rate(4)?,
        places: PlacesReply { granted: places(7)?, total: places(8)?, fits: number(9)? != 0 },
        money: MoneyReply {
            granted: number(10)?,
            elsewhere: number(11)?,
            fits: number(12)? != 0,
            unread: number(13)? != 0,
            left,
        },
    };
    Ok((reply, number(14)? != 0))
}

fn another_form() -> CountersAway {
    CountersAway((ErrorKind::UnexpectedReturnType, "another form of answer").into())
}
