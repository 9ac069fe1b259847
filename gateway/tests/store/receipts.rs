//! Receipts that providers hand in.

use lumbung_gateway::domain::refusal::Refusal;
use lumbung_gateway::fleet::receipts::ReceiptDesk;
use lumbung_gateway::store::Settlement;
use lumbung_openapi::jws::HmacKey;
use lumbung_openapi::receipt::{Receipt, ReceiptBatch, ReceiptVerdict};
use lumbung_openapi::ticket::{TICKET_TYP, Ticket};

use crate::on_both;
use crate::support::{Books, CLAIM_WINDOW, Customer, LEASE, Provider, claims, tokens, usd};

use ReceiptVerdict::{Committed, Pending};

fn refused(refusal: Refusal) -> ReceiptVerdict {
    ReceiptVerdict::Refused { reason: refusal.to_string() }
}

/// A settled attempt of 10 and 20 tokens, its ticket, and its receipt, which did not come with the answer.
async fn settled(books: &Books, customer: &Customer, provider: &Provider) -> (Ticket, Receipt) {
    let ticket = customer.ticket(books, provider).await;
    books.settle(&[customer.settlement(books, ticket.clone(), tokens(10, 20))]).await;
    let receipt = provider.receipt(books, &ticket, tokens(10, 20));
    (ticket, receipt)
}

