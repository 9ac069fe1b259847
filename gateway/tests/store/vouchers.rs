//! Receipts of jobs whose gateway died: paid up to its last voucher, once, and never without its word.

use lumbung_gateway::domain::refusal::Refusal;
use lumbung_gateway::domain::settlement::{Charge, Tokens};
use lumbung_gateway::store::{SettleOutcome, Settlement};
use lumbung_openapi::jws::HmacKey;
use lumbung_openapi::money::NanoUsd;
use lumbung_openapi::receipt::{Receipt, ReceiptVerdict};
use lumbung_openapi::ticket::Ticket;
use lumbung_openapi::voucher::{VOUCHER_TYP, Voucher};

use crate::on_both;
use crate::support::{Books, LEASE, Provider, claims, tokens, usd};

use ReceiptVerdict::{Committed, Pending};

fn refused(refusal: Refusal) -> ReceiptVerdict {
    ReceiptVerdict::Refused { reason: refusal.to_string() }
}

/// The gateway's word that so many tokens of a ticket's job have arrived.
fn voucher(ticket: &Ticket, tokens: u32) -> Voucher {
    Voucher { job: ticket.job.clone(), attempt: ticket.attempt, tokens, ceiling: ticket.ceiling }
}

/// A receipt that claims `claimed`, with a voucher.
fn receipt(books: &Books, provider: &Provider, ticket: &Ticket, claimed: Tokens, voucher: &Voucher) -> Receipt {
    let voucher = Some(books.keys.sign_voucher(voucher));
    Receipt { voucher, ..provider.receipt(books, ticket, claimed) }
}

fn cost(ticket: &Ticket, prompt: u32, completion: u32) -> NanoUsd {
    ticket.price.cost(prompt, completion).expect("a small cost")
}

/// Fails unless a dollar less this much is left.
async fn assert_charged(books: &Books, account: &lumbung_gateway::domain::ids::AccountId, charge: NanoUsd) {
    assert_eq!(books.spendable(account).await, usd("1").checked_sub(charge).expect("less than a dollar"));
}

