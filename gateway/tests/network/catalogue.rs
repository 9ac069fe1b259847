//! What the catalogue says of a model, and what follows from it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lumbung_gateway::domain::ids::ProviderId;
use lumbung_gateway::domain::provider::Standing;
use lumbung_openapi::jws::SigningKey;
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::process::wait_until;
use crate::support::provider::ProviderSetup;
use crate::support::{Books, MODEL, Network, Setup};

/// Runs the operator's command line on the network's books.
pub fn operate(network: &Network, arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_lumbung-gateway"))
        .args(arguments)
        .arg("--json")
        .env("LUMBUNG_DATA_DIR", network.folder.path())
        .env_remove("DATABASE_URL")
        .output()
        .expect("the command runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

async fn model(network: &Network) -> Value {
    let url = format!("{}/v1/models/{MODEL}", network.base);
    reqwest::get(&url).await.expect("an answer").json().await.expect("JSON")
}

#[tokio::test]
async fn a_request_with_content_that_its_model_does_not_take_is_refused_by_its_place() {
    let network = Setup::new(Books::Sqlite).start().await;
    let script = json!({"supported_parameters": ["max_tokens", "image_url"], "rules": [{"match": "*", "reply": "ok"}]});
    let _provider = network.scripted(script).await;
    let client = network.client("1").await;
    let text = json!({"type": "text", "text": "what is this?"});
    let image = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}});
    let sound = json!({"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}});
    let ask = async |parts: Value| {
        let messages = json!([{"role": "system", "content": "short"}, {"role": "user", "content": parts}]);
        let response = client.post(Client::body("x", json!({"messages": messages})).to_string()).await;
        (response.status().as_u16(), response.json::<Value>().await.expect("JSON"))
    };
    let told = |(status, body): (u16, Value)| (status, body["error"]["param"].clone(), body["error"]["code"].clone());
    let at = |part: &str| (400, json!(format!("messages[1].content[{part}]")), json!("unsupported_content"));
    assert_eq!(model(&network).await["architecture"]["modality"], "text->text", "what an entry is that says nothing");
    assert_eq!(told(ask(json!([text, image])).await), at("1"));

    let entry =
        ["models", "add", MODEL, "--context-length", "100000", "--prompt-price", "0.50", "--completion-price", "2"];
    let added = operate(&network, &[&entry[..], &["--input-modality", "image", "--input-modality", "text"]].concat());
    assert_eq!(added["input_modalities"], json!(["text", "image"]));
    wait_until("the gateway follows", Duration::from_secs(3), async || ask(json!([text, image])).await.0 == 200).await;
    let architecture = model(&network).await["architecture"].clone();
    let expected = json!({"modality": "text+image->text", "input_modalities": ["text", "image"],
        "output_modalities": ["text"], "tokenizer": null});
    assert_eq!(architecture, expected);
    assert_eq!(told(ask(json!([image, text, sound])).await), at("2"));
    // The catalogue says that the model takes sound; none of its providers does.
    operate(&network, &[&entry[..], &["--input-modality", "audio", "--input-modality", "text"]].concat());
    wait_until("the gateway follows", Duration::from_secs(3), async || {
        told(ask(json!([sound])).await) == (400, json!("input_audio"), json!("unsupported_parameter"))
    })
    .await;
    network.finish().await;
}

#[tokio::test]
async fn newcomers_may_need_a_tokenizer() {
    let network = Setup::new(Books::Sqlite).with_gateway_flag("--newcomers-need-tokenizer", "true").start().await;
    let provider = ProviderSetup::scripted(json!([{"match": "*", "reply": "ok"}]));
    let provider = provider.start(&network.base);
    provider.connected().await;
    let client = network.client("1").await;
    let status = async || client.post(Client::body("x", json!({})).to_string()).await.status().as_u16();
    tokio::time::sleep(Duration::from_millis(500)).await; // its first offer has been read
    assert_eq!(status().await, 503, "a newcomer, and nothing to count by");
    let id = ProviderId::from(SigningKey::from_seed(&provider.seed()).public());
    network.store.set_standing(&id, Standing::Trusted).await.expect("trusted");
    wait_until("a trusted provider serves", Duration::from_secs(3), async || status().await == 200).await;
    network.store.set_standing(&id, Standing::Newcomer).await.expect("on probation");
    wait_until("a newcomer does not", Duration::from_secs(3), async || status().await == 503).await;

    let padi = Path::new(env!("CARGO_MANIFEST_DIR")).join("../provider-runtime/models/padi");
    let imported = operate(&network, &["models", "tokenizer", MODEL, "--from", &padi.display().to_string()]);
    wait_until("a newcomer is counted again", Duration::from_secs(3), async || status().await == 200).await;
    assert_eq!(model(&network).await["architecture"]["tokenizer"], imported["tokenizer"], "one truth");
    // A changed entry keeps its tokenizer.
    let entry =
        ["models", "add", MODEL, "--context-length", "5000", "--prompt-price", "0.50", "--completion-price", "2"];
    assert_eq!(operate(&network, &entry)["tokenizer"], imported["tokenizer"]);
    network.finish().await;
}

#[tokio::test]
async fn who_serves_a_model_is_listed_the_cheapest_first() {
    let network = Setup::new(Books::Sqlite).start().await;
    let script = json!([{"match": "*", "reply": "one two three", "delay_ms_per_token": 5}]);
    let dear = network.provider(ProviderSetup::scripted(script.clone()).ask("0.3", "0.9")).await;
    let cheap = network.provider(ProviderSetup::scripted(script).ask("0.2", "0.8")).await;
    let client = network.client("1").await;
    let endpoints = async |id: &str| -> Value {
        client.get(&format!("/v1/models/{id}/endpoints")).await.json().await.expect("JSON")
    };
    wait_until("both are listed", Duration::from_secs(5), async || {
        endpoints(MODEL).await["data"]["endpoints"].as_array().is_some_and(|listed| listed.len() == 2)
    })
    .await;
    let encoded = endpoints(&MODEL.replace('/', "%2F")).await;
    assert_eq!(encoded, endpoints(MODEL).await);
    let model = &encoded["data"];
    assert_eq!((model["id"].as_str(), model["architecture"]["modality"].as_str()), (Some(MODEL), Some("text->text")));
    let listed = model["endpoints"].as_array().expect("a list");
    let ids: Vec<&Value> = listed.iter().map(|endpoint| &endpoint["tag"]).collect();
    assert_eq!(ids, [&json!(cheap.id()), &json!(dear.id())]);
    assert_eq!(listed[0]["pricing"], json!({"prompt": "0.0000002", "completion": "0.0000008"}));
    assert_eq!(listed[0]["status"], 0);
    assert!(listed[0]["supported_parameters"].as_array().is_some_and(|names| !names.is_empty()), "{listed:?}");
    assert!(listed.iter().all(|endpoint| endpoint["latency_last_30m"].is_null()), "nothing has been measured");

    let only = json!({"provider": {"only": [dear.id()]}});
    for _ in 0..4 {
        assert!(client.stream("x", only.clone()).await.done);
    }
    let measured = endpoints(MODEL).await;
    let [cheap, dear] = [0, 1].map(|at| measured["data"]["endpoints"][at].clone());
    assert!(dear["latency_last_30m"]["p50"].as_f64().is_some_and(|seconds| seconds > 0.0), "{dear}");
    assert!(dear["throughput_last_30m"]["p99"].as_f64().is_some_and(|speed| speed > 0.0), "{dear}");
    assert!(cheap["latency_last_30m"].is_null(), "{cheap}");

    let unknown = endpoints("nobody/nothing").await;
    assert_eq!(unknown["error"]["code"], "model_not_found");
    assert!(unknown["error"]["message"].as_str().is_some_and(|text| text.contains("'nobody/nothing'")), "{unknown}");
    network.finish().await;
}

#[tokio::test]
async fn how_fast_a_model_is_is_shown_once_it_has_been_measured() {
    let network = Setup::new(Books::Sqlite).start().await;
    let slow =
        json!([{"match": "*", "reply": "one two three four five six", "delay_ms_first": 20, "delay_ms_per_token": 10}]);
    let _provider = network.scripted(slow).await;
    let before = model(&network).await;
    assert_eq!((&before["latency"], &before["throughput"]), (&Value::Null, &Value::Null));
    let client = network.client("1").await;
    for _ in 0..4 {
        assert!(client.stream("x", json!({})).await.done);
    }
    let shown = model(&network).await;
    let figures = |name: &str| ["p50", "p75", "p90", "p99"].map(|share| shown[name][share].as_f64().expect("a figure"));
    let (latency, throughput) = (figures("latency"), figures("throughput"));
    // Neighbouring figures differ by a third. On a busy machine tokens come in bunches, so that no speed is too high.
    assert!(latency.is_sorted() && latency[0] > 0.013, "{latency:?}");
    assert!(throughput.iter().rev().is_sorted() && throughput[3] > 0.0, "{throughput:?}");
    network.finish().await;
}
