//! Settling on the gateway's own count.

use lumbung_gateway::domain::settlement::Charge;
use lumbung_gateway::store::{SettleOutcome, Settlement};
use lumbung_openapi::money::NanoUsd;
use lumbung_openapi::ticket::Ticket;

use crate::on_both;
use crate::support::{CLAIM_WINDOW, LEASE, Provider, claims, nanos, tokens, usd};

on_both! {
    async fn a_charge_is_shared_between_provider_and_operator(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let ticket = customer.ticket(books, &provider).await;
        let outcomes = books.settle(&[customer.settlement(books, ticket, tokens(10, 20))]).await;
        let charge = Charge { tokens: tokens(10, 20), amount: usd("0.00005"), fee: usd("0.000005") };
        assert_eq!(outcomes, [SettleOutcome::Settled(charge)]);
        assert_eq!(books.spendable(&customer.account).await, usd("0.99995"));
        assert_eq!(books.pending(&provider).await, usd("0.000045"));
        assert_eq!(books.revenue().await, usd("0.000005"));
    }

    async fn an_attempt_is_charged_once_however_often_it_is_settled(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let one = customer.settlement(books, customer.ticket(books, &provider).await, tokens(10, 20));
        let two = customer.settlement(books, customer.ticket(books, &provider).await, tokens(1, 2));
        let three = customer.settlement(books, customer.ticket(books, &provider).await, tokens(3, 4));
        let is_new = |outcomes: Vec<SettleOutcome>| -> Vec<bool> {
            outcomes.into_iter().map(|outcome| matches!(outcome, SettleOutcome::Settled(_))).collect()
        };
        let twice_in_one = [one.clone(), two.clone(), one.clone()];
        assert_eq!(is_new(books.settle(&twice_in_one).await), [true, true, false]);
        assert_eq!(is_new(books.settle(&twice_in_one).await), [false, false, false]);
        assert_eq!(is_new(books.settle(&[two, three]).await), [false, true], "old and new in one batch");
        assert_eq!(books.spendable(&customer.account).await, nanos(1_000_000_000 - 50_000 - 5_000 - 11_000));
        assert_eq!(books.number("SELECT COUNT(*) FROM attempts").await, 3);
        assert_eq!(books.settle(&[]).await, []);
    }

    async fn batches_that_overlap_at_once_charge_each_attempt_once(books: &Books) {
        let (customer, providers) = (books.customer("1").await, [Provider::new(1), Provider::new(2), Provider::new(3)]);
        let mut settlements = Vec::new();
        for turn in 0..40 {
            let ticket = customer.ticket(books, &providers[turn % 3]).await;
            settlements.push(customer.settlement(books, ticket, tokens(10, 20)));
        }
        let mut settling = tokio::task::JoinSet::new();
        for at in 0..4 {
            let (store, keys) = (books.store.clone(), books.keys.clone());
            let mut batch: Vec<Settlement> = settlements[at * 5..at * 5 + 25].to_vec();
            if at % 2 == 1 {
                batch.reverse();
            }
            settling.spawn(async move { store.settle(&batch, &keys).await.expect("answer") });
        }
        let outcomes = settling.join_all().await.concat();
        let settled = outcomes.iter().filter(|outcome| matches!(outcome, SettleOutcome::Settled(_))).count();
        assert_eq!(settled, 40);
        assert_eq!(books.spendable(&customer.account).await, nanos(1_000_000_000 - 40 * 50_000));
        // A batch has one posting, however many attempts.
        let postings = books.number("SELECT COUNT(*) FROM postings WHERE kind = 'settle'").await;
        assert!((2..=4).contains(&postings), "{postings} postings of four batches");
    }

    async fn an_attempt_that_delivered_nothing_is_written_down_at_no_charge(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let ticket = customer.ticket(books, &provider).await;
        let outcomes = books.settle(&[customer.settlement(books, ticket, tokens(0, 0))]).await;
        assert_eq!(outcomes, [SettleOutcome::Settled(Charge::default())]);
        assert_eq!(books.number("SELECT COUNT(*) FROM attempts").await, 1);
        assert_eq!(books.number("SELECT COUNT(*) FROM postings WHERE kind = 'settle'").await, 0);
    }

    async fn the_books_charge_no_more_than_the_ticket_says_whatever_they_are_told(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let ticket = customer.ticket(books, &provider).await;
        let ceiling = ticket.ceiling;
        let charge = Charge { tokens: tokens(1000, 2000), amount: usd("0.3"), fee: usd("0.3") };
        let settlement = Settlement { charge, ..customer.settlement(books, ticket, tokens(1, 1)) };
        books.settle(&[settlement]).await;
        assert_eq!(books.spendable(&customer.account).await, usd("1").checked_sub(ceiling).expect("a balance"));
        assert_eq!(books.revenue().await, ceiling.basis_points(1000));
    }

    async fn a_jobs_attempts_together_stay_below_its_ceiling(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let first = customer.ticket(books, &provider).await;
        let second = Ticket { attempt: 2, first_token: 150, ..first.clone() };
        let third = Ticket { attempt: 3, first_token: 190, ..first.clone() };
        let ceiling = first.ceiling;
        books.settle(&[customer.settlement(books, first, tokens(100, 150))]).await;
        let rest = [second, third].map(|ticket| customer.settlement(books, ticket, tokens(0, 40)));
        books.settle(&rest).await;
        assert_eq!(books.spendable(&customer.account).await, usd("1").checked_sub(ceiling).expect("a balance"));
        assert_eq!(books.number("SELECT completion_tokens FROM attempts WHERE attempt = 3").await, 10);
    }

    async fn a_replica_that_wakes_after_its_allowance_was_released_charges_nothing(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let ticket = customer.ticket(books, &provider).await;
        books.store.shift_clock(LEASE + CLAIM_WINDOW * 2);
        assert_eq!(books.store.release_ended(CLAIM_WINDOW).await.expect("answer"), 1);
        let late = customer.settlement(books, ticket, tokens(10, 20));
        let running = books.customer("1").await;
        let timely = running.settlement(books, running.ticket(books, &provider).await, tokens(10, 20));
        let outcomes = books.settle(&[late, timely.clone()]).await;
        assert_eq!(outcomes, [SettleOutcome::Uncovered, SettleOutcome::Settled(timely.charge)], "one does not block the other");
        assert_eq!(books.spendable(&customer.account).await, usd("1"));
        assert_eq!(books.spendable(&running.account).await, usd("0.99995"));
    }

    async fn an_allowance_that_runs_short_pays_as_far_as_it_goes(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        assert!(books.store.give_back(&customer.allowance, usd("0.49988")).await.expect("answer"), "0.00012 are left");
        let mut batch = Vec::new();
        for _ in 0..3 {
            batch.push(customer.settlement(books, customer.ticket(books, &provider).await, tokens(10, 20)));
        }
        let outcomes = books.settle(&batch).await;
        let paid = SettleOutcome::Settled(batch[0].charge);
        assert_eq!(outcomes, [paid, paid, SettleOutcome::Uncovered]);
        assert_eq!(books.spendable(&customer.account).await, usd("0.9999"));
    }

    async fn claims_that_can_never_be_paid_are_not_kept(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let mut batch = Vec::new();
        for receipt in ["not JSON".to_owned(), claims(tokens(10, 201)), claims(tokens(10, 20))] {
            let ticket = customer.ticket(books, &provider).await;
            batch.push(Settlement { receipt: Some(receipt), ..customer.settlement(books, ticket, tokens(10, 20)) });
        }
        books.settle(&batch).await;
        assert_eq!(books.number("SELECT COUNT(*) FROM attempts WHERE receipt IS NOT NULL").await, 1);
    }

    async fn busy_accounts_are_rolled_up_and_their_balances_stay(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let settle = async || {
            let ticket = customer.ticket(books, &provider).await;
            books.settle(&[customer.settlement(books, ticket, tokens(10, 20))]).await;
        };
        settle().await;
        assert!(books.number("SELECT COUNT(*) FROM unrolled").await > 0);
        assert!(books.store.roll_up().await.expect("answer") > 0);
        assert_eq!(books.number("SELECT COUNT(*) FROM unrolled").await, 0);
        assert_eq!((books.pending(&provider).await, books.revenue().await), (usd("0.000045"), usd("0.000005")));
        settle().await;
        assert_eq!((books.pending(&provider).await, books.revenue().await), (usd("0.00009"), usd("0.00001")));
        let mut rolling = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let store = books.store.clone();
            rolling.spawn(async move { store.roll_up().await.expect("answer") });
        }
        assert_eq!(rolling.join_all().await.into_iter().sum::<u64>(), 2, "each queued row once");
        assert_eq!((books.pending(&provider).await, books.revenue().await), (usd("0.00009"), usd("0.00001")));
    }

    async fn more_than_one_statement_holds(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let template = customer.ticket(books, &provider).await;
        let mut batch = Vec::new();
        for attempt in 1..=1100 {
            let ticket = Ticket { job: lumbung_gateway::domain::ids::JobId::fresh().to_string(), ..template.clone() };
            batch.push(customer.settlement(books, ticket, tokens(attempt % 100, 1)));
        }
        let settled = books.settle(&batch).await;
        assert!(settled.iter().all(|outcome| matches!(outcome, SettleOutcome::Settled(_))));
        let charged: i64 = batch.iter().map(|settlement| settlement.charge.amount.nanos()).sum();
        assert_eq!(books.spendable(&customer.account).await, nanos(1_000_000_000 - charged));
        assert_ne!(charged, NanoUsd::ZERO.nanos());
    }
}
