//! The client's receipt verifies offline, at every stage, and a changed one does not.

use lumbung_openapi::receipt::{ReceiptVerdict, SettlementRecord, VerifyError};
use lumbung_openapi::ticket::Ticket;

use crate::on_both;
use crate::support::{LEASE, Provider, tokens, usd};

on_both! {
    async fn a_jobs_receipt_verifies_once_its_provider_has_signed(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let mut batch = Vec::new();
        for _ in 0..7 {
            batch.push(customer.settlement(books, customer.ticket(books, &provider).await, tokens(10, 20)));
        }
        let id = batch[4].ticket.public_id.clone();
        assert!(books.store.job_receipt(&customer.account, &id).await.expect("answer").is_none(), "not settled");
        books.settle(&batch).await;
        let read = async || books.store.job_receipt(&customer.account, &id).await.expect("answer").expect("settled");
        let unsigned = read().await;
        assert_eq!((unsigned.charge, unsigned.prompt_tokens, unsigned.completion_tokens), (usd("0.00005"), 10, 20));
        assert_eq!(unsigned.verify(&books.keys.published()), Err(VerifyError::Unsigned(1)));

        let receipts = batch.iter().rev().map(|s| provider.receipt(books, &s.ticket, tokens(10, 20))).collect();
        books.offer(&provider, receipts).await;
        let signed = read().await;
        assert_eq!(signed.verify(&books.keys.published()), Ok(()));
        let rotated = books.store.rotate_signing_keys().await.expect("new keys");
        assert_eq!(signed.verify(&rotated.published()), Ok(()), "under published keys, retired ones too");

        let mut changed = signed.clone();
        changed.attempts[0].record = changed.attempts[0].record.replace("0.00005", "0.00004");
        assert!(changed.verify(&books.keys.published()).is_err());
        let mut changed = signed;
        changed.charge = usd("0.00004");
        assert_eq!(changed.verify(&books.keys.published()), Err(VerifyError::Sum));
    }

    /// Rows of the release before have ticket and record as they were signed, in SQLite too.
    async fn what_the_release_before_wrote_is_attached_to_and_proved(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let settlement = customer.settlement(books, customer.ticket(books, &provider).await, tokens(10, 20));
        books.settle(std::slice::from_ref(&settlement)).await;
        let (id, job, text) = (&settlement.ticket.public_id, &settlement.ticket.job, &settlement.ticket_text);
        let read = async || books.store.job_receipt(&customer.account, id).await.expect("answer").expect("settled");
        let record = read().await.attempts[0].record.clone();
        let kept = format!("SELECT CAST(COUNT(*) AS BIGINT) FROM attempts WHERE ticket = '{text}' AND record = '{record}'");
        assert_eq!(books.number(&kept).await, i64::from(books.is_postgres()), "SQLite has it shorter");
        books.sql(&format!("UPDATE attempts SET ticket = '{text}', record = '{record}' WHERE job = '{job}'")).await;
        assert_eq!(books.number(&kept).await, 1);

        let receipt = || vec![provider.receipt(books, &settlement.ticket, tokens(10, 20))];
        let another = Ticket { fee_bps: 1, ..settlement.ticket.clone() };
        let verdicts = books.offer(&provider, vec![provider.receipt(books, &another, tokens(10, 20))]).await;
        assert!(matches!(verdicts[..], [ReceiptVerdict::Refused { .. }]), "{verdicts:?}");
        assert_eq!(books.offer(&provider, receipt()).await, [ReceiptVerdict::Committed]);
        assert_eq!(books.offer(&provider, receipt()).await, [ReceiptVerdict::Committed], "again");
        let receipt = read().await;
        assert_eq!((&receipt.attempts[0].record, receipt.verify(&books.keys.published())), (&record, Ok(())));
        let shown = books.store.generation(&customer.account, id).await.expect("answer").expect("settled");
        assert_eq!(&shown.ticket, text);
    }

    async fn nobody_reads_anothers_receipt(books: &Books) {
        let (customer, other, provider) = (books.customer("1").await, books.customer("1").await, Provider::new(1));
        let ticket = customer.ticket(books, &provider).await;
        let id = ticket.public_id.clone();
        books.settle(&[customer.settlement(books, ticket, tokens(10, 20))]).await;
        assert!(books.store.job_receipt(&customer.account, &id).await.expect("answer").is_some());
        assert!(books.store.job_receipt(&other.account, &id).await.expect("answer").is_none());
    }

    async fn a_job_of_two_attempts_sums_up(books: &Books) {
        let (customer, one, two) = (books.customer("1").await, Provider::new(1), Provider::new(2));
        let first = customer.ticket(books, &one).await;
        let second = Ticket {
            attempt: 2,
            first_token: 5,
            max_prompt_tokens: 0,
            provider: two.id.to_string(),
            ..first.clone()
        };
        let id = first.public_id.clone();
        books.settle(&[
            customer.settlement(books, first.clone(), tokens(10, 5)),
            customer.settlement(books, second.clone(), tokens(0, 15)),
        ]).await;
        books.offer(&one, vec![one.receipt(books, &first, tokens(10, 5))]).await;
        books.offer(&two, vec![two.receipt(books, &second, tokens(10, 15))]).await;
        let receipt = books.store.job_receipt(&customer.account, &id).await.expect("answer").expect("settled");
        assert_eq!((receipt.prompt_tokens, receipt.completion_tokens, receipt.charge), (10, 20, usd("0.00005")));
        assert_eq!(receipt.verify(&books.keys.published()), Ok(()));
    }

    async fn a_correction_is_signed_anew(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let ticket = customer.ticket(books, &provider).await;
        let id = ticket.public_id.clone();
        books.settle(&[customer.settlement(books, ticket.clone(), tokens(10, 20))]).await;
        books.offer(&provider, vec![provider.receipt(books, &ticket, tokens(8, 20))]).await;
        let receipt = books.store.job_receipt(&customer.account, &id).await.expect("answer").expect("settled");
        assert_eq!((receipt.prompt_tokens, receipt.completion_tokens, receipt.charge), (8, 20, usd("0.000048")));
        assert_eq!(receipt.verify(&books.keys.published()), Ok(()));
    }

    async fn a_receipt_that_stands_alone_is_signed_by_the_gateways_that_are_left(books: &Books) {
        let (customer, provider) = (books.customer("1").await, Provider::new(1));
        let ticket = customer.ticket(books, &provider).await;
        let id = ticket.public_id.clone();
        books.store.shift_clock(LEASE * 2);
        books.offer(&provider, vec![provider.receipt(books, &ticket, tokens(10, 20))]).await;
        let receipt = books.store.job_receipt(&customer.account, &id).await.expect("answer").expect("settled");
        assert_eq!(receipt.verify(&books.keys.published()), Ok(()));
        let record: SettlementRecord = serde_json::from_str(&receipt.attempts[0].record).expect("a record");
        assert_eq!(record.delivered_sha256, None, "no gateway saw what was delivered");
    }
}
