//! Servers that people run already, behind a provider: what clients send reaches them as it is, and what they count is paid.

use std::time::Duration;

use lumbung_gateway::domain::limits::{LimitOwner, Limits};
use lumbung_openapi::money::NanoUsd;
use serde_json::{Value, json};

use crate::catalogue::operate;
use crate::support::client::Client;
use crate::support::process::wait_until;
use crate::support::provider::{Provider, ProviderSetup};
use crate::support::sidecar::{Sidecar, said};
use crate::support::{Books, MODEL, Network, Setup};

/// Takes everything.
pub const SEEING: &str = "lumbung/seeing";
const SUPPORTS: &str = "max_tokens,image_url,input_audio,file,prompt,n,echo";
/// As a client may write it: escapes, spaces and members that nobody knows.
const PARTS: &str = r#"[ {"type":"text","text":"What\u0020is this?"},
  {"type":"image_url","image_url":{"url":"data:image\/png;base64,iVBORw0KGgo=","detail":"low"}},{"type": "image_url",
   "image_url":{"url":"https://example.org/a.png?x=1&y=%20","made_up":[1.50]}},
  {"type":"input_audio","input_audio":{"format":"wav","data":"UklGRg=="}},{"type":"file","file":{"file_data":"data:application/pdf;base64,JVBERi0=","filename":"a.pdf"}} ]"#;

/// A network with a model that takes everything, at a server, and one that takes text, at another.
pub async fn network() -> (Network, Sidecar, Vec<Provider>) {
    network_of(Setup::new(Books::Sqlite)).await
}

async fn network_of(setup: Setup) -> (Network, Sidecar, Vec<Provider>) {
    let network = setup.start().await;
    let kinds = ["text", "image", "audio", "file"].map(|kind| ["--input-modality", kind]).concat();
    let entry =
        ["models", "add", SEEING, "--context-length", "100000", "--prompt-price", "0.50", "--completion-price", "2"];
    operate(&network, &[&entry[..], &kinds].concat());
    let sidecar = Sidecar::start().await;
    let seeing = network.provider(ProviderSetup::sidecar(SEEING, &sidecar, SUPPORTS)).await;
    let reading = network.provider(ProviderSetup::sidecar(MODEL, &sidecar, SUPPORTS)).await;
    (network, sidecar, vec![seeing, reading])
}

/// What a server counts that tells all there is to tell.
pub fn counted() -> Value {
    json!({"prompt_tokens": 3000, "completion_tokens": 7, "total_tokens": 3007,
        "prompt_tokens_details": {"cached_tokens": 10, "image_tokens": 2900, "audio_tokens": 50, "text_tokens": 40, "cache_write_tokens": 5},
        "completion_tokens_details": {"reasoning_tokens": 2, "text_tokens": 7, "accepted_prediction_tokens": 1, "rejected_prediction_tokens": 9}})
}

async fn post(client: &Client, path: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
    let request = client.http.post(format!("{}{path}", client.base)).bearer_auth(&client.key).body(body);
    let response = request.send().await.expect("the gateway answers");
    let status = response.status().as_u16();
    let text = response.text().await.expect("a body");
    // Of a stream, the event with the usage.
    let json = match text.starts_with("data: ") {
        true => text.rsplit("\n\n").filter_map(|event| event.strip_prefix("data: ")).find(|data| *data != "[DONE]"),
        false => Some(text.as_str()),
    };
    (status, serde_json::from_str(json.expect("an answer")).expect("JSON"))
}

fn refused((status, body): (u16, Value)) -> (u16, Value, Value) {
    (status, body["error"]["param"].clone(), body["error"]["code"].clone())
}

/// What the account pays for so many tokens at the test providers' asks.
fn cost(prompt: i64, completion: i64) -> NanoUsd {
    NanoUsd::from_nanos(prompt * 500 + completion * 2_000)
}

