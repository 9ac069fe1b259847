//! Credit that was given away earns nobody a payout.

use std::time::Duration;

use lumbung_gateway::domain::settlement::Tokens;
use lumbung_gateway::store::{CreditKind, PayoutTerms, StoreErrorKind, Verdict};
use lumbung_openapi::money::NanoUsd;
use lumbung_openapi::receipt::ReceiptVerdict;
use lumbung_openapi::ticket::Ticket;

use crate::on_both;
use crate::support::{Books, Customer, Provider, nanos, tokens, usd};

const HOLDBACK: Duration = Duration::from_secs(7 * 86_400);

/// A customer whose credit is `given` first and `paid` after that, half of it set aside.
async fn customer(books: &Books, given: i64, paid: i64) -> Customer {
    let account = books.store.create_account("someone").await.expect("an account").id;
    books.store.add_credit(&account, nanos(given), CreditKind::Promotional, "").await.expect("credit");
    if paid > 0 {
        books.store.add_credit(&account, nanos(paid), CreditKind::Paid, "").await.expect("credit");
    }
    let (key, _) = books.store.create_key(&account, "test").await.expect("a key");
    let lease = books.replica().await;
    let need = nanos((given + paid) / 2);
    let reserved = books.store.reserve(&account, &lease.replica, need, NanoUsd::ZERO).await.expect("answer");
    Customer { account, key: key.id, lease, allowance: reserved.expect("enough credit").allowance }
}

/// Serves a job and hands its receipt in.
async fn serve(books: &Books, customer: &Customer, provider: &Provider, used: Tokens) -> Ticket {
    let ticket = customer.ticket(books, provider).await;
    books.settle(&[customer.settlement(books, ticket.clone(), used)]).await;
    let verdicts = books.offer(provider, vec![provider.receipt(books, &ticket, used)]).await;
    assert_eq!(verdicts, [ReceiptVerdict::Committed]);
    ticket
}

/// Everything becomes payable that ever will, and is paid out.
async fn cash_in(books: &Books, provider: &Provider) -> NanoUsd {
    books.store.register_provider(&provider.id).await.expect("joined");
    books.store.set_payout_details(&provider.id, "DE02 1203 0000 0000 2020 51").await.expect("details");
    books.store.shift_clock(HOLDBACK + Duration::from_secs(1));
    books.store.reclaim_withheld().await.expect("answer");
    books.store.mature(HOLDBACK).await.expect("answer");
    let terms = PayoutTerms { minimum: nanos(1), cooldown: Duration::from_secs(3600), reference: String::new() };
    books.store.create_payouts(&terms).await.expect("a run").total
}

async fn left(books: &Books, customer: &Customer) -> NanoUsd {
    books.store.account_balance(&customer.account).await.expect("a balance").promotional
}

async fn held(books: &Books, provider: &Provider) -> NanoUsd {
    books.store.earnings(&provider.id).await.expect("earnings").promotional
}

