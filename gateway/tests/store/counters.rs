//! The counters that replicas share, on a real Redis.

use std::time::Duration;

use lumbung_gateway::domain::calendar::Day;
use lumbung_gateway::domain::ids::{AccountId, KeyId, ReplicaId};
use lumbung_gateway::domain::limits::{
    Budgets, Caps, LineOwner, MoneyReport, PlacesReport, RateReport, Reply, Report, Share,
};
use lumbung_gateway::store::{Counters, Redis};
use redis::Commands;

use crate::support::{Books, nanos};

struct Bench {
    books: Books,
    url: String,
}

impl Bench {
    async fn new() -> Self {
        let url = std::env::var("LUMBUNG_TEST_REDIS").expect("LUMBUNG_TEST_REDIS: run through `make test`");
        Self { books: Books::sqlite().await, url }
    }

    async fn replica(&self) -> (ReplicaId, Counters) {
        let (redis, replica) = (Redis::open(&self.url, None).expect("a URL"), ReplicaId::fresh());
        (replica, Counters::open(redis, &self.books.store, replica).await.expect("counters"))
    }
}

fn owner() -> LineOwner {
    LineOwner { account: AccountId::fresh(), key: Some(KeyId::fresh()) }
}

fn report(caps: Caps) -> Report {
    Report {
        caps,
        today: Day::from_number(20_417),
        requests: RateReport::default(),
        tokens: RateReport::default(),
        places: PlacesReport::default(),
        money: MoneyReport::default(),
        trusting: false,
    }
}

fn rate(give_back: u64, add: u64, min: u64, max: u64) -> RateReport {
    RateReport { give_back, add, min, max }
}

async fn one(counters: &Counters, owner: LineOwner, report: Report) -> Reply {
    counters.exchange(&[(owner, report)]).await.expect("an answer").pop().expect("one line")
}

#[tokio::test]
async fn a_rate_is_one_bucket_for_all() {
    let bench = Bench::new().await;
    let ((_, a), (_, b), whose) = (bench.replica().await, bench.replica().await, owner());
    let caps = Caps { requests: Some(600), tokens: Some(1000), ..Caps::default() };
    let first = one(&a, whose, Report { requests: rate(0, 0, 1, 31), ..report(caps) }).await;
    assert!(first.requests.granted == 31 && first.requests.used == 31, "{first:?}");
    let second = one(&b, whose, Report { requests: rate(0, 500, 1, 30), ..report(caps) }).await;
    assert_eq!(
        (second.born_us, second.requests.granted),
        (first.born_us, 3),
        "a quarter of what is above the last tenth"
    );
    let low = one(&b, whose, Report { requests: rate(0, 10, 1, 30), ..report(caps) }).await;
    assert_eq!(low.requests.granted, 1, "in the last tenth only what is needed");
    let used_up = one(&a, whose, Report { requests: rate(0, 60, 1, 1), ..report(caps) }).await;
    assert_eq!(used_up.requests.granted, 0);
    assert!((1..=600_000).contains(&used_up.requests.wait_us), "{used_up:?}");
    let back = one(&a, whose, Report { requests: rate(25, 0, 1, 1), ..report(caps) }).await;
    assert_eq!((back.requests.granted, back.requests.wait_us), (1, 0));

    let both = Report { requests: rate(0, 0, 1, 1), tokens: rate(0, 0, 999, 999), ..report(caps) };
    assert_eq!(one(&a, whose, both).await.tokens.granted, 999);
    let neither = one(&b, whose, both).await;
    assert_eq!(
        (neither.requests.granted, neither.requests.wait_us, neither.tokens.granted),
        (0, 0, 0),
        "all or nothing"
    );
    assert!(neither.tokens.wait_us > 50_000_000);
    bench.books.finish().await;
}

#[tokio::test]
async fn a_small_rate_is_counted_one_by_one() {
    let bench = Bench::new().await;
    let ((_, a), (_, b), whose) = (bench.replica().await, bench.replica().await, owner());
    let ask = Report { requests: rate(0, 0, 1, 9), ..report(Caps { requests: Some(3), ..Caps::default() }) };
    for counters in [&a, &b, &a] {
        assert_eq!(one(counters, whose, ask).await.requests.granted, 1, "never more than is needed");
    }
    let refused = one(&b, whose, ask).await;
    assert_eq!((refused.requests.granted, refused.requests.used), (0, 3));
    assert!((55_000_000..=60_000_000).contains(&refused.requests.wait_us), "{refused:?}");
    bench.books.finish().await;
}