on_both! {
    async fn a_receipt_is_acknowledged_as_often_as_it_is_offered_and_changes_nothing(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let (_, one) = settled(books, &customer, &provider).await;
        let (_, two) = settled(books, &customer, &provider).await;
        assert_eq!(books.offer(&provider, vec![one.clone()]).await, [Committed]);
        assert_eq!(books.offer(&provider, vec![one.clone(), two.clone(), two]).await, [Committed, Committed, Committed]);
        assert_eq!(books.offer(&provider, vec![one]).await, [Committed]);
        assert_eq!(books.pending(&provider).await, usd("0.00009"));
        assert_eq!(books.spendable(&customer.account).await, usd("0.9999"));
        assert_eq!(books.number("SELECT COUNT(*) FROM batches WHERE kind = 'receipts'").await, 2, "one for each with news");
        assert_eq!(books.offer(&provider, vec![]).await, []);
    }

    async fn a_receipt_under_keys_that_are_newer_than_this_gateways_is_taken_all_the_same(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let desk = ReceiptDesk::new(books.store.clone(), books.keys.clone());
        let other_gateway = books.store.rotate_signing_keys().await.expect("new keys");
        let ticket = customer.ticket(books, &provider).await;
        let settlement = customer.settlement_with(&other_gateway, ticket.clone(), tokens(10, 20));
        let receipt = Receipt { ticket: settlement.ticket_text.clone(), claims: claims(tokens(10, 20)), voucher: None };
        books.settle(&[settlement]).await;
        let stranger = HmacKey::from_secret(&[9; 32]).sign(TICKET_TYP, "unknown", &ticket);
        let forged = Receipt { ticket: stranger, ..receipt.clone() };
        let batch = ReceiptBatch::sign(&provider.key, vec![receipt, forged], 1_700_000_000);
        let taken = desk.take(&batch, |_| true).await.expect("a batch in order");
        assert_eq!(taken.verdicts, [Committed, refused(Refusal::NoTicket)]);
        assert_eq!(books.keys.ids(), other_gateway.ids(), "whoever shares the keys follows");
    }

    async fn the_same_receipt_offered_at_once_is_committed_once(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let mut receipts = Vec::new();
        for _ in 0..5 {
            receipts.push(settled(books, &customer, &provider).await.1);
        }
        let mut offering = Vec::new();
        for turn in 0..4 {
            let mut receipts = receipts.clone();
            receipts.rotate_left(turn);
            offering.push(books.offer(&provider, receipts));
        }
        for verdicts in futures_util::future::join_all(offering).await {
            assert!(verdicts.iter().all(|verdict| matches!(verdict, Committed | Pending)), "{verdicts:?}");
        }
        assert_eq!(books.offer(&provider, receipts).await, vec![Committed; 5]);
        assert_eq!(books.number("SELECT COUNT(*) FROM attempts WHERE receipt_batch IS NOT NULL").await, 5);
    }

    async fn a_receipt_that_came_with_the_answer_can_only_be_signed_as_it_was(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let ticket = customer.ticket(books, &provider).await;
        let came = Some(claims(tokens(10, 20)));
        books.settle(&[Settlement { receipt: came, ..customer.settlement(books, ticket.clone(), tokens(10, 20)) }]).await;
        let other = provider.receipt(books, &ticket, tokens(10, 21));
        assert_eq!(books.offer(&provider, vec![other.clone()]).await, [refused(Refusal::AnotherReceipt)]);
        let same = provider.receipt(books, &ticket, tokens(10, 20));
        assert_eq!(books.offer(&provider, vec![same.clone(), other]).await, [Committed, refused(Refusal::AnotherReceipt)]);
        assert_eq!(books.offer(&provider, vec![same]).await, [Committed]);
    }

    async fn where_the_receipt_claims_less_the_difference_goes_back(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let (ticket, _) = settled(books, &customer, &provider).await;
        let less = provider.receipt(books, &ticket, tokens(10, 15));
        assert_eq!(books.offer(&provider, vec![less.clone()]).await, [Committed]);
        assert_eq!(books.spendable(&customer.account).await, usd("0.99996"));
        assert_eq!((books.pending(&provider).await, books.revenue().await), (usd("0.000036"), usd("0.000004")));
        assert_eq!(books.offer(&provider, vec![less]).await, [Committed], "once");
        assert_eq!(books.spendable(&customer.account).await, usd("0.99996"));
    }

    async fn where_the_receipt_claims_more_the_gateways_count_stands(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let (ticket, _) = settled(books, &customer, &provider).await;
        let more = provider.receipt(books, &ticket, tokens(12, 25));
        assert_eq!(books.offer(&provider, vec![more]).await, [Committed]);
        assert_eq!(books.spendable(&customer.account).await, usd("0.99995"));
    }

    async fn each_reason_to_refuse_is_told(books: &Books) {
        let (customer, provider, other) = (books.customer("1").await, Provider::new(1), Provider::new(2));
        let (ticket, receipt) = settled(books, &customer, &provider).await;
        assert_eq!(books.offer(&other, vec![receipt.clone()]).await, [refused(Refusal::AnotherProvider)]);
        let above = provider.receipt(books, &ticket, tokens(10, 201));
        assert_eq!(books.offer(&provider, vec![above]).await, [refused(Refusal::AboveCeiling)]);
        let malformed = Receipt { claims: "{}".into(), ..receipt.clone() };
        assert_eq!(books.offer(&provider, vec![malformed]).await, [refused(Refusal::Malformed)]);
        let mut forged = receipt.clone();
        forged.ticket.pop();
        assert_eq!(books.offer(&provider, vec![forged]).await, [refused(Refusal::NoTicket)]);
        let strict = Ticket { digests: vec!["sha256:b".into()], ..customer.ticket(books, &provider).await };
        let weights = provider.receipt(books, &strict, tokens(10, 20));
        assert_eq!(books.offer(&provider, vec![weights]).await, [refused(Refusal::DigestNotAccepted)]);
        // One that is refused does not hold up the others.
        let above = provider.receipt(books, &customer.ticket(books, &provider).await, tokens(10, 201));
        assert_eq!(books.offer(&provider, vec![above, receipt]).await, [refused(Refusal::AboveCeiling), Committed]);
    }

    async fn a_refusal_of_the_callers_is_passed_on(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let (_, receipt) = settled(books, &customer, &provider).await;
        let batch = ReceiptBatch::sign(&provider.key, vec![receipt], 0);
        let (_, leaves) = batch.verify().expect("signed just now");
        let verdicts = books.store.commit_receipts(&provider.id, &batch, &leaves, &[Err(Refusal::BadSignature)]).await;
        assert_eq!(verdicts.expect("answer"), [refused(Refusal::BadSignature)]);
        assert_eq!(books.number("SELECT COUNT(*) FROM attempts WHERE receipt_batch IS NOT NULL").await, 0);
    }

    async fn a_receipt_before_its_settlement_waits_while_the_gateway_may_still_settle(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let ticket = customer.ticket(books, &provider).await;
        let receipt = provider.receipt(books, &ticket, tokens(10, 20));
        assert_eq!(books.offer(&provider, vec![receipt.clone()]).await, [Pending]);
        books.settle(&[customer.settlement(books, ticket, tokens(10, 20))]).await;
        assert_eq!(books.offer(&provider, vec![receipt]).await, [Committed]);
        assert_eq!(books.spendable(&customer.account).await, usd("0.99995"));
    }

    async fn when_the_gateway_is_gone_the_receipt_stands_alone(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let ticket = customer.ticket(books, &provider).await;
        let receipt = provider.vouched_receipt(books, &ticket, tokens(10, 20));
        books.store.shift_clock(LEASE * 2);
        assert_eq!(books.offer(&provider, vec![receipt.clone()]).await, [Committed]);
        assert_eq!(books.offer(&provider, vec![receipt]).await, [Committed]);
        assert_eq!(books.spendable(&customer.account).await, usd("0.99995"));
        assert_eq!((books.pending(&provider).await, books.revenue().await), (usd("0.000045"), usd("0.000005")));
        // The gateway was frozen, not dead, and settles after all: charged once.
        books.settle(&[customer.settlement(books, ticket, tokens(10, 20))]).await;
        assert_eq!(books.spendable(&customer.account).await, usd("0.99995"));
    }

    async fn a_receipt_and_a_settlement_at_once_charge_once(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let mut batch = Vec::new();
        let mut receipts = Vec::new();
        for _ in 0..10 {
            let ticket = customer.ticket(books, &provider).await;
            receipts.push(provider.vouched_receipt(books, &ticket, tokens(10, 20)));
            batch.push(customer.settlement(books, ticket, tokens(10, 20)));
        }
        books.store.shift_clock(LEASE * 2);
        let (_, verdicts) = tokio::join!(books.settle(&batch), books.offer(&provider, receipts.clone()));
        assert!(verdicts.iter().all(|verdict| matches!(verdict, Committed | Pending)), "{verdicts:?}");
        assert_eq!(books.offer(&provider, receipts).await, vec![Committed; 10]);
        assert_eq!(books.spendable(&customer.account).await, usd("0.9995"));
    }

    async fn a_later_attempt_says_how_far_an_earlier_one_came(books: &Books) {
        let (customer, provider, other) = (books.customer("1").await, Provider::new(1), Provider::new(2));
        let first = customer.ticket(books, &provider).await;
        let second = Ticket {
            attempt: 2,
            first_token: 30,
            max_prompt_tokens: 0,
            provider: other.id.to_string(),
            ..first.clone()
        };
        books.store.shift_clock(LEASE * 2);
        let went_on = other.vouched_receipt(books, &second, tokens(10, 50));
        assert_eq!(books.offer(&other, vec![went_on]).await, [Committed], "its prompt is the first one's");
        let broke_off = provider.vouched_receipt(books, &first, tokens(10, 45));
        assert_eq!(books.offer(&provider, vec![broke_off]).await, [Committed]);
        assert_eq!(books.number("SELECT completion_tokens FROM attempts WHERE attempt = 1").await, 30);
        assert_eq!(books.number("SELECT prompt_tokens FROM attempts WHERE attempt = 2").await, 0);
        assert_eq!(books.spendable(&customer.account).await, usd("0.99983"));
    }

    async fn attempts_of_one_job_that_stand_alone_stay_below_its_ceiling(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let first = customer.ticket(books, &provider).await;
        let ceiling = first.ceiling;
        let tickets = [1, 2, 3].map(|attempt| Ticket { attempt, first_token: 0, ..first.clone() });
        books.store.shift_clock(LEASE * 2);
        // In one batch and in two, in any order: whoever comes first is paid, never more than the job may cost.
        let receipts: Vec<Receipt> = tickets.iter().rev().map(|t| provider.vouched_receipt(books, t, tokens(100, 200))).collect();
        assert_eq!(books.offer(&provider, receipts[..2].to_vec()).await, [Committed, Committed]);
        assert_eq!(books.offer(&provider, receipts).await, [Committed, Committed, Committed]);
        assert_eq!(books.spendable(&customer.account).await, usd("1").checked_sub(ceiling).expect("a balance"));
    }

    async fn a_claim_that_comes_too_late_is_refused(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let ticket = customer.ticket(books, &provider).await;
        books.store.shift_clock(std::time::Duration::from_secs(302));
        let late = provider.receipt(books, &ticket, tokens(10, 20));
        assert_eq!(books.offer(&provider, vec![late]).await, [refused(Refusal::TooLate)]);
        assert_eq!(books.spendable(&customer.account).await, usd("1"));
    }

    async fn a_claim_on_an_allowance_that_was_given_back_is_refused(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let ticket = Ticket { claim_by: u64::MAX, ..customer.ticket(books, &provider).await };
        books.store.shift_clock(LEASE + CLAIM_WINDOW * 2);
        assert_eq!(books.store.release_ended(CLAIM_WINDOW).await.expect("answer"), 1);
        let late = provider.receipt(books, &ticket, tokens(10, 20));
        assert_eq!(books.offer(&provider, vec![late]).await, [refused(Refusal::Released)]);
        let unknown = lumbung_gateway::domain::ids::AllowanceId::fresh().to_string();
        let nobodys = provider.receipt(books, &Ticket { allowance: unknown, ..ticket }, tokens(10, 20));
        assert_eq!(books.offer(&provider, vec![nobodys]).await, [refused(Refusal::NoTicket)]);
        assert_eq!(books.number("SELECT COUNT(*) FROM batches WHERE kind = 'receipts'").await, 0, "nothing refers to one");
    }
}
