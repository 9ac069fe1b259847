//! The outbox of webhooks: each thing is told once, whoever saw it; and nobody delivers what another is delivering.

use std::time::Duration;

use lumbung_gateway::domain::ids::{AccountId, WebhookId};
use lumbung_gateway::domain::role::{Actor, Role};
use lumbung_gateway::store::{Act, ActRequest, AuditLine, Begun, DeliveryRecord, PayoutTerms};
use lumbung_openapi::merkle::Hash;
use lumbung_openapi::webhook::{DeliveryState, WebhookEvent};

use crate::on_both;
use crate::support::{Books, Provider, nanos, tokens, usd};

const WEEK: Duration = Duration::from_secs(7 * 86_400);

async fn act(books: &Books) -> Box<Act> {
    let line = AuditLine {
        actor: Actor { subject: "olga".into(), issuer: "test".into(), role: Role::Admin },
        method: "POST".into(),
        route: "/".into(),
        resource: String::new(),
        status: 0,
        request_id: String::new(),
        idempotency_key: String::new(),
    };
    match books.store.begin(ActRequest { line, fingerprint: Hash::of(b"") }).await.expect("begun") {
        Begun::Fresh(act) => act,
        _ => panic!("it has no idempotency key"),
    }
}

async fn endpoint(books: &Books, events: &[WebhookEvent]) -> WebhookId {
    let mut act = act(books).await;
    let (record, secret) = act.create_webhook("https://hooks.example/", events).await.expect("created");
    act.finish(201, "", "").await.expect("finished");
    assert!(secret.starts_with("whsec_"));
    record.id
}

async fn threshold(books: &Books, account: &AccountId, dollars: Option<&str>) {
    let mut act = act(books).await;
    act.set_low_balance(account, dollars.map(usd)).await.expect("set");
    act.finish(200, "", "").await.expect("finished");
}

async fn spend(books: &Books, account: &AccountId, dollars: &str) {
    let mut act = act(books).await;
    act.refund(account, usd(dollars), "").await.expect("refunded");
    act.finish(201, "", "").await.expect("finished");
}

async fn top_up(books: &Books, account: &AccountId, dollars: &str) {
    let paid = lumbung_gateway::store::CreditKind::Paid;
    books.store.add_credit(account, usd(dollars), paid, "").await.expect("credited");
}

async fn gather(books: &Books) -> u64 {
    books.store.gather_webhook_events().await.expect("gathered")
}

async fn told(books: &Books, webhook: &WebhookId) -> Vec<DeliveryRecord> {
    books.store.webhook_deliveries(webhook, "", 100).await.expect("a list")
}

