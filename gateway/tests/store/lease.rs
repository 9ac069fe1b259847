//! Leases: one gateway without Redis, any number with.

use std::time::Duration;

use lumbung_gateway::domain::ids::ReplicaId;
use lumbung_gateway::store::LeaseGuard;

use crate::on_both;
use crate::support::LEASE;

on_both! {
    async fn a_second_lone_gateway_is_refused_until_the_first_ones_lease_ends(books: &Books) {
        let (first, second) = (ReplicaId::fresh(), ReplicaId::fresh());
        let other = books.other_process().await;
        let mut lease = books.store.acquire_lease(&first, LEASE, true).await.expect("answer").expect("free");
        let held = other.acquire_lease(&second, LEASE, true).await.expect("answer").expect_err("held");
        assert_eq!(held.by, first);
        assert!((1..=10).contains(&held.seconds_left), "{held:?}");

        // Renewed, it is held for longer than it first ran.
        books.store.shift_clock(LEASE / 2);
        other.shift_clock(LEASE / 2);
        assert!(books.store.renew_lease(&mut lease).await.expect("answer"));
        other.shift_clock(LEASE * 3 / 4);
        assert!(other.acquire_lease(&second, LEASE, true).await.expect("answer").is_err());

        // kill -9: one lease length later a restart succeeds, and the old one cannot come back.
        books.store.shift_clock(LEASE * 2);
        other.shift_clock(LEASE * 2);
        assert!(other.acquire_lease(&second, LEASE, true).await.expect("answer").is_ok());
        assert!(!books.store.renew_lease(&mut lease).await.expect("answer"), "a lease that ended stays ended");
        other.close().await;
    }

    async fn of_many_lone_gateways_that_start_at_once_one_runs(books: &Books) {
        let mut starting = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let store = books.other_process().await;
            starting.spawn(async move {
                let acquired = store.acquire_lease(&ReplicaId::fresh(), LEASE, true).await.expect("answer").is_ok();
                store.close().await;
                acquired
            });
        }
        let running = starting.join_all().await.into_iter().filter(|acquired| *acquired).count();
        assert_eq!(running, 1);
    }

    async fn gateways_with_redis_share_but_not_with_a_lone_one(books: &Books) {
        let acquire = async |exclusive| books.store.acquire_lease(&ReplicaId::fresh(), LEASE, exclusive).await.expect("answer");
        let one = acquire(false).await.expect("free");
        assert!(acquire(false).await.is_ok(), "shared");
        assert!(acquire(true).await.is_err(), "a lone one must be alone");
        books.store.shift_clock(LEASE * 2);
        assert!(acquire(true).await.is_ok());
        assert!(acquire(false).await.is_err(), "a lone one stays alone");
        books.store.end_lease(&one).await.expect("answer");
    }

    async fn a_lease_that_is_ended_makes_way_at_once(books: &Books) {
        let lease = books.store.acquire_lease(&ReplicaId::fresh(), LEASE, true).await.expect("answer").expect("free");
        let guard = LeaseGuard::new(books.store.clone(), lease, LEASE / 3);
        assert!(guard.is_valid());
        guard.end().await.expect("answer");
        assert!(!guard.is_valid());
        assert!(!guard.renew().await.expect("answer"));
        assert!(books.store.acquire_lease(&ReplicaId::fresh(), LEASE, true).await.expect("answer").is_ok());
    }

    async fn a_guard_stops_a_margin_before_the_end_and_knows_when_it_has_lost(books: &Books) {
        let short = Duration::from_millis(600);
        let lease = books.store.acquire_lease(&ReplicaId::fresh(), short, true).await.expect("answer").expect("free");
        let guard = LeaseGuard::new(books.store.clone(), lease, Duration::from_millis(400));
        tokio::time::sleep(Duration::from_millis(250)).await;
        assert!(!guard.is_valid(), "within the margin");
        assert!(guard.renew().await.expect("answer"), "but the lease still ran");
        assert!(guard.is_valid());
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(!guard.renew().await.expect("answer"));
        assert!(!guard.is_valid());
    }

    async fn a_gateway_cut_off_beyond_its_lease_goes_on_if_nobody_has_acted_on_its_end(books: &Books) {
        let acquire = async |exclusive| books.store.acquire_lease(&ReplicaId::fresh(), LEASE, exclusive).await.expect("answer");
        let lease = acquire(false).await.expect("free");
        let guard = LeaseGuard::new(books.store.clone(), lease.clone(), LEASE / 3);
        books.store.shift_clock(LEASE * 2);
        assert!(guard.renew().await.expect("answer"), "it was tried all the time, so nothing has been spent since");
        assert!(guard.is_valid() && !guard.is_lost());

        books.store.shift_clock(LEASE * 2);
        let lone = acquire(true).await.expect("the first one's has ended");
        assert!(!guard.renew().await.expect("answer"), "a lone one has begun");
        assert!(guard.is_lost());
        books.store.end_lease(&lone).await.expect("answer");

        let guard = LeaseGuard::new(books.store.clone(), lease, LEASE / 3);
        books.store.shift_clock(LEASE);
        books.store.release_ended(LEASE).await.expect("answer");
        assert!(!guard.renew().await.expect("answer"), "what it had reserved has been given back");
    }
}
