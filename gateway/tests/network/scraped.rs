//! A real Prometheus reads gateway and provider, and the dashboard and the alerts name only what is there.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::recount::import;
use crate::support::client::Client;
use crate::support::postgres::OwnPostgres;
use crate::support::process::{Process, free_port, wait_until};
use crate::support::provider::{Provider, ProviderSetup};
use crate::support::redis::OwnRedis;
use crate::support::{Books, MODEL, Network, Setup};

const DEPLOYED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/observe");

fn deployed(file: &str) -> String {
    std::fs::read_to_string(format!("{DEPLOYED}/{file}")).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Prometheus, which asks twice a second.
struct Prometheus {
    base: String,
    process: Process,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    async fn start(targets: &[(&str, &Process)], rules: &str) -> Self {
        let (folder, port) = (tempfile::tempdir().expect("a folder"), free_port());
        let at = |name: &str| folder.path().join(name);
        let jobs = targets.iter().map(|(job, process)| {
            let url = process.metrics_url();
            let target = url.trim_start_matches("http://").trim_end_matches("/metrics");
            json!({"job_name": job, "static_configs": [{"targets": [target]}]})
        });
        let often = json!({"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"});
        let jobs: Vec<Value> = jobs.collect();
        let config = json!({"global": often, "rule_files": ["alerts.yml"], "scrape_configs": jobs});
        std::fs::write(at("prometheus.yml"), config.to_string()).expect("written"); // JSON is YAML
        std::fs::write(at("alerts.yml"), rules).expect("written");
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", at("prometheus.yml").display()));
        command.arg(format!("--storage.tsdb.path={}", at("data").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let process = Process::start("prometheus", command, Some(at("log")));
        let prometheus = Self { base: format!("http://127.0.0.1:{port}"), process, _folder: folder };
        wait_until("Prometheus is ready", Duration::from_secs(60), async || {
            reqwest::get(format!("{}/-/ready", prometheus.base)).await.is_ok_and(|response| response.status() == 200)
        })
        .await;
        prometheus
    }

    async fn get(&self, path: &str) -> Value {
        let response = reqwest::get(format!("{}{path}", self.base)).await.expect("Prometheus answers");
        let answer: Value = response.json().await.expect("JSON");
        assert_eq!(answer["status"], "success", "{answer} {}", self.process.log());
        answer["data"].clone()
    }

    /// A query's values: labels and figure.
    async fn query(&self, query: &str) -> Vec<(Value, f64)> {
        let mut url = reqwest::Url::parse(&format!("{}/api/v1/query", self.base)).expect("a URL");
        url.query_pairs_mut().append_pair("query", query);
        let data = self.get(url.as_str().trim_start_matches(&self.base)).await;
        let results = data["result"].as_array().expect("results").iter();
        let figure = |result: &Value| result["value"][1].as_str().and_then(|text| text.parse().ok()).expect("a figure");
        results.map(|result| (result["metric"].clone(), figure(result))).collect()
    }

    /// The alerts that fire.
    async fn firing(&self) -> BTreeSet<String> {
        let data = self.get("/api/v1/alerts").await;
        let alerts = data["alerts"].as_array().expect("alerts").iter();
        let firing = alerts.filter(|alert| alert["state"] == "firing");
        firing.map(|alert| alert["labels"]["alertname"].as_str().expect("a name").to_owned()).collect()
    }

    /// Waits until all of these fire, at some time each.
    async fn fires(&self, alerts: &[&str]) {
        let mut missing: BTreeSet<String> = alerts.iter().map(|name| (*name).to_owned()).collect();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(180);
        while !missing.is_empty() {
            let firing = self.firing().await;
            missing.retain(|name| !firing.contains(name));
            assert!(tokio::time::Instant::now() < deadline, "{missing:?} do not fire, but {firing:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Every name that a series can have, by what the targets say of their metrics.
    async fn names(&self) -> BTreeSet<String> {
        let data = self.get("/api/v1/targets/metadata").await;
        let mut names = BTreeSet::from(["up".to_owned()]);
        for metric in data.as_array().expect("metadata") {
            let name = metric["metric"].as_str().expect("a name");
            let endings: &[&str] = match metric["type"].as_str().expect("a type") {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            names.extend(endings.iter().map(|ending| format!("{name}{ending}")));
        }
        names
    }
}

/// What an expression asks for.
fn metrics_in(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let is_metric = |word: &&str| {
        *word == "up" || ["lumbung_", "process_", "gen_ai_server_"].iter().any(|prefix| word.starts_with(prefix))
    };
    words.filter(is_metric).map(str::to_owned).collect()
}

fn promtool(arguments: &[&str]) -> String {
    let output = Command::new("promtool").args(arguments).current_dir(DEPLOYED).output().expect("promtool runs");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "promtool {arguments:?}: {text}");
    text
}

/// The alerts' names and expressions.
fn alerts() -> Vec<(String, String)> {
    let rules = deployed("alerts.yml");
    let names = rules.lines().filter_map(|line| Some(line.trim().strip_prefix("- alert: ")?.to_owned()));
    let expressions = rules.lines().filter_map(|line| Some(line.trim().strip_prefix("expr: ")?.to_owned()));
    names.zip(expressions).collect()
}

#[test]
fn each_alert_fires_on_bad_figures_and_none_on_good_ones() {
    promtool(&["check", "config", "prometheus.yml"]);
    let checked = promtool(&["check", "rules", "alerts.yml"]);
    promtool(&["test", "rules", "alerts.test.yml"]);
    let (alerts, tests, runbook) = (alerts(), deployed("alerts.test.yml"), deployed("README.md"));
    assert!(checked.contains(&format!("{} rules", alerts.len())), "{checked}");
    for (name, _) in &alerts {
        // Once where it fires, once where it does not.
        assert_eq!(tests.matches(&format!("alertname: {name}\n")).count(), 2, "{name}");
        assert!(runbook.contains(&format!("#### {name}\n")), "no runbook for {name}");
    }
}

async fn watched() -> (Network, Provider) {
    let network = Setup::new(Books::Sqlite).with_gateway_flag("--metrics-listen", "127.0.0.1:0").start().await;
    let script = json!([
        {"match": "claim", "reply": "one two three", "claim_tokens": 90, "prompt_tokens": 1},
        {"match": "*", "tokens": 20, "prompt_tokens": 7, "delay_ms_per_token": 1},
    ]);
    let provider = ProviderSetup::scripted(script).flag("--metrics-listen", "127.0.0.1:0");
    let provider = network.provider(provider).await;
    (network, provider)
}

/// The alerts as they are, only that nobody waits for minutes.
fn impatient_alerts() -> String {
    let rules = deployed("alerts.yml");
    let lines = rules.lines().map(|line| {
        let text = line.trim_start();
        if text.starts_with("for: ") { line.replace(text, "for: 0s") } else { line.to_owned() }
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn prometheus_reads_both_and_has_every_metric_that_dashboard_and_alerts_name() {
    let (network, mut provider) = watched().await;
    let targets = [("lumbung-gateway", &network.gateway), ("lumbung-provider", &provider.process)];
    let prometheus = Prometheus::start(&targets, &impatient_alerts()).await;
    let client = network.client("1").await;
    for _ in 0..3 {
        client.ask("x", json!({})).await;
    }
    assert_eq!(client.post("{").await.status(), 400);
    wait_until("both were read, with what has happened", Duration::from_secs(60), async || {
        let answers = prometheus.query(&format!("lumbung_answers_total{{model=\"{MODEL}\"}}")).await;
        let up = prometheus.query("sum(up)").await;
        up.first().is_some_and(|(_, up)| *up == 2.0) && answers.iter().any(|(_, answers)| *answers == 3.0)
    })
    .await;
    let tokens = prometheus.query("lumbung_tokens_total{kind=\"completion\"}").await;
    assert_eq!(tokens.iter().map(|(_, tokens)| tokens).sum::<f64>(), 60.0);
    let charged = prometheus.query("sum(lumbung_money_nano_usd_total{kind=\"charged\"})").await;
    assert_eq!(charged[0].1, 3.0 * (7.0 * 500.0 + 20.0 * 2000.0), "nano-dollars at the provider's ask");
    let refused = prometheus.query("lumbung_refusals_total").await;
    assert!(
        refused.iter().any(|(labels, count)| labels["reason"] == "invalid_request" && *count == 1.0),
        "{refused:?}"
    );

    let known = prometheus.names().await;
    let dashboard: Value = serde_json::from_str(&deployed("dashboard.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let shown = panels.flat_map(|panel| panel["targets"].as_array().expect("targets").iter());
    let shown: Vec<String> = shown.map(|target| target["expr"].as_str().expect("a query").to_owned()).collect();
    assert!(shown.len() > 30, "the dashboard has queries");
    for expression in shown.iter().chain(alerts().iter().map(|(_, expression)| expression)) {
        let named = metrics_in(expression);
        assert!(!named.is_empty(), "no metric in {expression}");
        let missing: Vec<&String> = named.difference(&known).collect();
        assert!(missing.is_empty(), "{missing:?} of '{expression}' are not among {known:#?}");
        prometheus.query(&expression.trim_matches('\'').replace("$instance", ".*")).await;
    }

    // Things go wrong for real: the provider claims more than it has made.
    assert_eq!(prometheus.firing().await, BTreeSet::new(), "all is well");
    import(&network, MODEL).await;
    for _ in 0..12 {
        client.ask("claim", json!({})).await;
    }
    prometheus.fires(&["LumbungProvidersOverclaim"]).await;
    // The provider dies, and people go on asking for it.
    provider.process.kill();
    prometheus.fires(&["LumbungModelWithoutProvider", "LumbungProviderDown"]).await;
    for _ in 0..400 {
        let refused = client.post(Client::body("x", json!({})).to_string()).await;
        assert_eq!(refused.status(), 503);
    }
    prometheus.fires(&["LumbungRequestsRefused"]).await;
    network.finish().await;
}

/// Keeps so many requests on their way until it is dropped.
fn crowd(client: &Client, many: usize) -> tokio::task::JoinSet<()> {
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..many {
        let client = Client::new(client.base.clone(), client.key.clone(), client.account);
        crowd.spawn(async move {
            loop {
                client.post(Client::body("x", json!({"max_tokens": 10})).to_string()).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
    }
    crowd
}

/// Takes a minute and more, for nobody is to hurry Prometheus.
#[tokio::test]
async fn alerts_fire_for_a_crowd_for_books_that_are_away_and_for_a_gateway_that_dies() {
    if std::env::var_os("LUMBUNG_TEST_FULL").is_none() {
        return;
    }
    let server = OwnPostgres::start().await;
    let setup = Setup::on(server.url()).with_gateway_flag("--metrics-listen", "127.0.0.1:0");
    let mut network = setup.with_gateway_flag("--max-jobs", "100").start().await;
    let script = json!([{"match": "*", "tokens": 10, "prompt_tokens": 7, "delay_ms_first": 5500}]);
    let provider = ProviderSetup::scripted(script).slots(1).flag("--metrics-listen", "127.0.0.1:0");
    let provider = network.provider(provider).await;
    let targets = [("lumbung-gateway", &network.gateway), ("lumbung-provider", &provider.process)];
    let prometheus = Prometheus::start(&targets, &impatient_alerts()).await;
    let client = network.client("10").await;
    wait_until("both are read", Duration::from_secs(60), async || {
        prometheus.query("sum(up)").await.first().is_some_and(|(_, up)| *up == 2.0)
    })
    .await;
    assert_eq!(prometheus.firing().await, BTreeSet::new(), "all is well");

    let crowd = crowd(&client, 90);
    let crowded = ["LumbungQueueLong", "LumbungPlacesRunOut", "LumbungAnswersFail", "LumbungFirstTokenSlow"];
    prometheus.fires(&crowded).await;
    server.kill();
    let away = ["LumbungSettlementFails", "LumbungBackgroundWorkFails", "LumbungGatewayWithoutLease"];
    prometheus.fires(&away).await;
    drop(crowd);
    server.restart().await;
    prometheus.fires(&["LumbungSettlementLags"]).await;
    network.kill_gateway();
    prometheus.fires(&["LumbungGatewayDown", "LumbungProviderAlone"]).await;
    network.restart_gateway().await;
    network.finish().await;
}

/// Of 22 providers that freeze, each is one that fell silent; a thousand answers that the books do not know are as many
/// receipts.
#[tokio::test]
async fn alerts_fire_for_a_port_that_is_closed_for_tunnels_that_break_and_for_receipts_that_nobody_takes() {
    if std::env::var_os("LUMBUNG_TEST_FULL").is_none() {
        return;
    }
    let (server, redis) = (OwnPostgres::start().await, OwnRedis::start().await);
    let setup = Setup::on(server.url()).shared_over(redis.url()).with_gateway_flag("--metrics-listen", "127.0.0.1:0");
    let setup = setup.with_gateway_flag("--lease-secs", "60").with_gateway_flag("--poll-ms", "1000");
    // Gateways say that they are where nobody listens.
    let setup = setup.with_gateway_flag("--internal-listen", "127.0.0.1:0");
    let network = setup.with_gateway_flag("--internal-advertise", "127.0.0.1:9").start().await;
    let script = json!([{"match": "*", "tokens": 3, "prompt_tokens": 7}]);
    let stays = ProviderSetup::scripted(script.clone()).flag("--metrics-listen", "127.0.0.1:0");
    let stays = network.provider(stays).await;
    let targets = [("lumbung-gateway", &network.gateway), ("lumbung-provider", &stays.process)];
    let prometheus = Prometheus::start(&targets, &impatient_alerts()).await;
    wait_until("both are read", Duration::from_secs(60), async || {
        prometheus.query("sum(up)").await.first().is_some_and(|(_, up)| *up == 2.0)
    })
    .await;
    assert_eq!(prometheus.firing().await, BTreeSet::new(), "all is well");

    let other = network.another_gateway().await;
    prometheus.fires(&["LumbungPeerUnreachable"]).await;
    other.stop().await;

    let freezing: Vec<Provider> =
        (0..22).map(|_| ProviderSetup::scripted(script.clone()).start(&network.base)).collect();
    wait_until("everybody is here", Duration::from_secs(60), async || {
        prometheus.query("sum(lumbung_tunnels)").await.first().is_some_and(|(_, tunnels)| *tunnels == 23.0)
    })
    .await;
    freezing.iter().for_each(|provider| provider.process.signal("STOP"));
    prometheus.fires(&["LumbungTunnelsBreak"]).await;
    drop(freezing);

    let client = network.client("10").await;
    client.ask("x", json!({"max_tokens": 3})).await;
    server.kill();
    for _ in 0..1100 {
        client.ask("x", json!({"max_tokens": 3})).await;
    }
    prometheus.fires(&["LumbungProviderUnpaid"]).await;
    server.restart().await;
    stays.receipts_acknowledged().await;
    network.finish().await;
}

/// A gateway that is frozen while others give its money back wakes, and finishes what it had begun for nothing.
#[tokio::test]
async fn the_alert_for_answers_that_are_given_away_fires() {
    if std::env::var_os("LUMBUNG_TEST_FULL").is_none() {
        return;
    }
    let setup = Setup::new(Books::Postgres).shared().with_gateway_flag("--metrics-listen", "127.0.0.1:0");
    // It lives long enough after its end to be asked how it was.
    let setup = setup.with_gateway_env("LUMBUNG_DRAIN_NOTICE_SECS", "10");
    let network = setup.with_gateway_flag("--claim-window-secs", "1").start().await;
    let freezes = network.another_gateway().await;
    let script = json!([{"match": "*", "tokens": 200, "prompt_tokens": 7, "delay_ms_per_token": 20}]);
    let _provider = network.provider_at(&freezes.base, ProviderSetup::scripted(script)).await;
    let prometheus = Prometheus::start(&[("lumbung-gateway", &freezes.process)], &impatient_alerts()).await;
    let here = network.client("1").await;
    let client = Client::new(freezes.base.clone(), here.key.clone(), here.account);
    client.ask("x", json!({"max_tokens": 3})).await;
    wait_until("it is read", Duration::from_secs(60), async || {
        !prometheus.query("lumbung_uncovered_attempts_total == 0").await.is_empty()
    })
    .await;
    let stream = client.open("x", json!({"max_tokens": 200})).await;
    freezes.process.signal("STOP");
    wait_until("its money is given back", Duration::from_secs(60), async || {
        network.gateway.log().contains("allowances of ended replicas given back")
    })
    .await;
    freezes.process.signal("CONT");
    assert!(crate::support::client::read(stream).await.done, "what had begun is finished");
    prometheus.fires(&["LumbungUncoveredAttempts"]).await;
    drop(freezes);
    network.finish().await;
}
