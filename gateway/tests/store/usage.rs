//! What was used, and invoices.

use std::time::Duration;

use lumbung_gateway::domain::calendar::Day;
use lumbung_gateway::domain::ids::JobId;
use lumbung_gateway::store::{CreditKind, Settlement, StoreErrorKind, UsageBy, UsageLine, UsageQuestion};
use lumbung_openapi::money::NanoUsd;
use lumbung_openapi::ticket::Ticket;

use crate::on_both;
use crate::support::{Books, Customer, Provider, tokens, usd};

const PAST_CLAIM_BY: Duration = Duration::from_secs(302);
const DAY: Duration = Duration::from_secs(86_400);

/// A ticket of this customer's for a model.
async fn ticket(books: &Books, customer: &Customer, provider: &Provider, model: &str) -> Ticket {
    Ticket { model: model.into(), ..customer.ticket(books, provider).await }
}

async fn ask(books: &Books, question: UsageQuestion) -> Vec<UsageLine> {
    let page = books.store.usage(&question).await.expect("an answer");
    assert_eq!(page.next, None);
    page.lines
}

fn by(by: &[UsageBy]) -> UsageQuestion {
    UsageQuestion { by: by.to_vec(), ..Default::default() }
}

on_both! {
    async fn usage_is_the_same_before_and_after_it_is_rolled_up(books: &Books) {
        let (ana, ben) = (books.customer("1").await, books.customer("1").await);
        let (near, far) = (Provider::new(1), Provider::new(2));
        let mut batch = Vec::new();
        for (customer, provider, model, count) in
            [(&ana, &near, "small", 3), (&ana, &far, "small", 1), (&ana, &near, "large", 1), (&ben, &far, "large", 2)]
        {
            for _ in 0..count {
                let ticket = ticket(books, customer, provider, model).await;
                batch.push(customer.settlement(books, ticket, tokens(10, 20)));
            }
        }
        books.settle(&batch).await;
        let mut before = None;
        for is_rolled_up in [false, true] {
            let whole = ask(books, by(&[])).await;
            assert_eq!((whole.len(), whole[0].used.requests, whole[0].used.completion_tokens), (1, 7, 140));
            assert_eq!((whole[0].used.charge, whole[0].used.fee), (usd("0.00035"), usd("0.000035")));
            let models = ask(books, by(&[UsageBy::Model])).await;
            let shown: Vec<_> = models.iter().map(|line| (line.model.as_deref(), line.used.requests)).collect();
            assert_eq!(shown, [(Some("large"), 3), (Some("small"), 4)]);
            let anas = UsageQuestion { account: Some(ana.account), ..by(&[UsageBy::Provider, UsageBy::Model]) };
            assert_eq!(ask(books, anas).await.len(), 3);
            let with_key = UsageQuestion { key: Some(ben.key), ..by(&[UsageBy::Day]) };
            let with_key = ask(books, with_key).await;
            assert_eq!((with_key.len(), with_key[0].used.prompt_tokens), (1, 20));
            let far_small = UsageQuestion {
                provider: Some(far.id.clone()),
                model: Some("small".parse().expect("a model")),
                ..by(&[UsageBy::Account])
            };
            let far_small = ask(books, far_small).await;
            assert_eq!((far_small.len(), far_small[0].account.as_deref()), (1, Some(ana.account.to_string().as_str())));

            let all = [UsageBy::Day, UsageBy::Key, UsageBy::Provider, UsageBy::Model];
            let lines = ask(books, by(&all)).await;
            assert_eq!(lines.len(), 4, "a key is told with its account");
            assert!(lines.iter().all(|line| line.account.is_some() && line.day.is_some()));
            assert_eq!(*before.get_or_insert_with(|| lines.clone()), lines);
            if !is_rolled_up {
                assert_eq!(books.store.roll_up_usage().await.expect("answer"), 4);
                assert_eq!(books.store.roll_up_usage().await.expect("answer"), 0, "once");
            }
        }
    }

    async fn pages_follow_one_another_without_a_gap(books: &Books) {
        let provider = Provider::new(1);
        let mut expected = 0;
        for turn in 0..7 {
            let customer = books.customer("1").await;
            let mut batch = Vec::new();
            for model in ["a", "b", "c"].iter().take(turn % 3 + 1) {
                batch.push(customer.settlement(books, ticket(books, &customer, &provider, model).await, tokens(1, 2)));
                expected += 1;
            }
            books.settle(&batch).await;
            if turn == 3 {
                books.store.roll_up_usage().await.expect("answer");
            }
        }
        for columns in [vec![UsageBy::Account, UsageBy::Model], vec![UsageBy::Key, UsageBy::Model, UsageBy::Day]] {
            let whole = ask(books, by(&columns)).await;
            assert_eq!(whole.len(), expected);
            for limit in [1, 2, 5] {
                let (mut question, mut lines) = (UsageQuestion { limit, ..by(&columns) }, Vec::new());
                loop {
                    let page = books.store.usage(&question).await.expect("a page");
                    assert!(page.lines.len() <= limit as usize);
                    lines.extend(page.lines);
                    question.after = page.next.map(|cursor| cursor.to_string().parse().expect("its own text"));
                    if question.after.is_none() {
                        break;
                    }
                }
                assert_eq!(lines, whole, "{limit} at a time");
            }
        }
    }

    async fn a_cursor_of_another_question_and_a_key_of_nobody_are_refused(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        for model in ["a", "b"] {
            books.settle(&[customer.settlement(books, ticket(books, &customer, &provider, model).await, tokens(1, 2))]).await;
        }
        let page = books.store.usage(&UsageQuestion { limit: 1, ..by(&[UsageBy::Model]) }).await.expect("a page");
        let other = UsageQuestion { after: page.next, ..by(&[UsageBy::Model, UsageBy::Day]) };
        assert_eq!(books.store.usage(&other).await.expect_err("another's").kind(), StoreErrorKind::Invalid);
        let nobody = UsageQuestion { key: Some(lumbung_gateway::domain::ids::KeyId::fresh()), ..by(&[]) };
        assert_eq!(books.store.usage(&nobody).await.expect_err("no such key").kind(), StoreErrorKind::Missing);
    }

    async fn what_is_corrected_or_given_back_counts_on_the_day_it_is(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let (corrected, withheld) = (customer.ticket(books, &provider).await, customer.ticket(books, &provider).await);
        books.settle(&[
            customer.settlement(books, corrected.clone(), tokens(10, 20)),
            customer.settlement(books, withheld, tokens(10, 20)),
        ]).await;
        let first_day = ask(books, by(&[UsageBy::Day])).await;
        assert_eq!((first_day.len(), first_day[0].used.charge), (1, usd("0.0001")));
        books.offer(&provider, vec![provider.receipt(books, &corrected, tokens(10, 15))]).await;
        books.store.shift_clock(DAY.max(PAST_CLAIM_BY));
        assert_eq!(books.store.reclaim_withheld().await.expect("answer"), 1);
        let days = ask(books, by(&[UsageBy::Day])).await;
        let shown: Vec<_> = days.iter().map(|line| (line.used.requests, line.used.completion_tokens, line.used.charge)).collect();
        assert_eq!(shown, [(2, 35, usd("0.00009")), (0, 0, usd("-0.000045"))]);
        books.store.roll_up_usage().await.expect("answer");
        assert_eq!(ask(books, by(&[UsageBy::Day])).await, days);
        let yesterday = UsageQuestion { until: days[1].day, ..by(&[]) };
        assert_eq!(ask(books, yesterday).await[0].used.charge, usd("0.00009"));
    }

    async fn an_invoice_adds_up_and_a_month_that_is_over_stays_as_it_is(books: &Books) {
        let (customer, provider) = (books.customer("3").await, Provider::new(1));
        let account = customer.account;
        let today = Day::of_us(books.store.now_us().await.expect("the clock"));
        let this = today.month();
        books.store.add_credit(&account, usd("0.5"), CreditKind::Promotional, "=gift").await.expect("credit");
        for model in ["a", "a", "b"] {
            let ticket = ticket(books, &customer, &provider, model).await;
            books.settle(&[customer.settlement(books, ticket, tokens(10, 20))]).await;
        }
        let invoice = books.store.invoice(&account, this).await.expect("an invoice");
        assert_eq!((invoice.opening, invoice.credits_total, invoice.usage_total), (usd("0"), usd("3.5"), usd("0.00015")));
        assert_eq!(invoice.closing, books.spendable(&account).await);
        assert!(!invoice.is_final);
        let usage: Vec<_> = invoice.usage.iter().map(|l| (l.model.as_str(), l.label.as_str(), l.used.requests)).collect();
        assert_eq!(usage, [("a", "test", 2), ("b", "test", 1)]);
        let kinds: Vec<_> = invoice.credits.iter().map(|entry| entry.kind.as_str()).collect();
        assert_eq!(kinds, ["credit_paid", "credit_promotional"]);
        let csv = invoice.to_csv();
        assert!(csv.contains(",\"'=gift\",") && csv.ends_with(&format!(",{}\r\n", invoice.closing)), "{csv}");

        // The next month: nobody signed for what was settled, so the shares come back then.
        let days_left = this.next().first_day().number() - today.number();
        books.store.shift_clock(DAY * u32::try_from(days_left).expect("some days"));
        books.store.reclaim_withheld().await.expect("answer");
        books.store.add_credit(&account, usd("1"), CreditKind::Paid, "pay_1").await.expect("credit");
        let then = books.store.invoice(&account, this).await.expect("an invoice");
        assert_eq!(then, lumbung_gateway::store::Invoice { is_final: true, ..invoice });
        let next = books.store.invoice(&account, this.next()).await.expect("an invoice");
        assert_eq!((next.opening, next.credits_total, next.usage_total), (then.closing, usd("1"), usd("-0.000135")));
        assert_eq!(next.closing, books.spendable(&account).await);
        assert_eq!(next.closing.checked_sub(next.opening), Some(usd("1.000135")));
    }

    async fn an_account_without_anything_has_an_invoice_of_nothing(books: &Books) {
        let account = books.store.create_account("idle").await.expect("an account").id;
        let invoice = books.store.invoice(&account, "2026-01".parse().expect("a month")).await.expect("an invoice");
        assert_eq!((invoice.opening, invoice.closing, invoice.usage.len()), (NanoUsd::ZERO, NanoUsd::ZERO, 0));
        let nobody = lumbung_gateway::domain::ids::AccountId::fresh();
        let missing = books.store.invoice(&nobody, "2026-01".parse().expect("a month")).await.expect_err("nobody");
        assert_eq!(missing.kind(), StoreErrorKind::Missing);
    }

    async fn more_than_a_chunk_is_rolled_up(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let template = customer.ticket(books, &provider).await;
        let batch: Vec<Settlement> = (0..1100)
            .map(|n| {
                let ticket = Ticket { job: JobId::fresh().to_string(), model: format!("m{n}"), ..template.clone() };
                customer.settlement(books, ticket, tokens(1, 2))
            })
            .collect();
        books.settle(&batch).await;
        assert_eq!(books.store.roll_up_usage().await.expect("answer"), 1100);
        assert_eq!(books.number("SELECT COUNT(*) FROM usage_daily").await, 1100);
        assert_eq!(books.number("SELECT COUNT(*) FROM usage_unrolled").await, 0);
    }
}
