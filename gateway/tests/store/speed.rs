//! How fast the books are: measurements, run by hand
//! (`LUMBUNG_TEST_POSTGRES=… cargo test --release -p lumbung-gateway --test store speed -- --ignored --nocapture --test-threads=1`).

use std::time::{Duration, Instant};

use lumbung_gateway::domain::ids::JobId;
use lumbung_gateway::store::{SettleOutcome, Settlement};
use lumbung_openapi::ticket::Ticket;

use crate::on_both;
use crate::support::{Provider, claims, tokens};

/// As the gateway's writer takes them.
const BATCH: usize = 256;

on_both! {
    #[ignore = "a measurement"]
    async fn settlements_and_receipts_per_second(books: &Books) {
        let providers: Vec<Provider> = (1..=20).map(Provider::new).collect();
        let mut customers = Vec::new();
        for _ in 0..50 {
            customers.push(books.customer("10").await);
        }
        let mut templates = Vec::new();
        for customer in &customers {
            templates.push(customer.ticket(books, &providers[0]).await);
        }
        let batch = || -> Vec<Settlement> {
            let one = |n: usize| {
                let (customer, provider) = (&customers[n % customers.len()], &providers[n % providers.len()]);
                let job = JobId::fresh().to_string();
                let ticket = Ticket { job, provider: provider.id.to_string(), ..templates[n % templates.len()].clone() };
                let came = Some(claims(tokens(10, 20)));
                Settlement { receipt: came, ..customer.settlement(books, ticket, tokens(10, 20)) }
            };
            (0..BATCH).map(one).collect()
        };
        let (mut settled, mut settling, mut offering) = (0, Duration::ZERO, Duration::ZERO);
        while settling < Duration::from_secs(5) {
            let batch = batch();
            let started = Instant::now();
            let outcomes = books.settle(&batch).await;
            settling += started.elapsed();
            assert!(outcomes.iter().all(|outcome| matches!(outcome, SettleOutcome::Settled(_))));
            settled += outcomes.len();
            for (index, provider) in providers.iter().enumerate() {
                let own = batch.iter().skip(index).step_by(providers.len());
                let receipts = own.map(|s| provider.receipt(books, &s.ticket, tokens(10, 20))).collect();
                let started = Instant::now();
                books.offer(provider, receipts).await;
                offering += started.elapsed();
            }
        }
        let rate = |time: Duration| settled as u128 * 1000 / time.as_millis();
        let kind = books.url.split(':').next().unwrap_or_default();
        println!("{kind}: {} settlements/s in batches of {BATCH}, {} receipts/s in batches of 13", rate(settling), rate(offering));
    }
}
