//! Processes that die in the middle: all of a transaction or nothing.

use std::time::Duration;

use lumbung_gateway::store::Settlement;
use lumbung_openapi::receipt::ReceiptVerdict;

use crate::on_both;
use crate::support::{Provider, nanos, tokens};

/// Lets a future run for a while and drops it wherever it is.
async fn cut<T>(after_us: u64, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(Duration::from_micros(after_us), future).await.ok()
}

on_both! {
    async fn a_settlement_that_is_cut_off_is_whole_or_not_there(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let mut charged = 0;
        for turn in 0..60u64 {
            let mut batch: Vec<Settlement> = Vec::new();
            for _ in 0..3 {
                batch.push(customer.settlement(books, customer.ticket(books, &provider).await, tokens(10, 20)));
            }
            cut(turn * 150, books.settle(&batch)).await;
            // In one statement: a commit that was on its way may still arrive.
            let jobs: Vec<String> = batch.iter().map(|settlement| format!("'{}'", settlement.ticket.job)).collect();
            let there = format!("SELECT COUNT(*) FROM attempts WHERE job IN ({})", jobs.join(", "));
            assert!([0, 3].contains(&books.number(&there).await), "all of a batch or nothing");
            books.settle(&batch).await;
            charged += 3 * 50_000;
            assert_eq!(books.spendable(&customer.account).await, nanos(1_000_000_000 - charged), "charged once");
        }
    }

    async fn reservations_and_receipts_that_are_cut_off_are_whole_or_not_there(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        for turn in 0..40u64 {
            let ticket = customer.ticket(books, &provider).await;
            books.settle(&[customer.settlement(books, ticket.clone(), tokens(10, 20))]).await;
            let receipt = provider.receipt(books, &ticket, tokens(10, 15));
            let after_us = turn * 200;
            cut(after_us, books.store.reserve(&customer.account, &customer.lease.replica, nanos(1000), nanos(5000))).await;
            cut(after_us, books.store.give_back(&customer.allowance, nanos(700))).await;
            cut(after_us, books.offer(&provider, vec![receipt.clone()])).await;
            cut(after_us, books.store.roll_up()).await;
            books.assert_right().await;
            assert_eq!(books.offer(&provider, vec![receipt]).await, [ReceiptVerdict::Committed]);
        }
        assert_eq!(books.spendable(&customer.account).await, nanos(1_000_000_000 - 40 * 40_000));
    }
}

/// The server cuts the connection in the middle of transactions: the caller gets an error, the books stay right.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_in_the_middle_leaves_no_half() {
    let books = crate::support::Books::postgres().await;
    let (customer, provider) = (books.customer("1").await, Provider::new(1));
    let mut batches: Vec<Vec<Settlement>> = Vec::new();
    for _ in 0..20 {
        let mut batch = Vec::new();
        for _ in 0..20 {
            batch.push(customer.settlement(&books, customer.ticket(&books, &provider).await, tokens(1, 2)));
        }
        batches.push(batch);
    }
    let cutting = async {
        for _ in 0..10 {
            let others = "SELECT CAST(COUNT(pg_terminate_backend(pid)) AS BIGINT) FROM pg_stat_activity
                          WHERE datname = current_database() AND pid <> pg_backend_pid()";
            books.number(others).await;
            tokio::time::sleep(Duration::from_millis(7)).await;
        }
    };
    let settling = async {
        let mut failed = 0;
        for batch in &batches {
            // As the gateway's writer does it: again and again until it is in.
            while let Err(error) = books.store.settle(batch, &books.keys).await {
                assert_eq!(error.to_string(), "the books cannot be reached");
                failed += 1;
                assert!(failed < 1000, "the books are found again");
            }
        }
    };
    tokio::join!(cutting, settling);
    assert_eq!(books.number("SELECT COUNT(*) FROM attempts").await, 400);
    assert_eq!(books.spendable(&customer.account).await, nanos(1_000_000_000 - 400 * 5_000));
    books.finish().await;
}