on_both! {
    async fn a_client_and_a_provider_in_league_cannot_turn_promotional_credit_into_a_payout(books: &Books) {
        let provider = Provider::new(1);
        let client = customer(books, 1_000_000, 0).await;
        serve(books, &client, &provider, tokens(10, 20)).await; // 50,000
        // A receipt that never comes: the share returns, as promotional as it was.
        let withheld = client.ticket(books, &provider).await;
        books.settle(&[client.settlement(books, withheld, tokens(10, 20))]).await;
        // A receipt that claims less: so does the difference.
        let corrected = client.ticket(books, &provider).await;
        books.settle(&[client.settlement(books, corrected.clone(), tokens(10, 20))]).await;
        books.offer(&provider, vec![provider.receipt(books, &corrected, tokens(10, 3))]).await;
        books.assert_right().await;
        assert_eq!(cash_in(books, &provider).await, NanoUsd::ZERO);
        // 50,000 and 16,000 are gone, and the fee of the withheld one.
        assert_eq!(left(books, &client).await, nanos(1_000_000 - 50_000 - 16_000 - 5_000));
        assert_eq!(books.spendable(&client.account).await, left(books, &client).await);
        assert_eq!(held(books, &provider).await, nanos(45_000 + 14_400));
        // And again with what came back.
        for _ in 0..9 {
            serve(books, &client, &provider, tokens(10, 20)).await;
        }
        assert_eq!(cash_in(books, &provider).await, NanoUsd::ZERO);
        assert_eq!(books.store.earnings(&provider.id).await.expect("earnings").payable, NanoUsd::ZERO);
    }

    async fn promotional_credit_is_spent_first_and_a_charge_across_the_border_is_split(books: &Books) {
        let (client, provider) = (customer(books, 60_001, 1_000_000).await, Provider::new(1));
        serve(books, &client, &provider, tokens(10, 20)).await;
        assert_eq!((left(books, &client).await, books.pending(&provider).await), (nanos(10_001), nanos(0)));
        serve(books, &client, &provider, tokens(10, 20)).await;
        // 10,001 of 50,000 were given away: of a share of 45,000 that is 9,000.9, rounded against the provider.
        assert_eq!((left(books, &client).await, books.pending(&provider).await), (nanos(0), nanos(35_999)));
        assert_eq!(held(books, &provider).await, nanos(45_000 + 9_001));
        serve(books, &client, &provider, tokens(10, 20)).await;
        assert_eq!(books.pending(&provider).await, nanos(35_999 + 45_000));
        assert_eq!(cash_in(books, &provider).await, nanos(35_999 + 45_000));
    }

    async fn a_split_charge_that_is_corrected_returns_each_part_to_where_it_came_from(books: &Books) {
        let (client, provider) = (customer(books, 25_000, 1_000_000).await, Provider::new(1));
        let ticket = client.ticket(books, &provider).await;
        books.settle(&[client.settlement(books, ticket.clone(), tokens(10, 20))]).await;
        assert_eq!((left(books, &client).await, held(books, &provider).await), (nanos(0), nanos(22_500)));
        books.offer(&provider, vec![provider.receipt(books, &ticket, tokens(10, 0))]).await; // 10,000
        assert_eq!((left(books, &client).await, held(books, &provider).await), (nanos(20_000), nanos(4_500)));
        assert_eq!(books.pending(&provider).await, nanos(4_500));
        assert_eq!(books.spendable(&client.account).await, nanos(1_015_000));
    }

    async fn the_operator_decides_once_and_only_about_what_is_proven(books: &Books) {
        let (client, other, provider) =
            (customer(books, 500_000, 0).await, customer(books, 500_000, 0).await, Provider::new(1));
        serve(books, &client, &provider, tokens(10, 20)).await;
        serve(books, &other, &provider, tokens(10, 0)).await;
        let unproven = client.ticket(books, &provider).await;
        books.settle(&[client.settlement(books, unproven, tokens(10, 20))]).await;
        let shares = books.store.held_shares(Some(&provider.id)).await.expect("answer");
        let shares: Vec<_> = shares.iter().map(|held| (held.account, held.amount, held.proven)).collect();
        assert!(shares.contains(&(client.account, nanos(90_000), nanos(45_000))), "{shares:?}");
        assert!(shares.contains(&(other.account, nanos(9_000), nanos(9_000))), "{shares:?}");

        let decide = async |account, verdict| {
            books.store.decide_promotional(&provider.id, account, verdict, "a known tester").await
        };
        let approved = decide(Some(&client.account), Verdict::Approved).await.expect("approved");
        assert_eq!((approved.amount, approved.attempts), (nanos(45_000), 1));
        books.assert_right().await;
        let again = decide(Some(&client.account), Verdict::Approved).await.expect_err("once");
        assert_eq!(again.kind(), StoreErrorKind::Conflict);
        let outside = books.store.balance(&lumbung_gateway::domain::posting::LedgerId::outside()).await.expect("answer");
        let refused = decide(None, Verdict::Refused).await.expect("refused");
        assert_eq!(refused.amount, nanos(9_000));
        let now = books.store.balance(&lumbung_gateway::domain::posting::LedgerId::outside()).await.expect("answer");
        assert_eq!(now, outside.checked_add(nanos(9_000)).expect("small"), "it went back where it came from");
        let earnings = books.store.earnings(&provider.id).await.expect("earnings");
        assert_eq!((earnings.payable, earnings.promotional, earnings.pending), (nanos(45_000), nanos(45_000), nanos(0)));
        let silent = books.store.decide_promotional(&provider.id, None, Verdict::Refused, " ").await.expect_err("why?");
        assert_eq!(silent.kind(), StoreErrorKind::Invalid);
        assert_eq!(cash_in(books, &provider).await, usd("0.000045"));
    }

    async fn settlements_at_once_spend_promotional_credit_once(books: &Books) {
        let client = customer(books, 120_000, 2_000_000).await;
        let mut settling = tokio::task::JoinSet::new();
        for seed in 1..=6 {
            let provider = Provider::new(seed);
            let ticket = client.ticket(books, &provider).await;
            let settlement = client.settlement(books, ticket, tokens(10, 20));
            let (store, keys) = (books.store.clone(), books.keys.clone());
            settling.spawn(async move { store.settle(&[settlement], &keys).await.expect("answer") });
        }
        settling.join_all().await;
        assert_eq!(left(books, &client).await, nanos(0));
        assert_eq!(books.number("SELECT CAST(SUM(promotional) AS BIGINT) FROM attempts").await, 120_000);
    }

    async fn credit_that_was_given_away_is_not_paid_back(books: &Books) {
        let account = books.store.create_account("someone").await.expect("an account").id;
        books.store.add_credit(&account, usd("2"), CreditKind::Promotional, "").await.expect("credit");
        books.store.add_credit(&account, usd("1"), CreditKind::Paid, "").await.expect("credit");
        let refund = async |amount: &str| books.refund(&account, usd(amount)).await;
        assert_eq!(refund("1.000000001").await.expect_err("a gift").kind(), StoreErrorKind::Conflict);
        refund("1").await.expect("what was paid for");
        assert_eq!(refund("0.000000001").await.expect_err("a gift").kind(), StoreErrorKind::Conflict);
        assert_eq!(books.spendable(&account).await, usd("2"));
    }
}