#[tokio::test]
async fn places_come_back_when_they_are_given_back_or_their_replica_is_silent() {
    let bench = Bench::new().await;
    let ((_, a), (_, b), whose) = (bench.replica().await, bench.replica().await, owner());
    let places = |keep, min| Report {
        places: PlacesReport { keep, min, max: min },
        ..report(Caps { places: Some(2), ..Caps::default() })
    };
    assert_eq!(one(&a, whose, places(0, 1)).await.places.granted, 1);
    assert_eq!(one(&a, whose, places(1, 1)).await.places.granted, 1);
    let refused = one(&b, whose, places(0, 1)).await.places;
    assert_eq!((refused.granted, refused.total, refused.fits), (0, 2, false));
    one(&a, whose, places(1, 0)).await;
    assert_eq!(one(&b, whose, places(0, 1)).await.places.granted, 1);
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        one(&b, whose, places(1, 0)).await; // a says nothing any more
    }
    assert_eq!(one(&b, whose, places(1, 1)).await.places.granted, 1);
    bench.books.finish().await;
}

#[tokio::test]
async fn budgets_are_exact_to_64_bits_and_set_aside_only_after_the_books_were_read() {
    let bench = Bench::new().await;
    let ((_, a), (_, b), whose) = (bench.replica().await, bench.replica().await, owner());
    let budgets = Budgets { day: Some(nanos(i64::MAX)), total: Some(nanos(1000)), ..Budgets::default() };
    let caps = Caps { budgets, ..Caps::default() };
    let money = |posted, keep, min, max| Report { money: MoneyReport { posted, keep, min, max }, ..report(caps) };
    let early = one(&a, whose, money(0, 0, 100, 100)).await.money;
    assert!(early.unread && early.granted == 0);
    let (_, reading) = a.begin_reading(whose, money(0, 0, 0, 0)).await.expect("an answer");
    let (_, second) = b.begin_reading(whose, money(7, 0, 0, 0)).await.expect("an answer");
    assert_eq!(second, None, "one reads at a time");
    let spent = [5, 5, 5, 300].map(nanos);
    a.finish_reading(whose, reading.expect("begun"), &money(0, 0, 0, 0), spent).await.expect("taken over");

    let first = one(&a, whose, money(0, 0, 100, 200)).await.money;
    assert_eq!((first.granted, first.left), (200, [Some(i64::MAX - 12 - 200), None, None, Some(1000 - 307 - 200)]));
    let refused = one(&b, whose, money(0, 0, 494, 900)).await.money;
    assert_eq!((refused.granted, refused.fits, refused.elsewhere), (0, false, 200));
    assert_eq!(one(&b, whose, money(0, 0, 493, 900)).await.money.granted, 493, "all that is left");
    let posted = one(&a, whose, money(50, 100, 0, 0)).await.money;
    assert_eq!(posted.left[3], Some(50), "what was posted is spent, what is not kept is free");
    let next_day = Report { today: Day::from_number(20_418), ..money(0, 100, 0, 0) };
    let next_day = one(&a, whose, next_day).await.money;
    assert_eq!(next_day.left, [Some(i64::MAX - 593), None, None, Some(50)], "a new day, a new budget");
    bench.books.finish().await;
}

#[tokio::test]
async fn replicas_see_each_other_until_they_leave_and_leave_nothing_that_stays() {
    let bench = Bench::new().await;
    let ((first, a), (second, b)) = (bench.replica().await, bench.replica().await);
    assert_eq!(a.seen(true).await.expect("an answer"), Share { rank: 0, replicas: 1 });
    let rank = u32::from(second.to_string() > first.to_string());
    assert_eq!(b.seen(true).await.expect("an answer"), Share { rank, replicas: 2 });
    assert_eq!(a.seen(false).await.expect("an answer").replicas, 1);

    let whose = owner();
    one(&a, whose, Report { tokens: rate(0, 0, 1, 1), ..report(Caps { tokens: Some(60), ..Caps::default() }) }).await;
    let prefix = format!("lumbung:limits:{}:*", bench.books.store.id().await.expect("an id"));
    let mut redis = redis::Client::open(bench.url.as_str()).expect("a URL").get_connection().expect("Redis");
    let keys: Vec<String> = redis.keys(prefix).expect("keys");
    assert_eq!(keys.len(), 2);
    for key in keys {
        let seconds: i64 = redis.ttl(&key).expect("a time");
        assert!((1..=3600).contains(&seconds), "{key} expires");
    }
    bench.books.finish().await;
}
