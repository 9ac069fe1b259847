//! Setting credit aside, and giving it back.

use lumbung_gateway::chat::allowance::Allowances;
use lumbung_gateway::domain::ids::{AccountId, AllowanceId, PostingId, ReplicaId};
use lumbung_gateway::store::StoreErrorKind;
use lumbung_openapi::money::NanoUsd;

use crate::on_both;
use crate::support::{Books, CLAIM_WINDOW, LEASE, nanos, usd};

on_both! {
    async fn what_is_set_aside_is_a_tenth_at_most_unless_more_is_needed(books: &Books) {
        let (account, lease) = (books.account_with(usd("100")).await, books.replica().await);
        let reserve = async |need: &str, slice: &str| {
            let reserved = books.store.reserve(&account, &lease.replica, usd(need), usd(slice)).await.expect("answer");
            reserved.map(|reserved| reserved.amount)
        };
        assert_eq!(reserve("0.1", "1").await, Some(usd("1")), "a slice");
        assert_eq!(reserve("0.1", "50").await, Some(usd("9.9")), "a tenth of what is left");
        assert_eq!(reserve("80", "1").await, Some(usd("80")), "what is needed");
        assert_eq!(reserve("9.11", "1").await, None, "more than there is");
        let balance = books.store.account_balance(&account).await.expect("a balance");
        assert_eq!((balance.credit, balance.allowances), (usd("9.1"), usd("90.9")));
        assert_eq!(reserve("9.1", "1").await, Some(usd("9.1")), "to the last nano-dollar");
        assert_eq!(books.spendable(&account).await, usd("100"));
    }

    async fn an_account_has_one_allowance_at_each_replica(books: &Books) {
        let (account, one, other) = (books.account_with(usd("100")).await, books.replica().await, books.replica().await);
        let reserve = async |replica: &ReplicaId| {
            let reserved = books.store.reserve(&account, replica, usd("1"), usd("1")).await.expect("answer");
            reserved.expect("enough").allowance
        };
        let first = reserve(&one.replica).await;
        assert_eq!(reserve(&one.replica).await, first);
        assert_ne!(reserve(&other.replica).await, first);
    }

    async fn fifty_at_once_never_overdraw(books: &Books) {
        let (account, lease) = (books.account_with(usd("10")).await, books.replica().await);
        let mut reserving = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let (store, replica) = (books.store.clone(), lease.replica);
            reserving.spawn(async move {
                store.reserve(&account, &replica, usd("0.3"), NanoUsd::ZERO).await.expect("answer").is_some()
            });
        }
        let succeeded = reserving.join_all().await.into_iter().filter(|succeeded| *succeeded).count();
        assert_eq!(succeeded, 33, "10 dollars are 33 times 30 cents");
        let balance = books.store.account_balance(&account).await.expect("a balance");
        assert_eq!((balance.credit, balance.allowances), (usd("0.1"), usd("9.9")));
    }

    async fn fifty_at_once_from_two_processes_never_overdraw(books: &Books) {
        let (account, other) = (books.account_with(usd("10")).await, books.other_process().await);
        let (one, two) = (books.replica().await, books.replica().await);
        let mut reserving = tokio::task::JoinSet::new();
        for turn in 0..50 {
            let (store, replica) =
                if turn % 2 == 0 { (books.store.clone(), one.replica) } else { (other.clone(), two.replica) };
            reserving.spawn(async move {
                store.reserve(&account, &replica, usd("0.3"), NanoUsd::ZERO).await.expect("answer").is_some()
            });
        }
        let succeeded = reserving.join_all().await.into_iter().filter(|succeeded| *succeeded).count();
        assert_eq!((succeeded, books.spendable(&account).await), (33, usd("10")));
        other.close().await;
    }

    async fn what_is_given_back_can_be_spent_elsewhere_but_only_once(books: &Books) {
        let (account, lease) = (books.account_with(usd("10")).await, books.replica().await);
        let reserved = books.store.reserve(&account, &lease.replica, usd("10"), NanoUsd::ZERO).await.expect("answer");
        let allowance = reserved.expect("enough").allowance;
        assert!(books.store.give_back(&allowance, usd("4")).await.expect("answer"));
        assert_eq!(books.store.account_balance(&account).await.expect("a balance").credit, usd("4"));
        assert!(!books.store.give_back(&allowance, usd("6.01")).await.expect("answer"), "more than there is");
        assert!(books.store.give_back(&allowance, usd("6")).await.expect("answer"));
        assert!(!books.store.give_back(&allowance, nanos(1)).await.expect("answer"), "there is nothing left");
        assert_eq!(books.store.account_balance(&account).await.expect("a balance").credit, usd("10"));
        let unknown = books.store.give_back(&AllowanceId::fresh(), nanos(1)).await.expect_err("no such allowance");
        assert_eq!(unknown.kind(), StoreErrorKind::Missing);
        assert_eq!(books.store.give_back(&allowance, nanos(-1)).await.expect_err("a trick").kind(), StoreErrorKind::Invalid);
        let trick = books.store.reserve(&account, &lease.replica, nanos(-1), NanoUsd::ZERO).await.expect_err("a trick");
        assert_eq!(trick.kind(), StoreErrorKind::Invalid);
    }

    async fn what_is_given_back_under_one_name_is_given_back_once(books: &Books) {
        let (account, lease) = (books.account_with(usd("10")).await, books.replica().await);
        let reserved = books.store.reserve(&account, &lease.replica, usd("10"), NanoUsd::ZERO).await.expect("answer");
        let (allowance, name) = (reserved.expect("enough").allowance, PostingId::fresh());
        for _ in 0..2 {
            assert!(books.store.give_back_once(&allowance, usd("4"), name).await.expect("answer"));
        }
        assert_eq!(books.store.account_balance(&account).await.expect("a balance").credit, usd("4"));
    }

    async fn what_is_reserved_under_one_name_is_reserved_once(books: &Books) {
        let (account, lease) = (books.account_with(usd("10")).await, books.replica().await);
        let name = PostingId::fresh();
        assert_eq!(books.store.reservation(name).await.expect("answer"), None);
        let reserve = |need| books.store.reserve_once(&account, &lease.replica, need, NanoUsd::ZERO, name, true);
        let first = reserve(usd("4")).await.expect("answer").expect("enough");
        // Again, by somebody who needs more by now, also more than there is.
        for need in ["5", "7"] {
            assert_eq!(reserve(usd(need)).await.expect("answer"), Some(first));
        }
        assert_eq!(books.store.reservation(name).await.expect("answer"), Some(first));
        assert_eq!((allowance_of(books, &account).await, first.amount), (usd("4"), usd("4")));
    }

    async fn a_reservation_whose_answer_was_lost_is_found_again(books: &Books) {
        let (account, lease) = (books.account_with(usd("10")).await, books.replica().await);
        let allowances = Allowances::new(books.store.clone(), None, lease.replica);
        let allowance = allowances.of(&account);
        let posting = PostingId::fresh();
        books.store.reserve_once(&account, &lease.replica, usd("3"), NanoUsd::ZERO, posting, false).await.expect("answer");
        allowance.answer_was_lost(posting);
        assert_eq!(allowances.free().1, NanoUsd::ZERO);
        drop(allowances.hold(&allowance, usd("2")).await.expect("enough"));
        assert_eq!(allowances.free().1, usd("3"), "nothing else was reserved");

        // Nobody asks again: it goes back like all that is idle.
        let posting = PostingId::fresh();
        books.store.reserve_once(&account, &lease.replica, usd("5"), NanoUsd::ZERO, posting, false).await.expect("answer");
        allowance.answer_was_lost(posting);
        allowance.answer_was_lost(PostingId::fresh());
        allowances.give_back(true).await.expect("the books answer");
        assert_eq!(allowance_of(books, &account).await, NanoUsd::ZERO);
        assert_eq!(books.spendable(&account).await, usd("10"));
    }

    async fn what_could_not_be_given_back_is_given_back_later(books: &Books) {
        let (account, lease) = (books.account_with(usd("10")).await, books.replica().await);
        let allowances = Allowances::new(books.store.clone(), None, lease.replica);
        drop(allowances.hold(&allowances.of(&account), usd("4")).await.expect("enough"));
        books.sql("ALTER TABLE entries RENAME TO entries_away").await;
        assert!(allowances.give_back(true).await.is_err(), "the books are not whole");
        assert!(allowances.give_back(false).await.is_err(), "it is tried again though nobody is idle");
        books.sql("ALTER TABLE entries_away RENAME TO entries").await;
        assert_eq!(allowance_of(books, &account).await, usd("4"));
        allowances.give_back(false).await.expect("the books answer");
        assert_eq!(allowance_of(books, &account).await, NanoUsd::ZERO);
        assert_eq!(books.spendable(&account).await, usd("10"));
    }

    async fn an_unknown_account_has_nothing_to_set_aside(books: &Books) {
        let lease = books.replica().await;
        let none = books.store.reserve(&AccountId::fresh(), &lease.replica, nanos(1), nanos(1)).await.expect("answer");
        assert_eq!(none, None);
    }

    async fn what_a_dead_replica_left_is_given_back_once_whoever_finds_it(books: &Books) {
        let accounts = [books.account_with(usd("10")).await, books.account_with(usd("20")).await];
        let (dead, alive) = (books.replica().await, books.replica().await);
        for account in &accounts {
            for replica in [&dead.replica, &alive.replica] {
                books.store.reserve(account, replica, usd("3"), NanoUsd::ZERO).await.expect("answer").expect("enough");
            }
        }
        assert_eq!(books.store.release_ended(CLAIM_WINDOW).await.expect("answer"), 0, "it may still run");
        books.store.shift_clock(LEASE * 2);
        assert_eq!(books.store.release_ended(CLAIM_WINDOW).await.expect("answer"), 0, "claims may still come");
        let mut alive = alive;
        books.store.shift_clock(CLAIM_WINDOW - LEASE * 2);
        books.sql(&format!("UPDATE replicas SET ends_at = {} WHERE id = '{}'", i64::MAX / 2, alive.replica)).await;
        assert!(books.store.renew_lease(&mut alive).await.expect("answer"), "the living one renews");
        books.store.shift_clock(LEASE);

        let mut reaping = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let store = books.store.clone();
            reaping.spawn(async move { store.release_ended(CLAIM_WINDOW).await.expect("answer") });
        }
        assert_eq!(reaping.join_all().await.into_iter().sum::<u64>(), 2, "two allowances, each once");
        for (account, credit) in accounts.iter().zip([usd("7"), usd("17")]) {
            let balance = books.store.account_balance(account).await.expect("a balance");
            assert_eq!((balance.credit, balance.allowances), (credit, usd("3")), "the living one keeps its part");
        }
        assert_eq!(books.store.release_ended(CLAIM_WINDOW).await.expect("answer"), 0);
    }

    async fn what_a_frozen_replica_adds_after_its_release_is_found_too(books: &Books) {
        let (account, lease) = (books.account_with(usd("10")).await, books.replica().await);
        books.store.shift_clock(LEASE + CLAIM_WINDOW * 2);
        assert_eq!(books.store.release_ended(CLAIM_WINDOW).await.expect("answer"), 0, "it had set nothing aside");
        books.store.reserve(&account, &lease.replica, usd("3"), NanoUsd::ZERO).await.expect("answer").expect("enough");
        assert_eq!(books.store.release_ended(CLAIM_WINDOW).await.expect("answer"), 1);
        assert_eq!(books.store.account_balance(&account).await.expect("a balance").credit, usd("10"));
    }

    async fn what_is_reserved_for_whoever_left_meanwhile_is_not_lost(books: &Books) {
        let (account, lease) = (books.account_with(usd("1")).await, books.replica().await);
        let allowances = Allowances::new(books.store.clone(), None, lease.replica);
        let allowance = allowances.of(&account);
        for micros in (0..4000).step_by(50) {
            // Each needs more than is left in memory; each waits a little longer, some long enough.
            let more = nanos(allowance_of(books, &account).await.nanos() + 1000);
            let hold = allowances.hold(&allowance, more);
            drop(tokio::time::timeout(std::time::Duration::from_micros(micros), hold).await);
        }
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        assert!(allowance_of(books, &account).await > NanoUsd::ZERO, "something was reserved");
        allowances.give_back(true).await.expect("the books answer");
        assert_eq!(allowance_of(books, &account).await, NanoUsd::ZERO, "all of it is known");
        assert_eq!(books.spendable(&account).await, usd("1"));
    }
}

async fn allowance_of(books: &Books, account: &AccountId) -> NanoUsd {
    books.store.account_balance(account).await.expect("a balance").allowances
}
