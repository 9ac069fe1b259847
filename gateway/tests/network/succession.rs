//! A provider that is upgraded under load: its successor takes its place, and no request fails.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::load::{offer, tally};
use crate::support::process::wait_until;
use crate::support::provider::ProviderSetup;
use crate::support::{Books, Setup, programs};

/// Whoever uses this data directory, a successor too, which is no child of the test's: it ends with this.
struct Whoever(PathBuf);

impl Drop for Whoever {
    fn drop(&mut self) {
        let status = std::fs::read(self.0.join("status.json")).unwrap_or_default();
        if let Some(pid) = serde_json::from_slice::<Value>(&status).ok().and_then(|status| status["pid"].as_u64()) {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
    }
}

#[tokio::test]
async fn a_provider_is_upgraded_under_load_without_losing_a_job() {
    let full = std::env::var_os("LUMBUNG_TEST_FULL").is_some();
    let network = Setup::new(Books::Postgres).shared().start().await;
    let replica = network.another_gateway().await;
    let script = json!([{"match": "*", "tokens": 30, "prompt_tokens": 2, "delay_ms_per_token": 40}]);
    let setup = ProviderSetup::scripted(script).gateway(&replica.base);
    let mut provider = network.provider(setup).await;
    wait_until("it has a tunnel to each gateway", Duration::from_secs(20), async || {
        provider.status()["connected"].as_array().is_some_and(|replicas| replicas.len() == 2)
    })
    .await;
    let client = network.client("5").await;
    let other = Client::new(replica.base.clone(), client.key.clone(), client.account);
    let (rate, lasting) = if full { (40.0, 30) } else { (12.0, 8) };
    let body = Client::body("x", json!({"max_tokens": 30})).to_string();
    let load = tokio::spawn(offer(vec![client, other], body, rate, Duration::from_secs(lasting)));

    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut upgrade = Command::new(programs().join("lumbung-provider"));
    let folder = provider.folder.as_ref().expect("its folder").path().to_owned();
    upgrade.arg("--data-dir").arg(&folder).arg("upgrade");
    let _whoever = Whoever(folder);
    let upgraded = tokio::task::spawn_blocking(move || upgrade.output()).await.expect("no panic").expect("it runs");
    assert!(upgraded.status.success(), "{}", String::from_utf8_lossy(&upgraded.stderr));
    let first = provider.process.id();
    wait_until("the successor has taken its place", Duration::from_secs(20), async || {
        provider.status()["pid"].as_u64().is_some_and(|pid| pid != u64::from(first))
    })
    .await;
    provider.process.stops(Duration::from_secs(60)).await;

    let outcomes = load.await.expect("no panic");
    println!("{:?}", tally(&outcomes));
    assert!(outcomes.iter().all(|outcome| outcome.is_served()), "{:?}", tally(&outcomes));
    assert!(outcomes.len() > 50);
    wait_until("every receipt is acknowledged", Duration::from_secs(30), async || {
        provider.status()["receipts_unacknowledged"] == 0
    })
    .await;
    let report = network.store.books_check().await.expect("the books can be read");
    assert!(report.is_right(), "{report:?}");
    replica.stop().await;
    network.finish().await;
}
