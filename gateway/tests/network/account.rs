//! The account's own API: its credit, its usage, its answers, its keys.

use std::time::Duration;

use lumbung_gateway::store::NewKey;
use lumbung_openapi::money::TokenPrice;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::process::wait_until;
use crate::support::{ASK, Books, Setup, usd};

async fn call(client: &Client, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
    let request = client.http.request(method, format!("{}{path}", client.base)).bearer_auth(&client.key);
    let request = match body {
        Some(body) => request.header("content-type", "application/json").body(body.to_string()),
        None => request,
    };
    let response = request.send().await.expect("the gateway answers");
    (response.status().as_u16(), response.json().await.expect("JSON"))
}

async fn get(client: &Client, path: &str) -> (u16, Value) {
    call(client, Method::GET, path, None).await
}

async fn an_account_sees_what_it_has_and_did(books: Books) {
    let network = Setup::new(books).start().await;
    let provider = network.scripted(json!([{"match": "*", "tokens": 5, "prompt_tokens": 11}])).await;
    let client = network.client("2.5").await;
    let response = client.post(Client::body("x", json!({})).to_string()).await;
    let id = response.headers()["x-generation-id"].to_str().expect("text").to_owned();
    assert_eq!(response.json::<Value>().await.expect("JSON")["id"], id);
    let cost = TokenPrice { prompt: usd(ASK.0), completion: usd(ASK.1) }.cost(11, 5).expect("a cost");

    let (status, answer) = get(&client, &format!("/v1/generation?id={id}")).await;
    assert_eq!(status, 200, "{answer}");
    let data = &answer["data"];
    assert_eq!((&data["tokens_prompt"], &data["native_tokens_completion"]), (&json!(11), &json!(5)));
    assert_eq!(
        (&data["streamed"], &data["cancelled"], &data["finish_reason"]),
        (&json!(false), &json!(false), &json!("stop"))
    );
    assert_eq!(data["total_cost"].to_string().parse::<f64>().ok(), cost.to_string().parse::<f64>().ok());
    assert_eq!(data["native_finish_reason"], "stop");
    assert!(data["latency"].is_i64() && data["generation_time"].is_i64(), "{data}");
    assert!(data["provider_name"].as_str().is_some_and(|name| name.len() == 43));
    let stranger = network.client("1").await;
    assert_eq!(get(&stranger, &format!("/v1/generation?id={id}")).await.0, 404);
    assert_eq!(get(&client, "/v1/generation").await.1["error"]["param"], "id");

    let credits = client.get("/v1/credits").await.text().await.expect("a body");
    assert_eq!(credits, format!(r#"{{"data":{{"total_credits":2.5,"total_usage":{cost}}}}}"#), "printed exactly");
    let left = usd("2.5").checked_sub(cost).expect("enough").to_string();
    assert_eq!(get(&client, "/v1/balance").await.1["spendable_usd"], left);
    let (_, key) = get(&client, "/v1/key").await;
    assert_eq!((&key["data"]["limit"], &key["data"]["is_free_tier"]), (&Value::Null, &json!(false)));
    assert_eq!(key["data"]["usage"], key["data"]["usage_daily"]);
    let (_, usage) = get(&client, "/v1/usage?group_by=day,model,key").await;
    assert_eq!((&usage["data"][0]["requests"], &usage["data"][0]["charge_usd"]), (&json!(1), &json!(cost.to_string())));
    for (query, param) in [
        ("group_by=year", "group_by"),
        ("group_by=day,,model", "group_by"),
        ("group_by=", "group_by"),
        ("from=x", "from"),
        ("limit=0", "limit"),
        ("x=1", "x"),
        ("after=!", "after"),
    ] {
        let (status, refused) = get(&client, &format!("/v1/usage?{query}")).await;
        assert_eq!((status, &refused["error"]["param"]), (400, &json!(param)), "{query}");
    }
    provider.receipts_acknowledged().await;
    network.finish().await;
}

#[tokio::test]
async fn an_account_sees_what_it_has_and_did_on_sqlite() {
    an_account_sees_what_it_has_and_did(Books::Sqlite).await;
}

#[tokio::test]
async fn an_account_sees_what_it_has_and_did_on_postgres() {
    an_account_sees_what_it_has_and_did(Books::Postgres).await;
}

#[tokio::test]
async fn an_answer_is_told_with_its_times_and_how_it_ended() {
    let network = Setup::new(Books::Sqlite).start().await;
    let script = json!([{"match": "*", "tokens": 40, "delay_ms_first": 300, "delay_ms_per_token": 20}]);
    let _provider = network.scripted(script).await;
    let client = network.client("1").await;
    let generation = async |id: &str| get(&client, &format!("/v1/generation?id={id}")).await.1["data"].clone();
    let whole = client.stream("x", json!({"max_tokens": 10})).await;
    let data = generation(&whole.id).await;
    let (latency, time) = (data["latency"].as_i64().expect("ms"), data["generation_time"].as_i64().expect("ms"));
    assert!((300..5000).contains(&latency) && time >= latency + 100, "{data}");
    let told = |data: &Value| (data["finish_reason"].clone(), data["native_finish_reason"].clone());
    assert_eq!(told(&data), (json!("length"), json!("length")));
    assert_eq!((&data["streamed"], &data["cancelled"]), (&json!(true), &json!(false)));

    let left = client.open("x", json!({})).await;
    let id = left.headers()["x-generation-id"].to_str().expect("text").to_owned();
    tokio::time::sleep(Duration::from_millis(500)).await;
    drop(left);
    wait_until("it is settled", Duration::from_secs(5), async || !generation(&id).await.is_null()).await;
    let data = generation(&id).await;
    assert_eq!((&data["cancelled"], told(&data)), (&json!(true), (Value::Null, json!("client_gone"))));
    assert!(data["latency"].as_i64().is_some_and(|ms| ms >= 300), "{data}");
    network.finish().await;
}

#[tokio::test]
async fn keys_are_managed_with_a_management_key() {
    let network = Setup::new(Books::Sqlite).start().await;
    let _provider = network.scripted(json!([{"match": "*", "reply": "ok"}])).await;
    let ordinary = network.client("1").await;
    let new = NewKey { label: "manager".into(), management: true, ..NewKey::default() };
    let (_, secret) = network.store.create_key_with(&ordinary.account, &new).await.expect("a key");
    let manager = Client::new(ordinary.base.clone(), secret, ordinary.account);
    assert_eq!(get(&ordinary, "/v1/keys").await.0, 403);
    assert_eq!(manager.post(Client::body("x", json!({})).to_string()).await.status(), 403);

    let body = json!({"name": "ci", "limit": 0.5, "limit_reset": "weekly", "limits": {"requests_per_minute": 100}});
    let (status, made) = call(&manager, Method::POST, "/v1/keys", Some(body)).await;
    assert_eq!(status, 201, "{made}");
    assert_eq!((&made["data"]["limit"], &made["data"]["limit_reset"]), (&json!(0.5), &json!("weekly")));
    assert_eq!(made["data"]["is_management_key"], false);
    let made_key =
        Client::new(ordinary.base.clone(), made["key"].as_str().expect("shown once").to_owned(), ordinary.account);
    let response = made_key.post(Client::body("x", json!({"max_tokens": 5})).to_string()).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["x-ratelimit-limit-requests"]),
        (200, &"100".parse().expect("text"))
    );
    let hash = made["data"]["hash"].as_str().expect("a hash").to_owned();
    let path = format!("/v1/keys/{hash}");

    let (status, refused) = call(&manager, Method::PATCH, &path, Some(json!({"management": true}))).await;
    assert_eq!((status, &refused["error"]["param"]), (400, &json!("management")), "no higher rights");
    let becomes = async |status: u16| {
        wait_until(&format!("the key answers {status}"), Duration::from_secs(1), async || {
            made_key.post(Client::body("x", json!({"max_tokens": 5})).to_string()).await.status() == status
        })
        .await;
    };
    let (status, changed) = call(&manager, Method::PATCH, &path, Some(json!({"disabled": true, "limit": null}))).await;
    assert_eq!((status, &changed["data"]["disabled"], &changed["data"]["limit"]), (200, &json!(true), &Value::Null));
    becomes(401).await;
    call(&manager, Method::PATCH, &path, Some(json!({"disabled": false}))).await;
    becomes(200).await;
    let (_, list) = get(&manager, "/v1/keys?limit=2").await;
    assert_eq!((list["data"].as_array().map(Vec::len), &list["has_more"]), (Some(2), &json!(true)));
    let stranger = network.client("1").await;
    let (_, other) = network.store.create_key_with(&stranger.account, &new).await.expect("a key");
    let stranger = Client::new(ordinary.base.clone(), other, stranger.account);
    assert_eq!(get(&stranger, &path).await.0, 404, "another account's");
    assert_eq!(call(&stranger, Method::DELETE, &path, None).await.0, 404);
    assert_eq!(call(&manager, Method::DELETE, &path, None).await, (200, json!({"deleted": true})));
    becomes(401).await;
    assert_eq!(get(&manager, &path).await.0, 404);
    network.finish().await;
}
