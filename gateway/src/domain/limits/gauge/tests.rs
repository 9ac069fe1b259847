//! One gauge that counts alone.

use proptest::prelude::*;

use super::*;

const NOW: i64 = 1_795_386_601_000_000; // 2026-11-22, a Sunday

fn usd(nanos: i64) -> NanoUsd {
    NanoUsd::from_nanos(nanos)
}

fn budget(period: Period, nanos: i64) -> Caps {
    let mut limits = Caps::default();
    limits.budgets.set(period, Some(usd(nanos)));
    limits
}

fn check(gauge: &mut Gauge, caps: &Caps, ask: Ask, now_us: i64) -> Result<(), Denied> {
    let need = gauge.check(caps, ask, Mode::Alone, now_us)?;
    assert!(need.is_none(), "whoever counts alone asks nobody");
    Ok(())
}

fn ask(ceiling: i64) -> Ask {
    Ask { tokens: 10, ceiling: usd(ceiling) }
}

#[test]
fn what_is_in_flight_counts_against_the_budget_until_it_is_known() {
    let (mut gauge, limits) = (Gauge::default(), budget(Period::Day, 100));
    assert_eq!(check(&mut gauge, &limits, ask(60), NOW), Ok(()));
    gauge.take(&limits, ask(60), Mode::Alone, NOW);
    let resets = Some("2026-11-23".parse().expect("a day"));
    let denied = Denied::Budget { period: Period::Day, budget: usd(100), used: usd(60), resets };
    assert_eq!(check(&mut gauge, &limits, ask(60), NOW), Err(denied));
    gauge.end(&limits, 10, 5, Mode::Alone); // it cost 30 of the 60
    gauge.release(usd(30));
    assert!(check(&mut gauge, &limits, ask(71), NOW).is_err(), "what the books do not have yet counts");
    gauge.release(usd(30));
    gauge.spend(&Caps::default(), usd(30), Mode::Alone, NOW);
    assert_eq!(check(&mut gauge, &limits, ask(70), NOW), Ok(()));
    let tomorrow = NOW + 86_400_000_000;
    assert_eq!(check(&mut gauge, &limits, ask(100), tomorrow), Ok(()), "a new day, a new budget");
    assert!(check(&mut gauge, &budget(Period::Total, 100), ask(71), tomorrow).is_err());
}

#[test]
fn the_books_are_counted_once() {
    let mut gauge = Gauge::default();
    let (today, limits) = (Day::of_us(NOW), budget(Period::Month, 1000));
    gauge.spend(&Caps::default(), usd(5), Mode::Alone, NOW);
    let counted = gauge.own();
    gauge.spend(&Caps::default(), usd(7), Mode::Alone, NOW); // reaches the books before they are read
    let spent = |nanos| {
        let mut spent = Spent::default();
        spent.add(today, usd(nanos));
        spent
    };
    gauge.learn(Period::Month.first_day(today), spent(100), spent(3), &spent(52), &counted);
    assert_eq!(gauge.spent(Period::Month, today), usd(100 + 3 + 52 + 7), "never less than it was");
    gauge.follow(&spent(3), Spent::default(), NOW);
    assert_eq!(gauge.spent(Period::Month, today), usd(100 + 3 + 52 + 7), "what is not recent any more is kept");
    assert!(gauge.knows(today) && !gauge.knows(Day::from_number(0)));
    assert_eq!(check(&mut gauge, &limits, ask(838), NOW), Ok(()));
    assert!(check(&mut gauge, &limits, ask(839), NOW).is_err());
}

#[test]
fn rates_and_places_are_limited_and_given_back() {
    let limits = Caps { requests: Some(3), tokens: Some(25), places: Some(2), ..Caps::default() };
    let mut gauge = Gauge::default();
    for _ in 0..2 {
        assert_eq!(check(&mut gauge, &limits, ask(0), NOW), Ok(()));
        gauge.take(&limits, ask(0), Mode::Alone, NOW);
    }
    let denied = check(&mut gauge, &limits, ask(0), NOW);
    assert_eq!(denied, Err(Denied::Tokens { limit: 25, asked: 10, wait_us: Some(12_000_000) }));
    gauge.end(&limits, 10, 2, Mode::Alone);
    assert_eq!(check(&mut gauge, &limits, ask(0), NOW), Ok(()), "eight tokens came back, and a place");
    gauge.take(&limits, Ask { tokens: 1, ..ask(0) }, Mode::Alone, NOW);
    let denied = check(&mut gauge, &limits, Ask { tokens: 1, ..ask(0) }, NOW);
    assert_eq!(denied, Err(Denied::Requests { limit: 3, wait_us: 60_000_000 }));
    let later = NOW + 60_000_000;
    assert_eq!(check(&mut gauge, &limits, Ask { tokens: 1, ..ask(0) }, later), Err(Denied::Concurrent { limit: 2 }));
    let huge = Denied::Tokens { limit: 25, asked: 26, wait_us: None };
    assert_eq!(check(&mut gauge, &limits, Ask { tokens: 26, ..ask(0) }, later), Err(huge));
    let rates = gauge.rates(&limits, Mode::Alone, later);
    assert_eq!(rates.requests.map(|rate| rate.remaining), Some(3));
}

proptest! {
    /// Whatever ends in whichever order, the budget is not overrun, and all that is not spent comes back.
    #[test]
    fn a_budget_is_never_overrun(budget_nanos in 0..500i64, jobs in proptest::collection::vec((0..100i64, 0..100i64, any::<bool>()), 0..100)) {
        let (mut gauge, limits) = (Gauge::default(), budget(Period::Week, budget_nanos));
        let (mut flying, mut spent) = (Vec::new(), 0);
        for (ceiling, cost, end_one) in jobs {
            if check(&mut gauge, &limits, ask(ceiling), NOW).is_ok() {
                gauge.take(&limits, ask(ceiling), Mode::Alone, NOW);
                flying.push((ceiling, cost.min(ceiling)));
            }
            if end_one && !flying.is_empty() {
                let (ceiling, cost) = flying.swap_remove(flying.len() / 2);
                gauge.end(&limits, 10, 3, Mode::Alone);
                gauge.release(usd(ceiling));
                gauge.spend(&Caps::default(), usd(cost), Mode::Alone, NOW);
                spent += cost;
            }
            let in_flight: i64 = flying.iter().map(|(ceiling, _)| ceiling).sum();
            prop_assert!(spent + in_flight <= budget_nanos);
            prop_assert_eq!(gauge.purse.held(), in_flight);
        }
        prop_assert_eq!(gauge.spent(Period::Week, Day::of_us(NOW)), usd(spent));
        prop_assert_eq!(gauge.is_idle(), flying.is_empty());
    }
}
