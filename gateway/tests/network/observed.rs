//! What gateways and providers tell of themselves: traces, figures and logs, and that nothing of a conversation is in them.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{Connection, Row};

use crate::support::client::{Client, read};
use crate::support::collector::Collector;
use crate::support::everything::Monitor;
use crate::support::process::{Process, wait_until};
use crate::support::provider::ProviderSetup;
use crate::support::redis::OwnRedis;
use crate::support::{Books, Setup};

const BUNDLED: &str = "lumbung/padi";
/// Occurs in a prompt, and must nowhere else.
const CANARY: &str = "Kenarikuning7319";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENTS_SPAN: &str = "00f067aa0ba902b7";

async fn page(process: &Process) -> String {
    let response = reqwest::get(process.metrics_url()).await.expect("a page");
    assert_eq!(response.status(), 200);
    assert!(response.headers()["content-type"].to_str().expect("text").starts_with("application/openmetrics-text"));
    response.text().await.expect("a page")
}

/// The sum of a metric's series that have all of these labels.
fn figure(page: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let has = |line: &str| labels.iter().all(|(label, value)| line.contains(&format!("{label}=\"{value}\"")));
    let series = page.lines().filter(|line| line.split(['{', ' ']).next() == Some(name) && has(line));
    series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn tells(setup: ProviderSetup, collector: &Collector) -> ProviderSetup {
    let setup = setup.flag("--metrics-listen", "127.0.0.1:0").env("LUMBUNG_PROVIDER_LOG", "json");
    collector.env().into_iter().fold(setup, |setup, (name, value)| setup.env(name, &value))
}

/// Every row of every table, as text.
async fn all_rows(url: &str) -> String {
    let mut books = sqlx::PgConnection::connect(url).await.expect("the books");
    let tables = "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public'";
    let tables = sqlx::query(tables).fetch_all(&mut books).await.expect("tables");
    let mut text = String::new();
    for table in tables {
        let table: String = table.get(0);
        let rows = sqlx::AssertSqlSafe(format!("SELECT t::text FROM \"{table}\" t"));
        for row in sqlx::query(rows).fetch_all(&mut books).await.expect("rows") {
            text.push_str(&format!("{table}: {}\n", row.get::<String, _>(0)));
        }
    }
    text
}

fn traced(client: &Client, body: &Value, sampled: bool) -> reqwest::RequestBuilder {
    let flags = if sampled { "01" } else { "00" };
    let request = client.http.post(format!("{}/v1/chat/completions", client.base)).bearer_auth(&client.key);
    request.header("traceparent", format!("00-{TRACE}-{CLIENTS_SPAN}-{flags}")).json(body)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("{name} is missing in {value}"))
}

/// The one span of a kind that has such an attribute.
fn span<'a>(spans: &'a [Value], service: &str, kind: &str, attempt: Option<u64>) -> &'a Value {
    let is_it = |span: &&Value| {
        let attributes = &span["attributes"];
        span["resource"]["service.name"] == service
            && span["kind"] == kind
            && attempt.is_none_or(|attempt| attributes["lumbung.attempt"] == attempt)
    };
    let found: Vec<&Value> = spans.iter().filter(is_it).collect();
    match found.as_slice() {
        [span] => span,
        other => panic!("{} spans of {service}, {kind}, {attempt:?}: {spans:#?}", other.len()),
    }
}

