//! What a key and its account may do, as clients meet it: each limit refused with the right status, headers and reason.

use std::sync::Arc;
use std::time::{Duration, Instant};

use lumbung_gateway::domain::ids::KeyId;
use lumbung_gateway::domain::limits::{Budgets, LimitOwner, Limits};
use lumbung_gateway::domain::provider::Standing;
use lumbung_openapi::money::{NanoUsd, TokenPrice};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::process::wait_until;
use crate::support::provider::ProviderSetup;
use crate::support::{ASK, Books, MODEL, Network, Setup, usd};

/// What answers of so many completion tokens cost, the prompt counted as nothing.
fn cost(completion: u32) -> NanoUsd {
    let price = TokenPrice { prompt: usd(ASK.0), completion: usd(ASK.1) };
    price.cost(0, completion).expect("a small cost")
}

async fn key_of(network: &Network, client: &Client) -> LimitOwner {
    let keys = network.store.keys(Some(&client.account)).await.expect("keys");
    LimitOwner::Key(keys[0].id)
}

/// A client whose key has limits from the beginning, so that no gateway has to notice them.
async fn limited(network: &Network, limits: Limits) -> Client {
    let client = network.client("10").await;
    let owner = key_of(network, &client).await;
    network.store.set_limits(owner, &limits).await.expect("limits");
    client
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }

    fn error(&self, member: &str) -> Option<&str> {
        self.body["error"][member].as_str()
    }
}

async fn post(client: &Client, more: Value) -> Answer {
    let response = client.post(Client::body("x", more).to_string()).await;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Answer { status, headers, body: response.json().await.expect("JSON") }
}

