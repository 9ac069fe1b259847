//! What becomes of providers' shares: held back, payable, clawed back, paid out, and explained.

use std::time::Duration;

use lumbung_gateway::domain::ids::JobId;
use lumbung_gateway::domain::provider::Standing;
use lumbung_gateway::domain::settlement::Tokens;
use lumbung_gateway::store::{Claw, PayoutRun, PayoutState, PayoutTerms, StatementPage, StoreErrorKind};
use lumbung_openapi::earnings::{EarningState, EarningsStatement};
use lumbung_openapi::money::NanoUsd;
use lumbung_openapi::receipt::ReceiptVerdict;
use lumbung_openapi::ticket::Ticket;

use crate::on_both;
use crate::support::{Books, Customer, Provider, nanos, tokens, usd};

const HOLDBACK: Duration = Duration::from_secs(7 * 86_400);
const COOLDOWN: Duration = Duration::from_secs(3 * 86_400);
const SHARE: i64 = 45_000;

async fn serve(books: &Books, customer: &Customer, provider: &Provider, used: Tokens) -> Ticket {
    let ticket = customer.ticket(books, provider).await;
    books.settle(&[customer.settlement(books, ticket.clone(), used)]).await;
    prove(books, provider, &ticket, used).await;
    ticket
}

async fn prove(books: &Books, provider: &Provider, ticket: &Ticket, used: Tokens) {
    let verdicts = books.offer(provider, vec![provider.receipt(books, ticket, used)]).await;
    assert_eq!(verdicts, [ReceiptVerdict::Committed]);
}

async fn joined(books: &Books, seed: u8) -> Provider {
    let provider = Provider::new(seed);
    books.store.register_provider(&provider.id).await.expect("joined");
    provider
}

async fn payable(books: &Books, provider: &Provider) -> NanoUsd {
    books.store.earnings(&provider.id).await.expect("earnings").payable
}

async fn mature_all(books: &Books) {
    books.store.shift_clock(HOLDBACK + Duration::from_secs(1));
    books.store.mature(HOLDBACK).await.expect("answer");
}

async fn run(books: &Books, minimum: i64) -> PayoutRun {
    let terms = PayoutTerms { minimum: nanos(minimum), cooldown: COOLDOWN, reference: String::new() };
    books.store.create_payouts(&terms).await.expect("a run")
}

async fn statement(books: &Books, provider: &Provider) -> EarningsStatement {
    let page = StatementPage { limit: 500, ..StatementPage::default() };
    books.store.earnings_statement(&provider.id, &page, HOLDBACK, COOLDOWN).await.expect("a statement")
}