#[tokio::test]
async fn one_trace_goes_through_gateways_and_providers_also_when_resumed_and_has_nothing_of_the_conversation() {
    let (collector, redis) = (Collector::start().await, OwnRedis::start().await);
    let folder = tempfile::tempdir().expect("a folder");
    let monitor = Monitor::start(&redis.url(), folder.path());
    let setup = Setup::new(Books::Postgres).shared_over(redis.url()).with_model(BUNDLED, 2048);
    let setup = setup.with_gateway_flag("--metrics-listen", "127.0.0.1:0").with_gateway_env("LUMBUNG_LOG", "json");
    let setup = collector.env().into_iter().fold(setup, |setup, (name, value)| setup.with_gateway_env(name, &value));
    let network = setup.start().await;
    let other = network.another_gateway().await;
    // Whoever begins the answer is here and dies in it; whoever goes on is behind the other gateway.
    let stays = network.provider_at(&other.base, tells(ProviderSetup::bundled(BUNDLED), &collector)).await;
    network.serves(BUNDLED).await;
    let dies = tells(ProviderSetup::bundled(BUNDLED), &collector).ask("0.01", "0.02");
    let mut dying = network.provider(dies.flag("--test-die-after-tokens", "20")).await;
    let id = dying.id();
    wait_until("its offer is known", Duration::from_secs(20), async || {
        network.gateway.log().lines().any(|line| line.contains("\"offer\"") && line.contains(&id))
    })
    .await;
    let client = network.client("10").await;

    let question = format!("Tell me about {CANARY}.");
    let more = json!({"model": BUNDLED, "temperature": 0, "max_tokens": 64, "stream": true,
        "logit_bias": {"0": -100, "2": -100}});
    let body = Client::body(&question, more);
    let response = traced(&client, &body, true).send().await.expect("an answer");
    let request_id = response.headers()["x-request-id"].to_str().expect("text").to_owned();
    let answer = read(response).await;
    assert!(answer.done && answer.error.is_none(), "{answer:?}");
    assert!(dying.process.has_failed(), "it died: {}", dying.process.log());

    // One trace, of whoever had a part in it.
    wait_until("the trace has come", Duration::from_secs(20), async || collector.trace(TRACE).len() >= 6).await;
    let spans = collector.trace(TRACE);
    assert_eq!(spans.len(), 6, "{spans:#?}");
    let root = spans.iter().find(|span| span["parent"] == CLIENTS_SPAN).expect("a root under the client's span");
    let (first, second) =
        (span(&spans, "lumbung-gateway", "CLIENT", Some(1)), span(&spans, "lumbung-gateway", "CLIENT", Some(2)));
    let hop = spans.iter().find(|span| span["span"] == "pass on").expect("the hop");
    let (served, engine) =
        (span(&spans, "lumbung-provider", "SERVER", Some(2)), span(&spans, "lumbung-provider", "INTERNAL", None));
    let under = [(first, root), (second, root), (hop, second), (served, hop), (engine, served)];
    for (child, parent) in under {
        assert_eq!(child["parent"], parent["span_id"], "{child:#?} under {parent:#?}");
    }
    assert_ne!(hop["resource"]["service.instance.id"], root["resource"]["service.instance.id"]);
    assert_eq!((&first["failed"], &first["attributes"]["error.type"]), (&json!(true), &json!("provider_failed")));
    assert_eq!((&root["failed"], &root["attributes"]["lumbung.outcome"]), (&json!(false), &json!("complete")));
    assert_eq!(root["attributes"]["lumbung.request.id"], *request_id);
    let cut = second["attributes"]["lumbung.attempt.first_token"].as_u64().expect("a number");
    assert!((1..=20).contains(&cut), "{cut}");
    for span in [second, served] {
        let attributes = &span["attributes"];
        assert_eq!(text(attributes, "gen_ai.operation.name"), "chat");
        assert_eq!(text(attributes, "gen_ai.request.model"), BUNDLED);
        assert_eq!(text(attributes, "gen_ai.response.id"), answer.id);
        assert_eq!(attributes["gen_ai.usage.output_tokens"], 64 - cut);
        assert_eq!(text(span, "span"), format!("chat {BUNDLED}"));
    }
    assert_eq!(second["attributes"]["gen_ai.response.finish_reasons"], json!(["length"]));
    assert!(spans.iter().all(|span| span["start"].as_u64() <= span["end"].as_u64()), "{spans:#?}");

    // Whoever does not want to be traced is not; and of the conventions' names, none is made up.
    let asked = traced(&client, &Client::body("Again.", json!({"model": BUNDLED, "max_tokens": 3})), false);
    assert_eq!(asked.send().await.expect("an answer").status(), 200);
    wait_until("the metrics have come", Duration::from_secs(20), async || metrics(&collector).len() == 4).await;
    let received = collector.received();
    assert_eq!(collector.trace(TRACE).len(), 6);
    let made_up: Vec<&Value> = received.iter().filter(|line| line["unknown"] != json!([])).collect();
    assert!(made_up.is_empty(), "{made_up:#?}");
    let metrics = metrics(&collector);
    for (name, unit) in [
        ("gen_ai.client.token.usage", "{token}"),
        ("gen_ai.server.request.duration", "s"),
        ("gen_ai.server.time_to_first_token", "s"),
        ("gen_ai.server.time_per_output_token", "s"),
    ] {
        let metric = metrics.get(name).unwrap_or_else(|| panic!("{name} is not among {metrics:?}"));
        assert_eq!(metric["unit"], unit);
        assert_eq!(metric["points"][0]["attributes"]["gen_ai.request.model"], BUNDLED);
    }

    // What one page tells is what happened.
    let gateway = page(&network.gateway).await;
    let model = ("model", BUNDLED);
    assert_eq!(figure(&gateway, "lumbung_answers_total", &[model, ("outcome", "complete")]), 2.0, "{gateway}");
    assert_eq!(figure(&gateway, "lumbung_attempts_total", &[model, ("outcome", "provider_failed")]), 1.0);
    assert_eq!(figure(&gateway, "lumbung_continued_attempts_total", &[model]), 1.0);
    assert_eq!(figure(&gateway, "lumbung_tokens_total", &[model, ("kind", "completion")]), 67.0);
    assert_eq!(figure(&gateway, "gen_ai_server_time_to_first_token_seconds_count", &[]), 2.0);
    let provider = page(&stays.process).await;
    assert_eq!(figure(&provider, "lumbung_provider_jobs_total", &[("outcome", "complete")]), 2.0, "{provider}");

    // Nothing of it is where it should not be; each of these places has something of the job, so it was looked at.
    stays.receipts_acknowledged().await;
    wait_until("it is in the books", Duration::from_secs(20), async || {
        all_rows(network.database_url()).await.contains(&answer.id)
    })
    .await;
    let places = [
        ("traces and metrics", collector.text(), answer.id.as_str()),
        ("metrics", gateway + &page(&other.process).await + &provider, BUNDLED),
        ("the gateway's log", network.gateway.log(), answer.id.as_str()),
        ("the other gateway's log", other.process.log(), "metrics are told"),
        ("the provider's log", stays.process.log() + &dying.process.log(), BUNDLED),
        ("Redis", monitor.told(), id.as_str()),
        ("the books", all_rows(network.database_url()).await, answer.id.as_str()),
    ];
    let said = answer.text.chars().take(40).collect::<String>();
    let shown = serde_json::to_string(&said).expect("JSON");
    let canaries = [CANARY, said.as_str(), shown.trim_matches('"'), client.key.as_str()];
    assert!(said.len() >= 20, "an answer long enough to be recognized: {said}");
    for (place, text, known) in &places {
        assert!(text.contains(known), "{known} is not in {place}:\n{text}");
        for canary in canaries {
            assert!(!text.contains(canary), "{canary} is in {place}");
        }
    }

    // The line of the request has its ids, and is JSON like all the others.
    let log = network.gateway.log();
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect();
    let line = lines.iter().find(|line| line["request"] == *request_id).expect("a line for the request");
    assert_eq!((text(line, "trace"), text(line, "id")), (TRACE, answer.id.as_str()));
    assert_eq!(collector.log(), "");
    drop(dying);
    other.stop().await;
    network.finish().await;
}

/// The metrics that have come over OTLP, by name.
fn metrics(collector: &Collector) -> HashMap<String, Value> {
    let received = collector.received().into_iter();
    received.filter_map(|line| Some((line["metric"].as_str()?.to_owned(), line))).collect()
}