/// Asks until the gateway has noticed a change.
async fn status_becomes(client: &Client, status: u16) {
    let started = Instant::now();
    while post(client, json!({"max_tokens": 1})).await.status != status {
        assert!(started.elapsed() < Duration::from_secs(2), "not {status} within two seconds");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn requests_and_tokens_per_minute() {
    let network = Setup::new(Books::Sqlite).start().await;
    let _provider = network.scripted(json!([{"match": "*", "tokens": 50, "prompt_tokens": 0}])).await;
    let two = limited(&network, Limits { requests_per_minute: Some(2), ..Limits::default() }).await;
    let first = post(&two, json!({})).await;
    assert_eq!(first.status, 200);
    assert_eq!(first.header("x-ratelimit-limit-requests"), Some("2"));
    assert_eq!(first.header("x-ratelimit-remaining-requests"), Some("1"));
    assert!(first.header("x-ratelimit-reset-requests").is_some_and(|reset| reset.ends_with('s')));
    assert_eq!(first.header("x-ratelimit-limit-tokens"), None, "no such limit");
    assert_eq!(post(&two, json!({})).await.status, 200);
    let third = post(&two, json!({})).await;
    assert_eq!(
        (third.status, third.error("code"), third.error("type")),
        (429, Some("rate_limit_exceeded"), Some("requests"))
    );
    assert_eq!(third.header("x-ratelimit-remaining-requests"), Some("0"));
    let wait: u64 = third.header("retry-after").expect("when").parse().expect("seconds");
    assert!((55..=60).contains(&wait), "{wait}");
    assert!(third.header("retry-after-ms").is_some() && third.header("x-should-retry").is_none());

    let tokens = limited(&network, Limits { tokens_per_minute: Some(1000), ..Limits::default() }).await;
    let first = post(&tokens, json!({"max_tokens": 900})).await;
    assert_eq!((first.status, first.header("x-ratelimit-limit-tokens")), (200, Some("1000")));
    let corrected = post(&tokens, json!({"max_tokens": 900})).await;
    assert_eq!(corrected.status, 200, "50 tokens were used of 900: {}", corrected.body);
    let remaining = |answer: &Answer| answer.header("x-ratelimit-remaining-tokens").and_then(|n| n.parse::<u32>().ok());
    let huge = post(&tokens, json!({"max_tokens": 1001})).await;
    assert_eq!((huge.status, huge.error("type"), huge.header("x-should-retry")), (429, Some("tokens"), Some("false")));
    assert!(remaining(&huge).is_some_and(|left| (880..=1000).contains(&left)), "{:?}", remaining(&huge));
    for _ in 0..10 {
        post(&tokens, json!({"max_tokens": 100})).await;
    }
    let used_up = post(&tokens, json!({"max_tokens": 600})).await;
    assert_eq!((used_up.status, used_up.error("type")), (429, Some("tokens")), "{}", used_up.body);
    assert!(used_up.header("retry-after").is_some());
    network.finish().await;
}

#[tokio::test]
async fn requests_at_a_time_and_whoever_leaves_makes_room() {
    let network = Setup::new(Books::Sqlite).start().await;
    let _provider = network.scripted(json!([{"match": "*", "tokens": 100, "delay_ms_per_token": 100}])).await;
    let client = limited(&network, Limits { concurrent_requests: Some(2), ..Limits::default() }).await;
    let (one, two) = (client.open("x", json!({})).await, client.open("x", json!({})).await);
    let third = post(&client, json!({})).await;
    assert_eq!((third.status, third.error("code")), (429, Some("rate_limit_exceeded")));
    assert!(third.error("message").is_some_and(|message| message.contains("2 requests at a time")));
    assert_eq!(third.header("retry-after"), Some("1"));
    drop(one);
    wait_until("the place is free again", Duration::from_secs(5), async || {
        let response = client.post(Client::body("x", json!({"stream": true})).to_string()).await;
        response.status() == 200
    })
    .await;
    drop(two);
    network.finish().await;
}

/// Two hundred requests at once from one key with a budget for forty, each answer costing its ceiling.
async fn a_budget_is_spent_exactly(books: Books) {
    const FLAT: &str = "lumbung/flat";
    let mut network = Setup::new(books).with_model(FLAT, 100_000).start().await;
    let script = json!([{"match": "*", "tokens": 100, "prompt_tokens": 7}]);
    let _provider = network.provider(ProviderSetup::scripted(script).model(FLAT).ask("0", ASK.1)).await;
    let client = Arc::new(network.client("10").await);
    let budget = NanoUsd::from_nanos(cost(100).nanos() * 40);
    let owner = key_of(&network, &client).await;
    let limits = Limits { budgets: Budgets { day: Some(budget), ..Budgets::default() }, ..Limits::default() };
    network.store.set_limits(owner, &limits).await.expect("limits");
    // Nothing is held for the prompt, which is free.
    let body = json!({"model": FLAT, "max_tokens": 100, "provider": {"max_price": {"prompt": 0}}});
    let body = Client::body("x", body).to_string();
    let asking: Vec<_> = (0..200)
        .map(|_| {
            let (client, body) = (client.clone(), body.clone());
            tokio::spawn(async move {
                let response = client.post(body).await;
                (response.status().as_u16(), response.headers().clone(), response.json::<Value>().await.expect("JSON"))
            })
        })
        .collect();
    let mut served = 0;
    for asked in asking {
        match asked.await.expect("no panic") {
            (200, ..) => served += 1,
            (429, headers, body) => {
                assert_eq!(headers["x-should-retry"], "false");
                assert_eq!(
                    (&body["error"]["code"], &body["error"]["type"]),
                    (&json!("budget_exceeded"), &json!("insufficient_quota"))
                );
                let message = body["error"]["message"].as_str().expect("a message");
                assert!(
                    message.contains("key's daily budget of $0.008 ") && message.contains("T00:00:00Z"),
                    "{message}"
                );
            }
            (status, _, body) => panic!("status {status}: {body}"),
        }
    }
    assert_eq!(served, 40);
    let left = usd("10").checked_sub(budget).expect("enough");
    network.balance_becomes(&client.account, left).await;

    // What was spent is in the books: another process counts it.
    network.kill_gateway();
    network.restart_gateway().await;
    network.serves(FLAT).await;
    assert_eq!(client.post(body.clone()).await.status(), 429, "a restarted gateway reads what was spent");
    let more = NanoUsd::from_nanos(cost(100).nanos() * 41);
    let limits = Limits { budgets: Budgets { day: Some(more), ..Budgets::default() }, ..Limits::default() };
    network.store.set_limits(owner, &limits).await.expect("limits");
    wait_until("the budget is raised", Duration::from_secs(2), async || {
        client.post(body.clone()).await.status() == 200
    })
    .await;
    assert_eq!(client.post(body).await.status(), 429, "by one answer");
    network.finish().await;
}

#[tokio::test]
async fn a_budget_is_spent_exactly_on_sqlite() {
    a_budget_is_spent_exactly(Books::Sqlite).await;
}

#[tokio::test]
async fn a_budget_is_spent_exactly_on_postgres() {
    a_budget_is_spent_exactly(Books::Postgres).await;
}

#[tokio::test]
async fn an_answer_ends_where_the_budget_does() {
    let network = Setup::new(Books::Sqlite).with_gateway_flag("--default-hold-tokens", "50").start().await;
    let script = json!([{"match": "*", "tokens": 5000, "prompt_tokens": 0, "delay_ms_per_token": 3}]);
    let _provider = network.scripted(script).await;
    let budgets = Budgets { total: Some(cost(300)), ..Budgets::default() };
    let client = limited(&network, Limits { budgets, ..Limits::default() }).await;
    let streamed = client.stream("x", json!({})).await;
    let error = streamed.error.expect("the client is told");
    assert_eq!((&error["code"], &error["type"]), (&json!("budget_exceeded"), &json!("insufficient_quota")), "{error}");
    assert!(streamed.done);
    let delivered = streamed.text.split_whitespace().count() as u32;
    assert!((200..=300).contains(&delivered), "{delivered} of 300 tokens arrived");
    let left = usd("10").checked_sub(cost(delivered)).expect("enough");
    network.balance_becomes(&client.account, left).await;
    network.finish().await;
}

#[tokio::test]
async fn who_may_ask_for_what_until_when() {
    let network = Setup::new(Books::Sqlite).with_model("lumbung/other", 1000).start().await;
    let provider = network.scripted(json!([{"match": "*", "reply": "ok"}])).await;

    let models = |name: &str| Limits { models: Some(vec![name.parse().expect("a model")]), ..Limits::default() };
    let client = limited(&network, models("lumbung/other")).await;
    let refused = post(&client, json!({})).await;
    assert_eq!(
        (refused.status, refused.error("code"), refused.error("param")),
        (403, Some("model_not_allowed"), Some("model"))
    );
    network.store.set_limits(key_of(&network, &client).await, &models(MODEL)).await.expect("limits");
    status_becomes(&client, 200).await;

    let past = Limits { expires_at_us: Some(1_700_000_000_000_000), ..Limits::default() };
    let expired = post(&limited(&network, past).await, json!({})).await;
    assert_eq!((expired.status, expired.error("code")), (401, Some("api_key_expired")));
    assert_eq!(expired.error("message"), Some("This API key has expired."));
    let soon = network.store.now_us().await.expect("the clock") + 1_500_000;
    let client = limited(&network, Limits { expires_at_us: Some(soon), ..Limits::default() }).await;
    assert_eq!(post(&client, json!({})).await.status, 200);
    tokio::time::sleep(Duration::from_millis(1600)).await;
    assert_eq!(post(&client, json!({})).await.status, 401, "though the gateway remembers the key");

    let careful = limited(&network, Limits { allow_probation: false, ..Limits::default() }).await;
    let refused = post(&careful, json!({})).await;
    assert_eq!((refused.status, refused.error("code")), (503, Some("no_provider")));
    assert!(refused.error("message").is_some_and(|message| message.contains("probation")));
    let id = lumbung_openapi::jws::SigningKey::from_seed(&provider.seed()).public().into();
    network.store.set_standing(&id, Standing::Trusted).await.expect("trusted");
    status_becomes(&careful, 200).await;
    network.finish().await;
}

#[tokio::test]
async fn a_client_names_its_own_price() {
    let network = Setup::new(Books::Sqlite).start().await;
    let _provider = network.scripted(json!([{"match": "*", "tokens": 10, "prompt_tokens": 0}])).await;
    let client = network.client("10").await;
    let ask = async |prices: Value| post(&client, json!({"max_tokens": 10, "provider": {"max_price": prices}})).await;
    for prices in
        [json!({"prompt": 0.5, "completion": 2}), json!({"completion": "2.0"}), json!({"prompt": 9e9}), json!({})]
    {
        assert_eq!(ask(prices.clone()).await.status, 200, "{prices}");
    }
    for prices in
        [json!({"prompt": 0.4999}), json!({"completion": "1.999999999"}), json!({"prompt": 1, "completion": 1})]
    {
        let refused = ask(prices.clone()).await;
        let told = (refused.status, refused.error("param"), refused.error("code"));
        assert_eq!(told, (404, Some("provider.max_price"), Some("no_provider_within_price")), "{prices}");
    }
    let wrong = ask(json!({"prompt": [1]})).await;
    assert_eq!((wrong.status, wrong.error("param")), (400, Some("provider.max_price.prompt")));

    // The cap is also what is held: credit that would not cover the reference price covers it.
    let body = json!({"max_tokens": 10});
    let poor = network.client("0.000001").await;
    assert_eq!(post(&poor, body).await.error("code"), Some("insufficient_quota"));
    network.finish().await;
}

#[tokio::test]
async fn the_tighter_of_key_and_account_decides() {
    let network = Setup::new(Books::Sqlite).start().await;
    let _provider = network.scripted(json!([{"match": "*", "reply": "ok"}])).await;
    let client = limited(&network, Limits { requests_per_minute: Some(100), ..Limits::default() }).await;
    let tighter = Limits { requests_per_minute: Some(1), ..Limits::default() };
    network.store.set_limits(LimitOwner::Account(client.account), &tighter).await.expect("limits");
    let first = post(&client, json!({})).await;
    assert_eq!((first.status, first.header("x-ratelimit-limit-requests")), (200, Some("1")));
    let second = post(&client, json!({})).await;
    assert!(second.error("message").is_some_and(|message| message.contains("account's limit of 1 requests")));
    let (_, other) = network.store.create_key(&client.account, "other").await.expect("a key");
    let other = Client::new(client.base.clone(), other, client.account);
    assert_eq!(post(&other, json!({})).await.status, 429, "another key of the same account");

    let key: KeyId = network.store.keys(Some(&client.account)).await.expect("keys")[0].id;
    network.store.set_limits(LimitOwner::Account(client.account), &Limits::default()).await.expect("cleared");
    status_becomes(&client, 200).await;
    network.store.revoke_key(&key).await.expect("revoked");
    status_becomes(&client, 401).await;
    network.finish().await;
}

/// The official SDK, unmodified, meets two gateways that share its limits.
#[tokio::test]
async fn the_python_sdk_raises_its_own_error_and_waits_as_long_as_it_is_told() {
    let python = std::env::var("LUMBUNG_TEST_PYTHON").expect("LUMBUNG_TEST_PYTHON is not set: run through `make test`");
    let network = Setup::new(Books::Postgres).shared().start().await;
    let second = network.another_gateway().await;
    let _provider =
        network.scripted(json!([{"match": "*", "tokens": 30, "prompt_tokens": 5, "delay_ms_per_token": 30}])).await;
    let paced = limited(&network, Limits { tokens_per_minute: Some(240), ..Limits::default() }).await;
    let one = limited(&network, Limits { concurrent_requests: Some(1), ..Limits::default() }).await;
    let mut command = std::process::Command::new(python);
    command.args(["-m", "pytest", "-q", "-p", "no:cacheprovider"]);
    command.arg(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk/test_limits.py"));
    command.env("BASE_URL", format!("{}/v1", network.base)).env("MODEL", MODEL);
    command.env("PACED_KEY", &paced.key).env("ONE_KEY", &one.key);
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic").expect("it runs");
    let said = format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    second.stop().await;
    network.finish().await;
}