on_both! {
    async fn a_share_is_payable_after_the_holdback_and_with_its_receipt_once(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        serve(books, &customer, &provider, tokens(10, 20)).await;
        let unproven = customer.ticket(books, &provider).await;
        books.settle(&[customer.settlement(books, unproven.clone(), tokens(10, 20))]).await;
        assert_eq!(books.store.mature(HOLDBACK).await.expect("answer"), 0, "it is early");
        books.store.shift_clock(HOLDBACK + Duration::from_secs(1));
        let mut maturing = tokio::task::JoinSet::new();
        for _ in 0..6 {
            let store = books.store.clone();
            maturing.spawn(async move { store.mature(HOLDBACK).await.expect("answer") });
        }
        assert_eq!(maturing.join_all().await.into_iter().sum::<u64>(), 1);
        assert_eq!((books.pending(&provider).await, payable(books, &provider).await), (nanos(SHARE), nanos(SHARE)));
        books.store.reclaim_withheld().await.expect("answer");
        assert_eq!(books.pending(&provider).await, nanos(0), "the other went back");
        assert_eq!(books.store.mature(HOLDBACK).await.expect("answer"), 0);
        assert_eq!(payable(books, &provider).await, nanos(SHARE));
    }

    async fn what_is_clawed_back_of_jobs_goes_to_their_clients_and_an_amount_is_revenue(books: &Books) {
        let (one, two, provider) = (books.customer("1").await, books.customer("1").await, Provider::new(1));
        let first = serve(books, &one, &provider, tokens(10, 20)).await;
        serve(books, &two, &provider, tokens(10, 20)).await;
        serve(books, &two, &provider, tokens(10, 20)).await;
        let jobs = Claw::Jobs(vec![first.job.parse::<JobId>().expect("an id")]);
        let claw = async |claw: &Claw, reason| books.store.claw_back(&provider.id, claw, reason, r#"{"audit": 7}"#).await;
        let done = claw(&jobs, "other weights than promised").await.expect("clawed back");
        assert_eq!((done.amount, done.refunded), (nanos(SHARE), nanos(SHARE)));
        assert_eq!(books.spendable(&one.account).await, usd("0.999995"), "all but the fee");
        assert_eq!(claw(&jobs, "again").await.expect_err("gone").kind(), StoreErrorKind::Conflict);
        books.assert_right().await;

        let before = books.revenue().await;
        let done = claw(&Claw::Amount(nanos(SHARE + 1)), "a fine").await.expect("clawed back");
        assert_eq!((done.amount, done.refunded), (nanos(SHARE + 1), nanos(0)));
        assert_eq!(books.revenue().await, before.checked_add(nanos(SHARE + 1)).expect("small"));
        assert_eq!(books.pending(&provider).await, nanos(SHARE - 1));
        let more = claw(&Claw::Amount(nanos(SHARE)), "more than there is").await.expect_err("too much");
        assert_eq!(more.kind(), StoreErrorKind::Conflict);
        assert_eq!(claw(&Claw::Amount(nanos(0)), "nothing").await.expect_err("nothing").kind(), StoreErrorKind::Invalid);
        assert_eq!(claw(&Claw::Amount(nanos(1)), "").await.expect_err("no reason").kind(), StoreErrorKind::Invalid);

        let shown = statement(books, &provider).await;
        let reasons: Vec<&str> = shown.data.iter().flat_map(|line| &line.clawbacks).map(|c| c.reason.as_str()).collect();
        assert_eq!(reasons.iter().filter(|reason| **reason == "other weights than promised").count(), 1);
        assert_eq!(reasons.iter().filter(|reason| **reason == "a fine").count(), 2, "of two attempts");
        assert_eq!(shown.data[0].clawbacks[0].evidence, r#"{"audit": 7}"#);
        mature_all(books).await;
        assert_eq!(payable(books, &provider).await, nanos(SHARE - 1));
        let late = claw(&Claw::Amount(nanos(1)), "too late").await.expect_err("payable");
        assert_eq!(late.kind(), StoreErrorKind::Conflict);
    }

    async fn payouts_go_to_those_who_may_be_paid_once(books: &Books) {
        let customer = books.customer("1").await;
        let (paid, silent, poor) = (joined(books, 1).await, joined(books, 2).await, joined(books, 3).await);
        let (banned, changed) = (joined(books, 4).await, joined(books, 5).await);
        for provider in [&paid, &silent, &banned, &changed] {
            serve(books, &customer, provider, tokens(10, 20)).await;
        }
        serve(books, &customer, &poor, tokens(1, 2)).await;
        for provider in [&paid, &poor, &banned, &changed] {
            books.store.set_payout_details(&provider.id, "DE02 1203").await.expect("details");
        }
        mature_all(books).await;
        books.store.set_payout_details(&changed.id, "a thief's").await.expect("changed");
        books.store.set_standing(&banned.id, Standing::Banned).await.expect("banned");
        let mut running = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let store = books.store.clone();
            running.spawn(async move {
                let terms = PayoutTerms { minimum: nanos(SHARE), cooldown: COOLDOWN, reference: String::new() };
                store.create_payouts(&terms).await.expect("a run")
            });
        }
        let runs = running.join_all().await;
        assert_eq!(runs.iter().map(|run| run.payouts).sum::<i64>(), 1, "one provider, once");
        let run = runs.iter().find(|run| run.payouts == 1).expect("one of them");
        let payouts = books.store.payouts_of(&run.id).await.expect("payouts");
        assert_eq!((&payouts[0].provider, payouts[0].amount), (&paid.id, nanos(SHARE)));
        assert_eq!((payouts[0].details.as_str(), payouts[0].state), ("DE02 1203", PayoutState::InTransit));
        books.assert_right().await;

        let id = payouts[0].id;
        let reversed = books.store.reverse_payout(&id).await.expect("reversed");
        assert_eq!((reversed.state, payable(books, &paid).await), (PayoutState::Reversed, nanos(SHARE)));
        books.store.reverse_payout(&id).await.expect("again changes nothing");
        assert_eq!(payable(books, &paid).await, nanos(SHARE));
        assert_eq!(books.store.confirm_payout(&id, "x").await.expect_err("gone").kind(), StoreErrorKind::Conflict);

        let terms = PayoutTerms { minimum: nanos(1), cooldown: COOLDOWN, reference: "november".into() };
        let november = books.store.create_payouts(&terms).await.expect("a run");
        assert_eq!((november.payouts, november.total), (2, nanos(SHARE + 4_500)), "and the poor one");
        assert_eq!(books.store.create_payouts(&terms).await.expect("the same run"), november);
        let payouts = books.store.payouts_of(&november.id).await.expect("payouts");
        let mine = payouts.iter().find(|payout| payout.provider == paid.id).expect("a payout");
        let confirmed = books.store.confirm_payout(&mine.id, "transfer 1").await.expect("confirmed");
        assert_eq!(books.store.confirm_payout(&mine.id, "transfer 1").await.expect("again"), confirmed);
        assert_eq!(books.store.confirm_payout(&mine.id, "2").await.expect_err("other").kind(), StoreErrorKind::Conflict);
        assert_eq!(books.store.reverse_payout(&mine.id).await.expect_err("arrived").kind(), StoreErrorKind::Conflict);
        books.assert_right().await;

        books.store.shift_clock(COOLDOWN + Duration::from_secs(1));
        let late = books.store.create_payouts(&PayoutTerms { reference: "december".into(), ..terms }).await.expect("a run");
        let payouts = books.store.payouts_of(&late.id).await.expect("payouts");
        assert_eq!((payouts.len(), payouts[0].details.as_str()), (1, "a thief's"), "time to object has passed");
        assert_eq!(payouts[0].details_version, 2);
        let shown = statement(books, &paid).await;
        assert_eq!((shown.data[0].state, shown.totals.paid), (EarningState::Paid, nanos(SHARE)));
        assert_eq!(shown.data[0].payout.as_deref(), Some(mine.id.to_string().as_str()));
    }

    async fn payout_details_are_one_line_of_someone_who_joined(books: &Books) {
        let provider = Provider::new(1);
        let set = async |details: &str| books.store.set_payout_details(&provider.id, details).await;
        assert_eq!(set("DE02").await.expect_err("never joined").kind(), StoreErrorKind::Missing);
        books.store.register_provider(&provider.id).await.expect("joined");
        for wrong in ["", "  ", "two\nlines", &"x".repeat(513)] {
            assert_eq!(set(wrong).await.expect_err("no details").kind(), StoreErrorKind::Invalid);
        }
        let first = set(" DE02 ").await.expect("set");
        assert_eq!((first.version, first.details.as_str()), (1, "DE02"));
        assert_eq!(set("DE02").await.expect("the same"), first);
        assert_eq!(set("DE03").await.expect_err("just now").kind(), StoreErrorKind::Conflict);
        books.store.shift_clock(Duration::from_secs(61));
        assert_eq!(set("DE03").await.expect("changed").version, 2);
        assert_eq!(books.number("SELECT COUNT(*) FROM payout_details").await, 2, "both are kept");
    }

    async fn a_statement_explains_every_deduction_and_adds_up(books: &Books) {
        let (customer, provider) = (books.customer("1").await, joined(books, 1).await);
        serve(books, &customer, &provider, tokens(10, 20)).await;
        let corrected = customer.ticket(books, &provider).await;
        books.settle(&[customer.settlement(books, corrected.clone(), tokens(10, 20))]).await;
        prove(books, &provider, &corrected, tokens(10, 15)).await;
        let unsigned = customer.ticket(books, &provider).await;
        books.settle(&[customer.settlement(books, unsigned.clone(), tokens(10, 20))]).await;
        let line = async |ticket: &Ticket| {
            let shown = statement(books, &provider).await;
            shown.data.into_iter().find(|line| line.job == ticket.job).expect("a line")
        };
        let waiting = line(&unsigned).await;
        assert_eq!((waiting.state, waiting.receipt_by), (EarningState::AwaitingReceipt, Some(unsigned.claim_by)));
        assert!(waiting.payable_from > waiting.receipt_by);
        let less = line(&corrected).await;
        assert_eq!((less.corrected_from, less.share), (Some(nanos(SHARE)), nanos(36_000)));
        assert_eq!((less.prompt_tokens, less.completion_tokens, less.gross, less.fee), (10, 15, nanos(40_000), nanos(4_000)));
        books.store.shift_clock(Duration::from_secs(302));
        books.store.reclaim_withheld().await.expect("answer");
        let gone = line(&unsigned).await;
        assert_eq!((gone.state, gone.share, gone.net), (EarningState::Withheld, nanos(SHARE), nanos(0)));
        let totals = statement(books, &provider).await.totals;
        assert_eq!((totals.pending, totals.withheld), (nanos(SHARE + 36_000), nanos(SHARE)));
        assert_eq!(totals.earned, nanos(2 * SHARE + 36_000));
        let stranger = statement(books, &Provider::new(9)).await;
        assert_eq!((stranger.data.len(), stranger.totals.earned), (0, nanos(0)));
    }

    async fn a_statement_is_read_page_by_page(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let mut batch = Vec::new();
        for _ in 0..7 {
            let ticket = customer.ticket(books, &provider).await;
            batch.push(customer.settlement(books, ticket, tokens(10, 20))); // all at one moment
        }
        books.settle(&batch).await;
        let (mut after, mut jobs) = (None, Vec::new());
        loop {
            let page = StatementPage { since_us: 0, after, limit: 3 };
            let page = books.store.earnings_statement(&provider.id, &page, HOLDBACK, COOLDOWN).await.expect("a page");
            jobs.extend(page.data.iter().map(|line| line.job.clone()));
            assert_eq!(page.has_more, page.next_cursor.is_some());
            let Some(cursor) = page.next_cursor else { break };
            after = Some(cursor.parse().expect("a cursor"));
        }
        assert_eq!(jobs.len(), 7);
        jobs.sort();
        jobs.dedup();
        assert_eq!(jobs.len(), 7, "each once");
        assert!(run(books, 1).await.payouts == 0, "nothing is payable yet");
    }
}