on_both! {
    async fn a_low_balance_is_told_once_for_each_crossing(books: &Books) {
        let (account, other) = (books.account_with(usd("10")).await, books.account_with(usd("1")).await);
        let hook = endpoint(books, &[WebhookEvent::LowBalance]).await;
        let deaf = endpoint(books, &[WebhookEvent::PayoutCreated]).await;
        threshold(books, &account, Some("5")).await;
        assert_eq!(gather(books).await, 0, "it is above");
        spend(books, &account, "5").await;
        assert_eq!(gather(books).await, 0, "it is just there, not below");
        spend(books, &account, "0.000000001").await;
        let another = books.other_process().await;
        let (here, there) = tokio::join!(books.store.gather_webhook_events(), another.gather_webhook_events());
        assert_eq!(here.expect("gathered") + there.expect("gathered"), 1, "two gateways see one crossing");
        spend(books, &account, "1").await;
        assert_eq!(gather(books).await, 0, "it was low already");
        top_up(books, &account, "1.000000001").await;
        assert_eq!(gather(books).await, 0, "armed again, without a word");
        spend(books, &account, "3").await;
        assert_eq!(gather(books).await, 1);
        threshold(books, &account, None).await;
        threshold(books, &account, Some("5")).await;
        assert_eq!(gather(books).await, 1, "asked for anew while it is low");
        threshold(books, &account, None).await;
        top_up(books, &account, "10").await;
        spend(books, &account, "11").await;
        assert_eq!(gather(books).await, 0, "nobody wants to know");
        let lines = told(books, &hook).await;
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.kind == WebhookEvent::LowBalance && line.state == DeliveryState::Pending));
        assert_eq!(told(books, &deaf).await, []);
        let due = another.claim_webhook_deliveries().await.expect("claimed");
        let bodies: Vec<serde_json::Value> =
            due.iter().map(|due| serde_json::from_str(&due.body).expect("JSON")).collect();
        assert_eq!(bodies.len(), 3);
        assert!(bodies.iter().any(|body| body["data"]["spendable_usd"] == "4.999999999"), "{bodies:?}");
        assert!(bodies.iter().all(|body| body["data"]["account"] == account.to_string()
            && body["data"]["threshold_usd"] == "5" && body["type"] == "account.low_balance"));
        let mut wrong = act(books).await;
        assert!(wrong.set_low_balance(&other, Some(nanos(0))).await.is_err());
        drop(wrong);
        let mut wrong = act(books).await;
        assert!(wrong.set_low_balance(&AccountId::fresh(), None).await.is_err());
        another.close().await;
    }

    async fn payouts_are_told_as_they_go(books: &Books) {
        let customer = books.customer("1").await;
        let early = endpoint(books, &WebhookEvent::ALL).await;
        let mut providers = Vec::new();
        for seed in [1, 2] {
            let provider = Provider::new(seed);
            books.store.register_provider(&provider.id).await.expect("joined");
            let ticket = customer.ticket(books, &provider).await;
            books.settle(&[customer.settlement(books, ticket.clone(), tokens(10, 20))]).await;
            books.offer(&provider, vec![provider.receipt(books, &ticket, tokens(10, 20))]).await;
            books.store.set_payout_details(&provider.id, "DE02 1203").await.expect("details");
            providers.push(provider);
        }
        books.store.shift_clock(WEEK + Duration::from_secs(1));
        books.store.mature(WEEK).await.expect("matured");
        let terms = PayoutTerms { minimum: nanos(1), cooldown: WEEK, reference: String::new() };
        let run = books.store.create_payouts(&terms).await.expect("a run");
        assert_eq!(run.payouts, 2);
        assert_eq!(gather(books).await, 2);
        let late = endpoint(books, &WebhookEvent::ALL).await;
        let payouts = books.store.payouts_of(&run.id).await.expect("payouts");
        books.store.confirm_payout(&payouts[0].id, "transfer 7").await.expect("confirmed");
        books.store.reverse_payout(&payouts[1].id).await.expect("reversed");
        assert_eq!(gather(books).await, 2);
        assert_eq!(gather(books).await, 0, "each once");
        let kinds = |lines: Vec<DeliveryRecord>| {
            let mut kinds: Vec<WebhookEvent> = lines.into_iter().map(|line| line.kind).collect();
            kinds.sort_unstable();
            kinds
        };
        let (created, ends) = (WebhookEvent::PayoutCreated, [WebhookEvent::PayoutConfirmed, WebhookEvent::PayoutReversed]);
        assert_eq!(kinds(told(books, &early).await), [created, created, ends[0], ends[1]]);
        assert_eq!(kinds(told(books, &late).await), ends, "not of what was before");
        let due = books.store.claim_webhook_deliveries().await.expect("claimed");
        assert_eq!(due.len(), 6);
        let of = |name: &str| due.iter().find(|due| due.body.contains(name)).expect("it").body.clone();
        let confirmed: serde_json::Value = serde_json::from_str(&of("payout.confirmed")).expect("JSON");
        assert_eq!(confirmed["data"]["reference"], "transfer 7");
        assert_eq!(confirmed["data"]["payout"], payouts[0].id.to_string());
        assert!(due.iter().all(|due| !due.body.contains("DE02")), "where to is nobody's business");
    }

    async fn a_delivery_is_claimed_by_one_and_given_up_in_the_end(books: &Books) {
        let hook = endpoint(books, &[WebhookEvent::LowBalance]).await;
        for _ in 0..6 {
            threshold(books, &books.account_with(usd("1")).await, Some("5")).await;
        }
        assert_eq!(gather(books).await, 6);
        let another = books.other_process().await;
        let (here, there) = tokio::join!(books.store.claim_webhook_deliveries(), another.claim_webhook_deliveries());
        let mut claimed = [here.expect("claimed"), there.expect("claimed")].concat();
        another.close().await;
        claimed.sort_by_key(|due| due.event);
        claimed.dedup_by_key(|due| due.event);
        assert_eq!(claimed.len(), 6, "none twice, none left out");
        assert!(claimed.iter().all(|due| due.tries == 1));
        assert_eq!(books.store.claim_webhook_deliveries().await.expect("none"), []);

        // One is delivered; one answers no; the others' gateway dies.
        books.store.end_webhook_try(&claimed[0], Some(204), None).await.expect("written");
        books.store.end_webhook_try(&claimed[1], Some(503), Some(Duration::from_secs(5))).await.expect("written");
        let lines = told(books, &hook).await;
        let line = |at: usize| lines.iter().find(|line| line.event == claimed[at].event).expect("a line");
        assert_eq!((line(0).state, line(0).last_status), (DeliveryState::Delivered, Some(204)));
        assert_eq!((line(1).state, line(1).last_status), (DeliveryState::Pending, Some(503)));
        books.store.shift_clock(Duration::from_secs(6));
        let again = books.store.claim_webhook_deliveries().await.expect("claimed");
        assert_eq!(again.iter().map(|due| (due.event, due.tries)).collect::<Vec<_>>(), [(claimed[1].event, 2)]);
        books.store.shift_clock(Duration::from_secs(61));
        let orphans = books.store.claim_webhook_deliveries().await.expect("claimed");
        assert_eq!(orphans.len(), 5);
        // The first gateway comes back too late to say anything of it.
        books.store.end_webhook_try(&claimed[2], None, None).await.expect("nothing");
        books.store.end_webhook_try(&orphans[0], None, None).await.expect("written");
        let dead = |lines: &[DeliveryRecord]| lines.iter().filter(|line| line.state == DeliveryState::Dead).count();
        assert_eq!(dead(&told(books, &hook).await), 1);

        let mut act = act(books).await;
        act.remove_webhook(&hook).await.expect("removed");
        act.finish(200, "", "").await.expect("finished");
        let lines = told(books, &hook).await;
        assert_eq!((dead(&lines), lines.iter().filter(|line| line.next_try_at_us.is_some()).count()), (5, 0));
        assert_eq!(books.number("SELECT COUNT(*) FROM webhooks WHERE secret <> ''").await, 0);
        threshold(books, &books.account_with(usd("1")).await, Some("5")).await;
        assert_eq!((gather(books).await, told(books, &hook).await.len()), (1, 6), "it is told nothing more");
    }
    async fn what_was_told_long_ago_is_forgotten_and_never_told_again(books: &Books) {
        let hook = endpoint(books, &WebhookEvent::ALL).await;
        for _ in 0..3 {
            threshold(books, &books.account_with(usd("1")).await, Some("5")).await;
        }
        assert_eq!(gather(books).await, 3);
        let claimed = books.store.claim_webhook_deliveries().await.expect("claimed");
        books.store.end_webhook_try(&claimed[0], Some(204), None).await.expect("delivered");
        books.store.end_webhook_try(&claimed[1], Some(500), None).await.expect("given up");
        books.store.end_webhook_try(&claimed[2], Some(500), Some(60 * WEEK)).await.expect("to be tried");

        // One provider is paid now, the other when it is all long ago.
        let customer = books.customer("1").await;
        for (seed, tokens) in [(1, tokens(100, 200)), (2, tokens(1, 2))] {
            let provider = Provider::new(seed);
            books.store.register_provider(&provider.id).await.expect("joined");
            let ticket = customer.ticket(books, &provider).await;
            books.settle(&[customer.settlement(books, ticket.clone(), tokens)]).await;
            books.offer(&provider, vec![provider.receipt(books, &ticket, tokens)]).await;
            books.store.set_payout_details(&provider.id, "DE02 1203").await.expect("details");
        }
        books.store.shift_clock(WEEK + Duration::from_secs(1));
        books.store.mature(WEEK).await.expect("matured");
        let terms = |minimum: &str| PayoutTerms { minimum: usd(minimum), cooldown: WEEK, reference: String::new() };
        let run = books.store.create_payouts(&terms("0.0001")).await.expect("a run");
        assert_eq!((run.payouts, gather(books).await), (1, 1));
        for due in books.store.claim_webhook_deliveries().await.expect("claimed") {
            books.store.end_webhook_try(&due, Some(204), None).await.expect("delivered");
        }
        let forget = async || books.store.forget_webhook_events().await.expect("forgotten");
        assert_eq!(forget().await, 0, "nothing is so old");

        books.store.shift_clock(Duration::from_secs(31 * 86_400));
        assert_eq!(forget().await, 2, "delivered and given up");
        let left: Vec<_> = told(books, &hook).await.into_iter().map(|line| (line.kind, line.state)).collect();
        let kept = [(WebhookEvent::LowBalance, DeliveryState::Pending), (WebhookEvent::PayoutCreated, DeliveryState::Delivered)];
        assert_eq!(left, kept, "what is to be tried, and what a payout is known by");
        assert_eq!(gather(books).await, 0, "a payout is not told again");
        let run = books.store.create_payouts(&terms("0.000000001")).await.expect("a run");
        assert_eq!((run.payouts, gather(books).await), (1, 1));
        assert_eq!((forget().await, forget().await), (1, 0), "a later payout is known");
        assert_eq!(gather(books).await, 0, "neither is told again");
        assert_eq!(books.number("SELECT COUNT(*) FROM webhook_events").await, 2);
    }
}