#[tokio::test]
async fn pictures_and_sounds_reach_a_server_as_they_were_sent_and_cost_what_it_counts() {
    let (network, sidecar, _providers) = network().await;
    let client = network.client("1").await;
    sidecar.answer_with(said("A picture.", counted()));
    let mut left = network.balance(&client.account).await;
    for stream in [r#","stream":true,"stream_options":{"include_usage":true}"#, ""] {
        let body = format!(
            r#"{{"model":"{SEEING}","max_tokens":20,"messages":[{{"role":"user","content":{PARTS}}}]{stream}}}"#
        );
        let (status, answer) = post(&client, "/v1/chat/completions", body).await;
        assert_eq!(status, 200, "{answer}");
        assert!(sidecar.asked().contains(PARTS), "byte for byte: {}", sidecar.asked());
        let usage = &answer["usage"];
        assert_eq!(
            (&usage["prompt_tokens"], &usage["completion_tokens"]),
            (&json!(3000), &json!(7)),
            "more than its bytes"
        );
        let of_prompt = json!({"cached_tokens": 10, "cache_write_tokens": 5, "audio_tokens": 50, "image_tokens": 2900, "text_tokens": 40});
        assert_eq!(usage["prompt_tokens_details"], of_prompt);
        // No kind is more than all of them.
        let of_completion = json!({"reasoning_tokens": 2, "audio_tokens": 0, "text_tokens": 7,
            "accepted_prediction_tokens": 1, "rejected_prediction_tokens": 7});
        assert_eq!(usage["completion_tokens_details"], of_completion);
        assert_eq!(usage["cost"], 0.001514);
        left = left.checked_sub(cost(3000, 7)).expect("money");
        network.balance_becomes(&client.account, left).await;
    }

    // The other endpoints that are conversations put them into a chat's words.
    let data = "data:image/png;base64,iVBORw0KGgo=";
    let input = json!([{"role": "user", "content": [{"type": "input_text", "text": "x"},
        {"type": "input_image", "image_url": data, "detail": "high"}, {"type": "input_file", "filename": "a.pdf", "file_data": "JVBERi0="}]}]);
    let (status, answer) = post(&client, "/v1/responses", json!({"model": SEEING, "input": input}).to_string()).await;
    assert_eq!(status, 200, "{answer}");
    let asked: Value = serde_json::from_str(&sidecar.asked()).expect("JSON");
    let expected = json!([{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": data, "detail": "high"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "JVBERi0="}}]);
    assert_eq!(asked["messages"][0]["content"], expected);
    assert_eq!(answer["usage"]["input_tokens_details"], json!({"cached_tokens": 10, "cache_write_tokens": 5}));
    let sources = [
        json!({"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}),
        json!({"type": "url", "url": "https://example.org/a.png"}),
    ];
    let blocks = json!(sources.map(|source| json!({"type": "image", "source": source})));
    let body = json!({"model": SEEING, "max_tokens": 20, "messages": [{"role": "user", "content": blocks}]});
    let (status, answer) = post(&client, "/v1/messages", body.to_string()).await;
    assert_eq!(status, 200, "{answer}");
    let asked: Value = serde_json::from_str(&sidecar.asked()).expect("JSON");
    let image = |url: &str| json!({"type": "image_url", "image_url": {"url": url}});
    assert_eq!(asked["messages"][0]["content"], json!([image(data), image("https://example.org/a.png")]));
    let usage = json!({"input_tokens": 2985, "cache_creation_input_tokens": 5, "cache_read_input_tokens": 10, "output_tokens": 7});
    assert_eq!(answer["usage"], usage);
    network.finish().await;
}

#[tokio::test]
async fn what_a_model_does_not_take_costs_nothing_and_reaches_nobody() {
    let (network, sidecar, _providers) = network().await;
    let client = network.client("1").await;
    let before = network.balance(&client.account).await;
    let content: Value = serde_json::from_str(PARTS).expect("JSON");
    let chat =
        json!({"model": MODEL, "messages": [{"role": "system", "content": "x"}, {"role": "user", "content": content}]});
    let image = json!({"type": "input_image", "image_url": "https://example.org/a.png"});
    let responses = json!({"model": MODEL, "instructions": "x", "input": [{"role": "user", "content": [image]}]});
    let image = json!({"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}});
    let messages =
        json!({"model": MODEL, "max_tokens": 5, "system": "x", "messages": [{"role": "user", "content": [image]}]});
    for (path, body, place) in
        [("/v1/chat/completions", chat, "messages[1].content[1]"), ("/v1/responses", responses, "input[0].content[0]")]
    {
        let told = refused(post(&client, path, body.to_string()).await);
        assert_eq!(told, (400, json!(place), json!("unsupported_content")), "{path}");
    }
    let (status, told) = post(&client, "/v1/messages", messages.to_string()).await;
    assert_eq!((status, &told["error"]["type"]), (400, &json!("invalid_request_error")));
    assert!(told["error"]["message"].as_str().is_some_and(|text| text.contains("messages[0].content[0]")), "{told}");
    let elsewhere = json!({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}});
    let body = json!({"model": SEEING, "messages": [{"role": "user", "content": [elsewhere]}]});
    let told = refused(post(&client, "/v1/chat/completions", body.to_string()).await);
    assert_eq!(told, (400, json!("messages[0].content[0].image_url.url"), json!("invalid_value")));
    assert_eq!(sidecar.count(), 0);
    assert_eq!(network.balance(&client.account).await, before);
    network.finish().await;
}

/// Megabytes of a picture are held for, and count against a rate, as a picture: not as so much text.
#[tokio::test]
async fn a_large_picture_is_reserved_as_a_picture() {
    let setup = Setup::new(Books::Sqlite).with_gateway_flag("--max-body", "9000000");
    let (network, sidecar, _providers) = network_of(setup).await;
    sidecar.answer_with(said("A picture.", json!({"prompt_tokens": 1200, "completion_tokens": 3})));
    let client = network.client("0.01").await;
    let limits = Limits { tokens_per_minute: Some(5_000), ..Limits::default() };
    network.store.set_limits(LimitOwner::Account(client.account), &limits).await.expect("limits");
    let url = format!("data:image/png;base64,{}", "iVBO".repeat(1_250_000));
    let part = json!({"type": "image_url", "image_url": {"url": url}});
    let body = json!({"model": SEEING, "max_tokens": 20, "messages": [{"role": "user", "content": [part]}]});
    let (status, answer) = post(&client, "/v1/chat/completions", body.to_string()).await;
    assert_eq!((status, &answer["usage"]["prompt_tokens"]), (200, &json!(1200)), "{answer}");
    assert!(sidecar.asked().contains(&url));
    let left = NanoUsd::from_nanos(10_000_000).checked_sub(cost(1200, 3)).expect("money");
    network.balance_becomes(&client.account, left).await;
    network.finish().await;
}

#[tokio::test]
async fn suffix_and_best_of_go_to_servers_that_have_them() {
    let (network, sidecar, _providers) = network().await;
    let client = network.client("1").await;
    let ask = async |more: Value| {
        let mut body = json!({"model": MODEL, "prompt": "fn main() {", "max_tokens": 50});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        post(&client, "/v1/completions", body.to_string()).await
    };
    for (more, param) in [(json!({"suffix": "}"}), "suffix"), (json!({"best_of": 3}), "best_of")] {
        assert_eq!(refused(ask(more).await), (400, json!(param), json!("unsupported_parameter")));
    }
    let able = Sidecar::start().await;
    let supports = "max_tokens,prompt,n,suffix,best_of";
    let _able = network.provider(ProviderSetup::sidecar(MODEL, &able, supports)).await;
    let listed = async || {
        let listed: Value = client.get(&format!("/v1/models/{MODEL}")).await.json().await.expect("JSON");
        listed["providers"] == 2
    };
    wait_until("both serve", Duration::from_secs(10), listed).await;
    let choice =
        |index: u32, text: &str| json!({"index": index, "text": text, "finish_reason": "stop", "logprobs": null});
    let mut left = network.balance(&client.account).await;

    able.answer_with(json!({"choices": [choice(0, " body ")], "usage": {"prompt_tokens": 9, "completion_tokens": 4}}));
    for stream in [true, false] {
        let (status, answer) = ask(json!({"suffix": "}", "stream": stream})).await;
        assert_eq!(status, 200, "{answer}");
        let asked: Value = serde_json::from_str(&able.asked()).expect("JSON");
        assert_eq!(
            (&asked["suffix"], &asked["prompt"], &asked["stream"]),
            (&json!("}"), &json!("fn main() {"), &json!(true))
        );
        left = left.checked_sub(cost(9, 4)).expect("money");
        network.balance_becomes(&client.account, left).await;
    }

    // Five drafts of 50 tokens at most, of which the client gets two and pays all.
    let choices = [choice(0, " best "), choice(1, " second ")];
    able.answer_with(json!({"choices": choices, "usage": {"prompt_tokens": 9, "completion_tokens": 201}}));
    let (status, answer) = ask(json!({"n": 2, "best_of": 5})).await;
    assert_eq!(status, 200, "{answer}");
    let asked: Value = serde_json::from_str(&able.asked()).expect("JSON");
    assert_eq!((&asked["best_of"], &asked["n"], &asked["max_tokens"]), (&json!(5), &json!(2), &json!(50)));
    assert_eq!(
        (&asked["stream"], asked.get("stream_options")),
        (&json!(false), None),
        "no draft is shown before all are made"
    );
    let texts: Vec<&str> =
        answer["choices"].as_array().expect("choices").iter().filter_map(|one| one["text"].as_str()).collect();
    assert_eq!((texts, &answer["usage"]["completion_tokens"]), (vec![" best ", " second "], &json!(201)));
    left = left.checked_sub(cost(9, 201)).expect("money");
    network.balance_becomes(&client.account, left).await;

    // A server that counts more than was asked for is paid what was asked for.
    able.answer_with(json!({"choices": choices, "usage": {"prompt_tokens": 9, "completion_tokens": 9_999}}));
    let (_, answer) = ask(json!({"n": 2, "best_of": 5})).await;
    assert_eq!(answer["usage"]["completion_tokens"], 250, "five of 50");
    left = left.checked_sub(cost(9, 250)).expect("money");
    network.balance_becomes(&client.account, left).await;
    assert_eq!(
        refused(ask(json!({"best_of": 3, "stream": true})).await),
        (400, json!("best_of"), json!("invalid_value"))
    );
    assert_eq!(sidecar.count(), 0, "the other was never asked");
    network.finish().await;
}
