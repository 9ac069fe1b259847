//! Who serves: the client's wishes in OpenRouter's words, models to fall back on, and the reason for a choice.

use std::time::{Duration, Instant};

use lumbung_gateway::domain::ids::ProviderId;
use lumbung_gateway::domain::provider::Standing;
use lumbung_openapi::explain::Explanation;
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::process::wait_until;
use crate::support::provider::{Provider, ProviderSetup};
use crate::support::{Books, MODEL, Network, Setup, usd};

const OTHER: &str = "lumbung/other";
const IDLE: &str = "lumbung/idle";

struct Told {
    status: u16,
    body: Value,
    explain: Option<String>,
}

impl Told {
    fn text(&self) -> &str {
        self.body["choices"][0]["message"]["content"].as_str().unwrap_or_else(|| panic!("no answer: {}", self.body))
    }

    fn error(&self) -> (u16, Option<&str>, Option<&str>) {
        (self.status, self.body["error"]["param"].as_str(), self.body["error"]["code"].as_str())
    }
}

async fn ask(client: &Client, more: Value) -> Told {
    let body = Client::body("hello", more).to_string();
    let request = client.http.post(format!("{}/v1/chat/completions", client.base)).bearer_auth(&client.key);
    let request = request.header("content-type", "application/json").header("x-lumbung-explain", "1");
    let response = request.body(body).send().await.expect("the gateway answers");
    let header = response.headers().get("x-lumbung-explain");
    let explain = header.map(|value| value.to_str().expect("text").to_owned());
    Told { status: response.status().as_u16(), body: response.json().await.expect("JSON"), explain }
}

fn id_of(provider: &Provider) -> ProviderId {
    provider.id().parse().expect("an id")
}

/// A provider that answers with its name, at so much.
async fn named(network: &Network, name: &str, quantization: &str, prices: (&str, &str)) -> Provider {
    let script = json!({"quantization": quantization, "rules": [{"match": "*", "reply": name, "prompt_tokens": 100}]});
    network.provider(ProviderSetup::scripted(script).ask(prices.0, prices.1)).await
}

