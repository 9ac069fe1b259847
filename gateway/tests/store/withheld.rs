//! Receipts that never come.

use std::time::Duration;

use lumbung_gateway::domain::refusal::Refusal;
use lumbung_gateway::store::Settlement;
use lumbung_openapi::receipt::ReceiptVerdict;

use crate::on_both;
use crate::support::{Provider, claims, tokens, usd};

const PAST_CLAIM_BY: Duration = Duration::from_secs(302);

on_both! {
    async fn a_share_without_a_signed_receipt_goes_back_once(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let (signed, unsigned) = (customer.ticket(books, &provider).await, customer.ticket(books, &provider).await);
        let came = Some(claims(tokens(10, 20)));
        books.settle(&[
            customer.settlement(books, signed.clone(), tokens(10, 20)),
            Settlement { receipt: came, ..customer.settlement(books, unsigned.clone(), tokens(10, 20)) },
        ]).await;
        books.offer(&provider, vec![provider.receipt(books, &signed, tokens(10, 20))]).await;
        assert_eq!(books.store.reclaim_withheld().await.expect("answer"), 0, "there is time");
        assert_eq!(books.pending(&provider).await, usd("0.00009"));

        books.store.shift_clock(PAST_CLAIM_BY);
        let mut reaping = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let store = books.store.clone();
            reaping.spawn(async move { store.reclaim_withheld().await.expect("answer") });
        }
        assert_eq!(reaping.join_all().await.into_iter().sum::<u64>(), 1);
        assert_eq!(books.pending(&provider).await, usd("0.000045"), "the one that it signed for");
        assert_eq!(books.revenue().await, usd("0.00001"), "the fee stays");
        assert_eq!(books.spendable(&customer.account).await, usd("0.999945"));
        let late = books.offer(&provider, vec![provider.receipt(books, &unsigned, tokens(10, 20))]).await;
        assert_eq!(late, [ReceiptVerdict::Refused { reason: Refusal::TooLate.to_string() }]);
    }

    async fn many_are_reclaimed_in_chunks(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let template = customer.ticket(books, &provider).await;
        let batch: Vec<Settlement> = (0..1010)
            .map(|_| {
                let job = lumbung_gateway::domain::ids::JobId::fresh().to_string();
                customer.settlement(books, lumbung_openapi::ticket::Ticket { job, ..template.clone() }, tokens(1, 2))
            })
            .collect();
        books.settle(&batch).await;
        books.store.shift_clock(PAST_CLAIM_BY);
        assert_eq!(books.store.reclaim_withheld().await.expect("answer"), 1010);
        assert_eq!(books.pending(&provider).await, usd("0"));
    }
}