on_both! {
    async fn a_receipt_alone_is_paid_up_to_the_last_voucher(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let ticket = customer.ticket(books, &provider).await;
        let inflated = receipt(books, &provider, &ticket, tokens(10, 200), &voucher(&ticket, 64));
        assert_eq!(books.offer(&provider, vec![inflated.clone()]).await, [Pending], "its gateway may still settle");
        books.store.shift_clock(LEASE * 2);
        assert_eq!(books.offer(&provider, vec![inflated.clone()]).await, [Committed]);
        assert_charged(books, &customer.account, cost(&ticket, 10, 64)).await;
        assert_eq!(books.number("SELECT completion_tokens FROM attempts").await, 64);
        // The same again is acknowledged, with a later voucher too: the attempt is settled.
        let later = receipt(books, &provider, &ticket, tokens(10, 200), &voucher(&ticket, 128));
        assert_eq!(books.offer(&provider, vec![inflated, later]).await, [Committed, refused(Refusal::AnotherReceipt)]);
        let later = receipt(books, &provider, &ticket, tokens(10, 200), &voucher(&ticket, 128));
        assert_eq!(books.offer(&provider, vec![later]).await, [Committed]);
        let other = receipt(books, &provider, &ticket, tokens(10, 64), &voucher(&ticket, 64));
        assert_eq!(books.offer(&provider, vec![other]).await, [refused(Refusal::AnotherReceipt)]);
        // And so is its gateway's own settlement, should it have been frozen only.
        let outcome = books.settle(&[customer.settlement(books, ticket.clone(), tokens(10, 200))]).await;
        assert_eq!(outcome, [SettleOutcome::Already]);
        assert_charged(books, &customer.account, cost(&ticket, 10, 64)).await;
    }

    async fn where_the_receipt_claims_less_than_was_vouched_for_it_stands(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let ticket = customer.ticket(books, &provider).await;
        books.store.shift_clock(LEASE * 2);
        let modest = receipt(books, &provider, &ticket, tokens(10, 20), &voucher(&ticket, 64));
        assert_eq!(books.offer(&provider, vec![modest]).await, [Committed]);
        assert_charged(books, &customer.account, cost(&ticket, 10, 20)).await;
    }

    async fn without_a_voucher_only_the_prompt_is_paid(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let (ticket, other) = (customer.ticket(books, &provider).await, customer.ticket(books, &provider).await);
        let whole = Ticket { whole: true, ..other };
        books.store.shift_clock(LEASE * 2);
        assert_eq!(books.offer(&provider, vec![provider.receipt(books, &ticket, tokens(10, 20))]).await, [Committed]);
        assert_charged(books, &customer.account, cost(&ticket, 10, 0)).await;
        // Of an answer that is not streamed the client got nothing, and pays nothing.
        assert_eq!(books.offer(&provider, vec![provider.receipt(books, &whole, tokens(10, 20))]).await, [Committed]);
        assert_charged(books, &customer.account, cost(&ticket, 10, 0)).await;
        assert_eq!(books.number("SELECT CAST(COUNT(*) AS BIGINT) FROM attempts WHERE charge = 0").await, 1);
    }

    async fn an_answer_that_is_not_streamed_is_paid_once_it_was_whole(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let ticket = Ticket { whole: true, ..customer.ticket(books, &provider).await };
        books.store.shift_clock(LEASE * 2);
        let whole = receipt(books, &provider, &ticket, tokens(10, 20), &voucher(&ticket, 20));
        assert_eq!(books.offer(&provider, vec![whole]).await, [Committed]);
        assert_charged(books, &customer.account, cost(&ticket, 10, 20)).await;
    }

    async fn forged_and_foreign_vouchers_are_refused(books: &Books) {
        let (customer, provider, other) = (books.customer("1").await, Provider::new(1), Provider::new(2));
        let ticket = customer.ticket(books, &provider).await;
        let theirs = Ticket { provider: other.id.to_string(), ..customer.ticket(books, &provider).await };
        books.store.shift_clock(LEASE * 2);
        let plain = provider.receipt(books, &ticket, tokens(10, 200));
        let with = |voucher: String| Receipt { voucher: Some(voucher), ..plain.clone() };
        let sign = |voucher: &Voucher| books.keys.sign_voucher(voucher);
        let stranger = HmacKey::from_secret(&[9; 32]).sign(VOUCHER_TYP, &books.keys.ids().0, &voucher(&ticket, 200));
        let unknown_key = HmacKey::from_secret(&[9; 32]).sign(VOUCHER_TYP, "mine", &voucher(&ticket, 200));
        let second = Voucher { attempt: 2, ..voucher(&ticket, 200) };
        let mut changed = sign(&voucher(&ticket, 64));
        changed.replace_range(..1, "f");
        for (forged, refusal) in [
            (stranger, Refusal::NoVoucher),
            (unknown_key, Refusal::NoVoucher),
            (changed, Refusal::NoVoucher),
            (books.keys.sign_ticket(&ticket), Refusal::NoVoucher),
            ("none".to_owned(), Refusal::NoVoucher),
            (sign(&voucher(&theirs, 200)), Refusal::AnotherVoucher),
            (sign(&second), Refusal::AnotherVoucher),
        ] {
            assert_eq!(books.offer(&provider, vec![with(forged)]).await, [refused(refusal)]);
        }
        // Another provider's ticket and voucher together are still another provider's.
        let stolen = receipt(books, &provider, &theirs, tokens(10, 200), &voucher(&theirs, 200));
        assert_eq!(books.offer(&provider, vec![stolen]).await, [refused(Refusal::AnotherProvider)]);
        assert_charged(books, &customer.account, NanoUsd::ZERO).await;
        // What was refused has spoiled nothing.
        assert_eq!(books.offer(&provider, vec![with(sign(&voucher(&ticket, 64)))]).await, [Committed]);
        assert_charged(books, &customer.account, cost(&ticket, 10, 64)).await;
    }

    async fn a_voucher_does_not_make_a_late_claim_timely(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let ticket = customer.ticket(books, &provider).await;
        books.store.shift_clock(std::time::Duration::from_secs(302));
        let late = receipt(books, &provider, &ticket, tokens(10, 20), &voucher(&ticket, 20));
        assert_eq!(books.offer(&provider, vec![late]).await, [refused(Refusal::TooLate)]);
        assert_charged(books, &customer.account, NanoUsd::ZERO).await;
    }

    async fn a_voucher_raises_what_the_job_may_cost(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let held = customer.ticket(books, &provider).await;
        let ticket = Ticket { max_completion_tokens: 10_000, ceiling: cost(&held, 100, 50), ..held };
        let raised = Voucher { ceiling: cost(&ticket, 100, 1000), ..voucher(&ticket, 900) };
        books.store.shift_clock(LEASE * 2);
        let long = receipt(books, &provider, &ticket, tokens(100, 900), &raised);
        assert_eq!(books.offer(&provider, vec![long]).await, [Committed]);
        assert_charged(books, &customer.account, cost(&ticket, 100, 900)).await;
        assert_eq!(books.number("SELECT ceiling FROM attempts").await, raised.ceiling.nanos(), "the last one");
        // Another attempt at the job is charged within the same ceiling.
        let again = Ticket { attempt: 2, ..ticket.clone() };
        let second = receipt(books, &provider, &again, tokens(100, 900), &Voucher { attempt: 2, ..raised.clone() });
        assert_eq!(books.offer(&provider, vec![second]).await, [Committed]);
        assert_charged(books, &customer.account, raised.ceiling).await;
    }

    async fn what_vouchers_overstate_the_ceiling_still_bounds(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let held = customer.ticket(books, &provider).await;
        let ticket = Ticket { max_completion_tokens: 10_000, ceiling: cost(&held, 100, 50), ..held };
        books.store.shift_clock(LEASE * 2);
        let long = receipt(books, &provider, &ticket, tokens(100, 900), &voucher(&ticket, 900));
        assert_eq!(books.offer(&provider, vec![long]).await, [Committed]);
        assert_charged(books, &customer.account, ticket.ceiling).await;
    }

    async fn a_settlement_above_the_tickets_ceiling_is_corrected_by_what_was_charged(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let held = customer.ticket(books, &provider).await;
        let issued = Ticket { max_completion_tokens: 10_000, ceiling: cost(&held, 100, 50), ..held };
        // The gateway topped it up while it ran, and settles by the last ceiling.
        let topped_up = Ticket { ceiling: cost(&issued, 100, 1000), ..issued.clone() };
        let ticket_text = books.keys.sign_ticket(&issued);
        let settlement = Settlement { ticket_text, ..customer.settlement(books, topped_up, tokens(100, 900)) };
        let charge = Charge { amount: cost(&issued, 100, 900), ..settlement.charge };
        assert_eq!(books.settle(&[settlement]).await, [SettleOutcome::Settled(charge)]);
        assert_charged(books, &customer.account, cost(&issued, 100, 900)).await;
        // The receipt claims one token less, and has no voucher with the new ceiling.
        let less = Receipt { claims: claims(tokens(100, 899)), ..provider.receipt(books, &issued, tokens(100, 899)) };
        assert_eq!(books.offer(&provider, vec![less]).await, [Committed]);
        assert_charged(books, &customer.account, cost(&issued, 100, 899)).await;
    }
}