#[tokio::test]
async fn wishes_about_providers_are_honoured_or_refused_by_name() {
    let network = Setup::new(Books::Sqlite).start().await;
    let a = named(&network, "a", "bf16", ("0.10", "0.40")).await;
    let b = named(&network, "b", "f16", ("0.20", "0.80")).await;
    let c = named(&network, "c", "int4", ("0.30", "1.20")).await;
    let client = network.client("10").await;
    let (a, b, c) = (&a.id(), &b.id(), &c.id());
    network.serves(MODEL).await;
    let all = async || ask(&client, json!({"provider": {"only": [c]}})).await.status == 200;
    wait_until("all three are known", Duration::from_secs(20), all).await;

    for (more, text) in [
        (json!({}), "a"),
        (json!({"provider": {"order": [c, b]}}), "c"),
        (json!({"provider": {"order": ["nobody", b]}}), "b"),
        (json!({"provider": {"order": [b], "allow_fallbacks": false}}), "b"),
        (json!({"provider": {"only": [b, c]}}), "b"),
        (json!({"provider": {"ignore": [a, "nobody"]}}), "b"),
        (json!({"provider": {"quantizations": ["int4", "fp8"]}}), "c"),
        (json!({"provider": {"quantizations": ["fp16"]}}), "b"),
        (json!({"provider": {"sort": "price", "ignore": [a]}}), "b"),
        (json!({"provider": {"sort": {"by": "price", "partition": "none"}}}), "a"),
        (json!({"provider": {"preferred_max_latency": 30, "preferred_min_throughput": {"p90": 0.1}}}), "a"),
        (json!({"provider": {"max_price": {"prompt": 0.2, "image": 0}, "ignore": [a]}}), "b"),
        (json!({"provider": {"data_collection": "allow", "zdr": false, "require_parameters": true}}), "a"),
        (json!({"provider": {"something_new": {"x": 1}}}), "a"),
        (json!({"model": format!("{MODEL}:floor")}), "a"),
        (json!({"model": format!("{MODEL}:floor"), "provider": {"ignore": [a]}}), "b"),
    ] {
        let told = ask(&client, more.clone()).await;
        assert_eq!(told.text(), text, "{more}");
        assert_eq!(told.body["model"], MODEL, "{more}");
    }
    assert!(["a", "b", "c"].contains(&ask(&client, json!({"model": format!("{MODEL}:nitro")})).await.text()));
    let allowed = Some("no_allowed_provider");
    for (more, refused) in [
        (json!({"only": ["nobody"]}), (404, Some("provider.only"), allowed)),
        (json!({"order": ["nobody"], "allow_fallbacks": false}), (404, Some("provider.order"), allowed)),
        (json!({"ignore": [a, b, c]}), (404, Some("provider.ignore"), allowed)),
        (json!({"only": [a], "ignore": [a]}), (404, Some("provider.ignore"), allowed)),
        (json!({"quantizations": ["fp8"]}), (404, Some("provider.quantizations"), allowed)),
        (json!({"zdr": true}), (404, Some("provider.zdr"), allowed)),
        (json!({"data_collection": "deny"}), (404, Some("provider.data_collection"), allowed)),
        (
            json!({"only": [c], "max_price": {"completion": 1}}),
            (404, Some("provider.max_price"), Some("no_provider_within_price")),
        ),
        (json!({"sort": "beauty"}), (400, Some("provider.sort"), Some("invalid_value"))),
        (json!({"order": c}), (400, Some("provider.order"), Some("invalid_type"))),
    ] {
        assert_eq!(ask(&client, json!({"provider": more})).await.error(), refused, "{more}");
    }
    let unknown = ask(&client, json!({"model": "no/such:floor"})).await;
    assert_eq!(unknown.error(), (404, Some("model"), Some("model_not_found")));

    // The chosen one's price is paid: 100 tokens in and 1 out.
    for (provider, price) in [(c, "0.0000312"), (a, "0.0000104")] {
        let payer = network.client("1").await;
        ask(&payer, json!({"provider": {"only": [provider]}})).await;
        let left = usd("1").checked_sub(usd(price)).expect("an amount");
        network.balance_becomes(&payer.account, left).await;
    }
    network.finish().await;
}

#[tokio::test]
async fn names_stand_for_providers_that_the_operator_trusts() {
    let network = Setup::new(Books::Sqlite).start().await;
    let called = async |name: &str, reply: &str, prices: (&str, &str)| {
        let script = json!([{"match": "*", "reply": reply}]);
        network.provider(ProviderSetup::scripted(script).flag("--name", name).ask(prices.0, prices.1)).await
    };
    let stranger = called("acme", "stranger", ("0.10", "0.40")).await;
    let (a, b) = (called("Acme", "a", ("0.30", "1.20")).await, called("acme", "b", ("0.20", "0.80")).await);
    let barn = called("Rice Barn", "barn", ("0.40", "1.60")).await;
    for provider in [&a, &b, &barn] {
        network.store.set_standing(&id_of(provider), Standing::Trusted).await.expect("trusted");
    }
    let client = network.client("10").await;
    let listed = async || -> Vec<(String, String)> {
        let listed: Value = client.get(&format!("/v1/models/{MODEL}/endpoints")).await.json().await.expect("JSON");
        let endpoints = listed["data"]["endpoints"].as_array().expect("endpoints").iter();
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        endpoints.map(|endpoint| (text(&endpoint["tag"]), text(&endpoint["provider_name"]))).collect()
    };
    // A stranger's name is only its word: it is listed by its id.
    let [stranger, a, b, barn] = [&stranger, &a, &b, &barn].map(Provider::id);
    let expected = [(&stranger, &*stranger), (&b, "acme"), (&a, "Acme"), (&barn, "Rice Barn")];
    let expected = expected.map(|(id, name)| (id.clone(), name.to_owned()));
    wait_until("their names are known", Duration::from_secs(10), async || listed().await == expected).await;
    for (wishes, text) in [
        (json!({"only": ["ACME"]}), "b"),
        (json!({"only": ["acme"], "ignore": [b]}), "a"),
        (json!({"order": ["rice-barn", "acme"]}), "barn"),
        (json!({"order": ["nobody", "acme"], "allow_fallbacks": false}), "b"),
        (json!({"ignore": ["acme", "rice_barn"]}), "stranger"),
        (json!({"only": [stranger]}), "stranger"),
    ] {
        assert_eq!(ask(&client, json!({"provider": wishes})).await.text(), text, "{wishes}");
    }
    let nobody = ask(&client, json!({"provider": {"only": ["acm"]}})).await.error().0;
    assert_eq!(nobody, 404);
    network.finish().await;
}

