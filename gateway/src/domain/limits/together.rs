//! Several gauges over one model of the shared counters, in any order of steps: together they keep to the limits.

use lumbung_openapi::money::NanoUsd;
use proptest::prelude::*;

use super::bucket::Bucket;
use super::{
    Ask, Budgets, Caps, Gauge, Mode, MoneyReply, Need, PlacesReply, RateReply, RateReport, Reply, Report, Share,
};

const START: i64 = 1_795_386_601_000_000;
const REPLICAS: u32 = 3;
const RATE: u32 = 300;
const PLACES: u32 = 5;
const BUDGET: i64 = 2000;

fn caps() -> Caps {
    Caps {
        requests: Some(RATE),
        tokens: Some(10 * RATE),
        places: Some(PLACES),
        budgets: Budgets { total: Some(NanoUsd::from_nanos(BUDGET)), ..Budgets::default() },
    }
}

/// What `store/counters/exchange.lua` does, in short.
#[derive(Default)]
struct Model {
    requests: Bucket,
    tokens: Bucket,
    places: [u32; REPLICAS as usize],
    money: [i64; REPLICAS as usize],
    spent: i64,
}

impl Model {
    fn exchange(&mut self, replica: usize, report: &Report, now_us: i64) -> Reply {
        let mut rates = [(&mut self.requests, report.requests, RATE), (&mut self.tokens, report.tokens, 10 * RATE)];
        let waits = rates.each_mut().map(|(bucket, report, limit)| tell(bucket, report, *limit, now_us));
        self.places[replica] = report.places.keep;
        self.spent += report.money.posted;
        self.money[replica] = report.money.keep;
        let total: u32 = self.places.iter().sum();
        let places_fit = report.places.min == 0 || total + report.places.min <= PLACES;
        let left = BUDGET - self.spent - self.money.iter().sum::<i64>();
        let money_fits = report.money.min == 0 || left >= report.money.min;
        let all = waits == [0, 0] && places_fit && money_fits;
        let mut replies = rates.map(|(bucket, report, limit)| grant(bucket, &report, limit, all));
        replies.iter_mut().zip(waits).for_each(|(reply, wait_us)| reply.wait_us = wait_us);
        let place = if all { report.places.min } else { 0 };
        self.places[replica] += place;
        let money = if all { report.money.max.min(left).max(0) } else { 0 };
        self.money[replica] += money;
        Reply {
            born_us: START,
            requests: replies[0],
            tokens: replies[1],
            places: PlacesReply { granted: place, total: total + place, fits: places_fit },
            money: MoneyReply {
                granted: money,
                fits: money_fits,
                left: [None, None, None, Some(left - money)],
                elsewhere: 0,
                unread: false,
            },
        }
    }
}

fn tell(bucket: &mut Bucket, report: &RateReport, limit: u32, now_us: i64) -> i64 {
    bucket.advance(limit, now_us);
    bucket.take(report.add as i64 - report.give_back as i64);
    if report.min == 0 { 0 } else { bucket.wait_us(limit, report.min).unwrap_or(i64::MAX) }
}

fn grant(bucket: &mut Bucket, report: &RateReport, limit: u32, all: bool) -> RateReply {
    let min = if all { report.min } else { 0 };
    let spare = (u64::from(limit) * 9 / 10).saturating_sub(bucket.used() + min) / 4;
    let granted = min + spare.min(report.max - report.min);
    bucket.take(granted as i64);
    RateReply { granted, used: bucket.used(), wait_us: 0 }
}

/// One replica with what it runs: ceilings and charges.
#[derive(Default)]
struct Replica {
    gauge: Gauge,
    running: Vec<(i64, i64)>,
}

/// Asks as `chat/limits` does: what is not in memory is asked for, once.
fn admit(replica: &mut Replica, number: usize, model: &mut Model, ask: Ask, is_away: bool, now_us: i64) -> bool {
    let mode = match is_away {
        true => Mode::Apart(Share { rank: number as u32, replicas: REPLICAS }),
        false => Mode::Shared { replicas: REPLICAS },
    };
    let Ok(need) = replica.gauge.check(&caps(), ask, mode, now_us) else { return false };
    if !need.is_none() {
        let report = replica.gauge.report(&caps(), need, 0, REPLICAS, now_us);
        let reply = model.exchange(number, &report, now_us);
        replica.gauge.reply(&report, &reply, now_us);
        if replica.gauge.refusal(&report, &reply, ask.tokens).is_some() {
            return false;
        }
        assert!(replica.gauge.check(&caps(), ask, mode, now_us).is_ok_and(|need| need.is_none()), "all was granted");
    }
    replica.gauge.take(&caps(), ask, mode, now_us);
    true
}

fn tick(replica: &mut Replica, number: usize, model: &mut Model, now_us: i64) {
    if replica.gauge.tick(&caps(), Mode::Shared { replicas: REPLICAS }, REPLICAS, now_us) {
        let report = replica.gauge.report(&caps(), Need::default(), 0, REPLICAS, now_us);
        let reply = model.exchange(number, &report, now_us);
        replica.gauge.reply(&report, &reply, now_us);
    }
}

proptest! {
    #[test]
    fn replicas_together_keep_to_every_limit(
        steps in proptest::collection::vec((0..REPLICAS as usize, 0..400_000i64, 1..60i64, 0..4u8), 1..400),
        away in proptest::option::of((0..200usize, 1..100usize)), // nothing may overflow or be counted twice then
    ) {
        let (mut model, mut now_us) = (Model::default(), START);
        let mut replicas: [Replica; REPLICAS as usize] = Default::default();
        let (mut admitted, mut spent) = (0i128, 0);
        for (number, (which, pause, ceiling, what)) in steps.into_iter().enumerate() {
            now_us += pause;
            let is_away = away.is_some_and(|(from, steps)| (from..from + steps).contains(&number));
            let replica = &mut replicas[which];
            let ask = Ask { tokens: ceiling as u64, ceiling: NanoUsd::from_nanos(ceiling) };
            match what {
                0 | 1 if admit(replica, which, &mut model, ask, is_away, now_us) => {
                    admitted += 1;
                    replica.running.push((ceiling, ceiling / 2));
                }
                2 if !replica.running.is_empty() => {
                    let mode = if is_away { Mode::Apart(Share { rank: which as u32, replicas: REPLICAS }) } else { Mode::Shared { replicas: REPLICAS } };
                    let (ceiling, charge) = replica.running.remove(0);
                    let charge_nanos = NanoUsd::from_nanos(charge);
                    replica.gauge.hold(charge_nanos);
                    replica.gauge.end(&caps(), ceiling as u64, charge as u64, mode);
                    replica.gauge.release(NanoUsd::from_nanos(ceiling));
                    replica.gauge.spend(&caps(), charge_nanos, mode, now_us);
                    replica.gauge.release(charge_nanos);
                    spent += charge;
                }
                3 if !is_away => tick(replica, which, &mut model, now_us),
                _ => {}
            }
            let most = i128::from(RATE) * 60_000_000 + i128::from(now_us - START) * i128::from(RATE);
            let running: usize = replicas.iter().map(|replica| replica.running.len()).sum();
            let in_flight: i64 = replicas.iter().flat_map(|replica| &replica.running).map(|(ceiling, _)| ceiling).sum();
            if away.is_none() {
                prop_assert!(spent + in_flight <= BUDGET, "{} spent, {} in flight", spent, in_flight);
                prop_assert!(admitted * 60_000_000 <= most);
                prop_assert!(running <= PLACES as usize, "{} run", running);
            }
        }
    }
}