#[tokio::test]
async fn a_choice_is_explained_to_whoever_asks() {
    let network = Setup::new(Books::Sqlite).start().await;
    let dear = named(&network, "dear", "bf16", ("0.30", "1.20")).await;
    let cheap = named(&network, "cheap", "bf16", ("0.10", "0.40")).await;
    let client = network.client("10").await;
    let both = async || {
        let told = ask(&client, json!({})).await;
        told.explain.is_some_and(|json| json.contains(r#""providers":2"#))
    };
    wait_until("both are known", Duration::from_secs(20), both).await;

    let explained = async |more: Value| {
        let header = ask(&client, more).await.explain.expect("the header");
        assert!(header.len() < 2048, "{header}");
        serde_json::from_str::<Explanation>(&header).expect("an explanation")
    };
    let why = explained(json!({})).await;
    assert_eq!((&*why.model, why.attempt, why.compared, &*why.by), (MODEL, 1, 2, "balance"));
    assert_eq!((&*why.candidates[0].provider, &*why.candidates[0].from), (&*cheap.id(), "all"));
    assert!(why.candidates[0].newcomer && why.candidates[0].price_usd < why.candidates[1].price_usd);
    assert!(why.candidates[0].output_secs > 0.0 && why.candidates[0].first_token_secs > 0.0);
    let why = explained(json!({"provider": {"sort": "price", "ignore": [cheap.id()]}})).await;
    assert_eq!((why.compared, &*why.by, &*why.candidates[0].provider), (1, "price", &*dear.id()));

    let unasked = client.post(Client::body("hello", json!({})).to_string()).await;
    assert!(!unasked.headers().contains_key("x-lumbung-explain"));
    let refused = ask(&client, json!({"provider": {"only": ["nobody"]}})).await;
    assert_eq!((refused.status, refused.explain), (404, None));
    network.finish().await;
}

#[tokio::test]
async fn without_fallbacks_one_provider_is_asked() {
    let network = Setup::new(Books::Sqlite).start().await;
    let broken = json!([{"match": "*", "error": "failed"}]);
    let bad = network.provider(ProviderSetup::scripted(broken).ask("0.10", "0.40")).await;
    let good = named(&network, "good", "bf16", ("0.20", "0.80")).await;
    let client = network.client("10").await;
    let both = async || ask(&client, json!({"provider": {"only": [good.id()]}})).await.status == 200;
    wait_until("both are known", Duration::from_secs(20), both).await;
    let order = json!([bad.id()]);
    assert_eq!(ask(&client, json!({"provider": {"order": order}})).await.text(), "good");
    let refused = ask(&client, json!({"provider": {"order": order, "allow_fallbacks": false}})).await;
    assert_eq!(refused.error(), (502, None, Some("provider_failed")));
    let told = ask(&client, json!({"provider": {"order": order}})).await;
    let why: Explanation = serde_json::from_str(&told.explain.expect("the header")).expect("an explanation");
    assert_eq!((why.attempt, &*why.candidates[0].provider), (2, &*good.id()));
    network.finish().await;
}

#[tokio::test]
async fn a_model_that_cannot_serve_is_replaced_by_the_next() {
    let network = Setup::new(Books::Sqlite).with_model(OTHER, 100_000).with_model(IDLE, 100_000).start().await;
    let script = json!([
        {"match": "fail", "error": "failed"},
        {"match": "*", "reply": "first", "prompt_tokens": 100}
    ]);
    let _first = network.provider(ProviderSetup::scripted(script).ask("0.10", "0.40")).await;
    let script = json!([{"match": "*", "reply": "other", "prompt_tokens": 100}]);
    let _other = network.provider(ProviderSetup::scripted(script).model(OTHER)).await;
    let client = network.client("10").await;
    for (more, model) in [
        (json!({"models": [OTHER]}), MODEL),
        (json!({"models": ["no/such"]}), MODEL),
        (json!({"model": "no/such", "models": [OTHER, MODEL]}), OTHER),
        (json!({"model": IDLE, "models": ["no/such", MODEL]}), MODEL),
        (json!({"model": null, "models": [OTHER, MODEL]}), OTHER),
        (json!({"models": [OTHER], "provider": {"max_price": {"prompt": 0.05}}}), ""),
        (json!({"model": OTHER, "models": [MODEL], "provider": {"max_price": {"prompt": 0.1}}}), MODEL),
        (
            json!({"model": OTHER, "models": [format!("{MODEL}:floor")], "provider": {"sort": {"by": "price", "partition": "none"}}}),
            MODEL,
        ),
        (
            json!({"model": OTHER, "models": [MODEL], "provider": {"sort": {"by": "price", "partition": "model"}}}),
            OTHER,
        ),
        (json!({"models": [OTHER], "messages": [{"role": "user", "content": "fail"}]}), OTHER),
        (json!({"models": [OTHER], "messages": [{"role": "user", "content": "fail"}], "n": 2, "max_tokens": 5}), OTHER),
    ] {
        let told = ask(&client, more.clone()).await;
        match model {
            "" => assert_eq!(told.error(), (404, Some("provider.max_price"), Some("no_provider_within_price"))),
            _ => assert_eq!((told.status, &told.body["model"]), (200, &json!(model)), "{more}"),
        }
    }
    let unknown = ask(&client, json!({"model": "no/such", "models": ["nor/this"]})).await;
    assert_eq!(unknown.error(), (404, Some("model"), Some("model_not_found")));
    let wrong = ask(&client, json!({"models": [7]})).await;
    assert_eq!(wrong.error(), (400, Some("models[0]"), Some("invalid_type")));

    // Streamed: every chunk, the tail's included, names the model that answers, and that model's price is paid.
    let payer = network.client("1").await;
    let streamed = payer.stream("fail", json!({"models": [OTHER]})).await;
    assert_eq!((&*streamed.text, streamed.done, &streamed.error), ("other", true, &None));
    assert_eq!(streamed.models, [OTHER]);
    let left = usd("1").checked_sub(usd("0.000052")).expect("an amount");
    network.balance_becomes(&payer.account, left).await;
    let receipt = payer.receipt(&streamed.id).await;
    assert!(receipt.to_string().contains(OTHER));

    // An account that could pay for the cheap one alone gets the cheap one.
    let hold = |prices: (&str, &str)| {
        let price = lumbung_openapi::money::TokenPrice { prompt: usd(prices.0), completion: usd(prices.1) };
        price.cost(600, 5).expect("an amount").to_string()
    };
    let poor = network.client(&hold(("0.10", "0.40"))).await;
    let cap = json!({"max_price": {"prompt": 0.1, "completion": 0.4}});
    let told = ask(&poor, json!({"max_tokens": 5, "models": [OTHER], "provider": cap})).await;
    assert_eq!((told.status, &told.body["model"]), (200, &json!(MODEL)));
    network.finish().await;
}

#[tokio::test]
async fn nobody_waits_in_line_for_a_model_while_another_will_do() {
    let network = Setup::new(Books::Sqlite).with_model(OTHER, 100_000).start().await;
    let slow = json!([{"match": "*", "tokens": 40, "delay_ms_per_token": 100}]);
    let _busy = network.provider(ProviderSetup::scripted(slow).slots(1)).await;
    let quick = json!([{"match": "*", "reply": "other"}]);
    let _other = network.provider(ProviderSetup::scripted(quick).model(OTHER)).await;
    let client = network.client("10").await;
    let running = client.open("hello", json!({})).await;
    let begun = Instant::now();
    let told = ask(&client, json!({"models": [OTHER]})).await;
    assert_eq!((told.text(), &told.body["model"]), ("other", &json!(OTHER)));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    drop(running);
    network.finish().await;
}
