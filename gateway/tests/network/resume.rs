//! A provider dies or freezes in the middle of an answer, and the client does not notice: another goes on, token for token.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lumbung_gateway::domain::ids::AccountId;
use lumbung_gateway::domain::posting::LedgerId;
use lumbung_openapi::money::{NanoUsd, TokenPrice};
use lumbung_openapi::receipt::{JobReceipt, SettlementRecord};
use lumbung_openapi::reply::Usage;
use serde_json::{Value, json};

use crate::recount::{import, questions};
use crate::support::client::{Client, Streamed, read};
use crate::support::process::wait_until;
use crate::support::provider::{Provider, ProviderSetup};
use crate::support::{Books, MODEL, Network, Setup, usd};

const BUNDLED: &str = "lumbung/padi";
/// What a provider asks that is to be chosen first.
const LESS: (&str, &str) = ("0.01", "0.02");
const STALL: Duration = Duration::from_secs(2);

/// Where 64 tokens are cut.
fn cuts() -> Vec<u32> {
    match std::env::var_os("LUMBUNG_TEST_FULL") {
        Some(_) => (0..64).collect(),
        None => vec![0, 1, 2, 3, 8, 16, 24, 32, 40, 48, 56, 62, 63],
    }
}

/// An answer as the client got it.
#[derive(Debug, PartialEq)]
struct Heard {
    /// Every choice's text, tool calls and reason to end.
    choices: Value,
    /// Without the cost: providers' asks differ.
    usage: Usage,
}

impl Heard {
    fn new(choices: Value, usage: Usage) -> Self {
        assert!(usage.cost.is_some(), "{usage:?}");
        Self { choices, usage: Usage { cost: None, ..usage } }
    }
}

async fn ask(client: &Client, stream: bool, question: &str, more: &Value) -> (String, Heard) {
    match stream {
        true => {
            let streamed = client.stream(question, more.clone()).await;
            assert!(streamed.done && streamed.error.is_none(), "{streamed:?}");
            (streamed.id.clone(), Heard::new(without_ids(streamed.choices()), streamed.usage.expect("usage")))
        }
        false => {
            let response = client.post(Client::body(question, more.clone()).to_string()).await;
            let (status, text) = (response.status(), response.text().await.expect("a body"));
            assert_eq!(status, 200, "{text}");
            let mut answer: Value = serde_json::from_str(&text).expect("JSON");
            let usage = serde_json::from_value(answer["usage"].take()).expect("usage");
            (answer["id"].as_str().expect("an id").to_owned(), Heard::new(without_ids(answer["choices"].take()), usage))
        }
    }
}

/// Ids of tool calls follow from the job, so two requests never have the same.
fn without_ids(mut value: Value) -> Value {
    match &mut value {
        Value::Array(items) => items.iter_mut().for_each(|item| *item = without_ids(item.take())),
        Value::Object(members) => {
            for (name, member) in members.iter_mut() {
                let is_id = name == "id" && member.as_str().is_some_and(|id| id.starts_with("call_"));
                *member = if is_id { "call".into() } else { without_ids(member.take()) };
            }
        }
        _ => {}
    }
    value
}

/// A gateway, a provider of the bundled model that stays, and a client.
async fn network() -> (Network, Provider, Client) {
    let network = Setup::new(Books::Sqlite)
        .with_model(BUNDLED, 2048)
        .with_gateway_flag("--stall-timeout", &format!("{}s", STALL.as_secs()))
        .with_gateway_flag("--first-token-timeout", "20s")
        .start()
        .await;
    let stays = network.provider(ProviderSetup::bundled(BUNDLED)).await;
    let client = network.client("10").await;
    (network, stays, client)
}

/// A further provider, once the gateway has its offer.
async fn join(network: &Network, setup: ProviderSetup) -> Provider {
    let provider = network.provider(setup).await;
    let id = provider.status()["provider"].as_str().expect("an id").to_owned();
    wait_until("its offer is known", Duration::from_secs(10), async || {
        network.gateway.log().lines().any(|line| line.contains("offer") && line.contains(&id))
    })
    .await;
    provider
}

/// The attempts of a job by the gateway's own records, once they are settled.
async fn records(client: &Client, id: &str) -> (JobReceipt, Vec<SettlementRecord>) {
    let receipt: JobReceipt = serde_json::from_value(client.receipt(id).await).expect("a receipt");
    let records = receipt.attempts.iter().map(|attempt| serde_json::from_str(&attempt.record).expect("a record"));
    let records = records.collect();
    (receipt, records)
}

/// One charge: the prompt once, every token once, each at the ask of whoever made it.
async fn is_charged_once(client: &Client, id: &str, usage: Usage, cut: u32) -> NanoUsd {
    let (receipt, records) = records(client, id).await;
    assert_eq!((receipt.prompt_tokens, receipt.completion_tokens), (usage.prompt_tokens, usage.completion_tokens));
    let [dead, .., last] = records.as_slice() else { panic!("two attempts at least: {records:?}") };
    let price = |(prompt, completion)| TokenPrice { prompt: usd(prompt), completion: usd(completion) };
    let (less, ask) = (price(LESS), price(crate::support::ASK));
    assert!(dead.completion_tokens <= cut, "{dead:?}");
    assert_eq!(Some(dead.charge), less.cost(dead.prompt_tokens, dead.completion_tokens));
    assert_eq!(Some(last.charge), ask.cost(last.prompt_tokens, last.completion_tokens));
    match dead.completion_tokens {
        0 => assert_eq!((dead.charge, last.prompt_tokens), (NanoUsd::ZERO, usage.prompt_tokens)),
        _ => assert_eq!((dead.prompt_tokens, last.prompt_tokens), (usage.prompt_tokens, 0)),
    }
    let sum = records.iter().try_fold(NanoUsd::ZERO, |sum, record| sum.checked_add(record.charge));
    assert_eq!(sum, Some(receipt.charge));
    receipt.charge
}

/// What was paid went to the providers and to the operator, and nowhere else.
async fn payouts_and_fee_sum_to(network: &Network, account: &AccountId, charged: NanoUsd) {
    network.balance_becomes(account, usd("10").checked_sub(charged).expect("enough")).await;
    let mut sum = network.store.balance(&LedgerId::revenue()).await.expect("a balance");
    for provider in network.store.providers().await.expect("providers") {
        let earned = network.store.earnings(&provider.id).await.expect("earnings");
        sum = sum.checked_add(earned.pending).expect("a small sum");
    }
    assert_eq!(sum, charged);
    network.check_books().await;
}

/// Asks once undisturbed, and then with a provider that dies after each of these tokens.
async fn dies_everywhere(question: &str, more: Value, tokens: impl Fn(u32) -> Vec<u32>) {
    let (network, _stays, client) = network().await;
    let mut charged = NanoUsd::ZERO;
    let mut more = more;
    more["model"] = BUNDLED.into();
    for stream in [true, false] {
        let (id, undisturbed) = ask(&client, stream, question, &more).await;
        charged = charged.checked_add(records(&client, &id).await.0.charge).expect("a small sum");
        let mut delivered_by_the_dead = 0;
        for cut in tokens(undisturbed.usage.completion_tokens) {
            let setup = ProviderSetup::bundled(BUNDLED).ask(LESS.0, LESS.1);
            let mut dying = join(&network, setup.flag("--test-die-after-tokens", &cut.to_string())).await;
            let (id, heard) = ask(&client, stream, question, &more).await;
            assert!(dying.process.has_failed(), "it died: {}", dying.process.log());
            assert_eq!(heard, undisturbed, "cut after token {cut}, stream: {stream}");
            charged = charged.checked_add(is_charged_once(&client, &id, heard.usage, cut).await).expect("a small sum");
            delivered_by_the_dead += records(&client, &id).await.1[0].completion_tokens;
        }
        assert!(delivered_by_the_dead > 0, "some of it came from those that died");
    }
    payouts_and_fee_sum_to(&network, &client.account, charged).await;
    network.finish().await;
}

/// Keeps the bundled model from ending by itself.
fn endless() -> Value {
    json!({"0": -100, "2": -100})
}

#[tokio::test]
async fn a_provider_that_dies_in_a_greedy_answer_is_not_noticed() {
    let more = json!({"temperature": 0, "max_tokens": 64, "logit_bias": endless()});
    dies_everywhere("Tell me about rice.", more, |tokens| {
        assert_eq!(tokens, 64);
        cuts()
    })
    .await;
}

#[tokio::test]
async fn nor_in_one_drawn_at_random() {
    let more = json!({"temperature": 1, "seed": 11, "max_tokens": 64, "logit_bias": endless()});
    dies_everywhere("Tell me about rice.", more, |_| cuts()).await;
}

#[tokio::test]
async fn nor_within_a_character_of_several_tokens() {
    // Tokens of single bytes that begin characters and go on with them: é, 漢 and broken ones.
    let bytes = json!({"130": 100, "105": 100, "165": 100, "123": 100, "98": 100});
    let more = json!({"temperature": 2, "seed": 1, "max_tokens": 64, "logit_bias": bytes});
    dies_everywhere("Say it.", more, |_| cuts()).await;
}

#[tokio::test]
async fn nor_where_a_stop_sequence_is_near() {
    let (network, _stays, client) = network().await;
    let mut more = json!({"model": BUNDLED, "temperature": 0, "max_tokens": 64, "logit_bias": endless()});
    let text = client.ask("Tell me about rice.", more.clone()).await.choices[0].message.content.clone().expect("text");
    network.finish().await;
    let from = text.char_indices().nth(text.chars().count() * 3 / 4).expect("a long text").0;
    let stop: String = text[from..].chars().take(12).collect();
    more["stop"] = json!([stop, "no such text"]);
    dies_everywhere("Tell me about rice.", more, |tokens| {
        assert!(tokens < 64, "it stops");
        let near = tokens.saturating_sub(4)..tokens;
        cuts().into_iter().filter(|cut| *cut < tokens).chain(near).collect()
    })
    .await;
}

#[tokio::test]
async fn a_provider_that_freezes_is_replaced_within_twice_the_stall_timeout() {
    let (network, _stays, client) = network().await;
    let more = json!({"model": BUNDLED, "temperature": 0, "max_tokens": 64, "logit_bias": endless()});
    let (_, undisturbed) = ask(&client, true, "Tell me about rice.", &more).await;
    for (cut, stream) in [(1, true), (20, true), (63, true), (20, false)] {
        let setup = ProviderSetup::bundled(BUNDLED).ask(LESS.0, LESS.1);
        let mut frozen = join(&network, setup.flag("--test-freeze-after-tokens", &cut.to_string())).await;
        let started = Instant::now();
        let (id, heard) = match stream {
            true => {
                let (streamed, longest) = read_timed(client.open("Tell me about rice.", more.clone()).await).await;
                assert!(longest >= STALL / 2 && longest < 2 * STALL, "a pause of {longest:?}");
                assert!(streamed.done && streamed.error.is_none());
                (streamed.id.clone(), Heard::new(streamed.choices(), streamed.usage.expect("usage")))
            }
            false => ask(&client, false, "Tell me about rice.", &more).await,
        };
        assert!(frozen.process.is_stopped(), "cut after {cut}, stream: {stream}: {}", frozen.process.log());
        assert!(started.elapsed() < 2 * STALL + Duration::from_secs(2), "{:?}", started.elapsed());
        assert_eq!(heard.usage, undisturbed.usage);
        let text = if stream { &heard.choices[0]["text"] } else { &heard.choices[0]["message"]["content"] };
        assert_eq!(text, &undisturbed.choices[0]["text"], "cut after {cut}");
        is_charged_once(&client, &id, heard.usage, cut).await;
        // It wakes, finds its answer cancelled, and is paid for what it did.
        frozen.process.signal("CONT");
        frozen.receipts_acknowledged().await;
        let keys = reqwest::get(format!("{}/.well-known/jwks.json", network.base)).await.expect("keys");
        let keys = serde_json::from_str(&keys.text().await.expect("text")).expect("a key set");
        wait_until("everyone has signed", Duration::from_secs(20), async || {
            records(&client, &id).await.0.verify(&keys) == Ok(())
        })
        .await;
        frozen.process.kill();
        network.check_books().await;
    }
    network.finish().await;
}

/// Reads a stream, and how long its longest pause was.
async fn read_timed(response: reqwest::Response) -> (Streamed, Duration) {
    let (mut streamed, mut longest, mut heard_at) = (Streamed::default(), Duration::ZERO, Instant::now());
    let (mut bytes, mut rest) = (response.bytes_stream(), String::new());
    while let Some(chunk) = bytes.next().await {
        longest = longest.max(heard_at.elapsed());
        heard_at = Instant::now();
        rest.push_str(std::str::from_utf8(&chunk.expect("a stream that is not cut")).expect("whole events"));
        while let Some(end) = rest.find("\n\n") {
            let event: String = rest.drain(..end + 2).collect();
            streamed.take(&event);
        }
    }
    (streamed, longest)
}

/// A script of so many tokens; `more` says of the model and of the rule what else there is.
fn script(model: Value, rule: Value) -> Value {
    let mut all = json!({"weights_digest": "sha256:a", "quantization": "f32", "context_length": 4096});
    all.as_object_mut().expect("an object").extend(model.as_object().expect("an object").clone());
    let mut only = json!({"match": "*", "tokens": 60, "prompt_tokens": 7, "delay_ms_per_token": 2});
    only.as_object_mut().expect("an object").extend(rule.as_object().expect("an object").clone());
    all["rules"] = json!([only]);
    all
}

#[tokio::test]
async fn an_answer_survives_as_many_deaths_as_there_are_others() {
    let network = Setup::new(Books::Sqlite).start().await;
    let asks = ["0.01", "0.02", "0.03", "0.04"];
    let mut dying = Vec::new();
    for (ask, after) in asks.iter().zip([10, 20, 20, 45]) {
        let setup = ProviderSetup::scripted(script(json!({}), json!({"die_after": after})));
        dying.push(join(&network, setup.ask(ask, ask)).await);
    }
    let _stays = join(&network, ProviderSetup::scripted(script(json!({}), json!({})))).await;
    let client = network.client("1").await;
    let streamed = client.stream("x", json!({"n": 2})).await;
    assert!(streamed.done && streamed.error.is_none(), "{streamed:?}");
    let text = " padi".repeat(60);
    assert_eq!(streamed.choices(), json!([{"text": text, "reason": "stop"}, {"text": text, "reason": "stop"}]));
    let usage = streamed.usage.expect("usage");
    assert_eq!((usage.prompt_tokens, usage.completion_tokens), (7, 120));
    let (receipt, records) = records(&client, &streamed.id).await;
    assert_eq!(records.len(), 5);
    assert_eq!(records.iter().map(|record| record.prompt_tokens).sum::<u32>(), 7, "the prompt once");
    assert_eq!(records.iter().map(|record| record.completion_tokens).sum::<u32>(), 120);
    network.balance_becomes(&client.account, usd("1").checked_sub(receipt.charge).expect("enough")).await;
    network.finish().await;
}

#[tokio::test]
async fn who_has_other_weights_is_not_asked_to_go_on() {
    let network = Setup::new(Books::Sqlite).start().await;
    let others = [
        json!({"weights_digest": "sha256:b"}),
        json!({"weights_digest": ""}),
        json!({"quantization": "int4"}),
        json!({"context_length": 4000}),
    ];
    let mut providers = Vec::new();
    for model in others {
        providers.push(join(&network, ProviderSetup::scripted(script(model, json!({})))).await);
    }
    let setup = ProviderSetup::scripted(script(json!({}), json!({"die_after": 30}))).ask(LESS.0, LESS.1);
    let mut dying = join(&network, setup).await;
    let client = network.client("1").await;
    let streamed = read(client.open("x", json!({})).await).await;
    assert_eq!(streamed.error.expect("the client is told")["code"], "provider_failed");
    assert!(streamed.done);
    let delivered = streamed.text.split_whitespace().count() as u32;
    assert!((1..=30).contains(&delivered));
    let price = TokenPrice { prompt: usd(LESS.0), completion: usd(LESS.1) };
    let charge = price.cost(7, delivered).expect("a small cost");
    network.balance_becomes(&client.account, usd("1").checked_sub(charge).expect("enough")).await;

    // What is not streamed has not begun for the client: anyone may answer it anew, and the first attempt costs nothing.
    dying.restart();
    dying.connected().await;
    tokio::time::sleep(Duration::from_millis(500)).await; // its offer is asked for at once
    let left = network.balance(&client.account).await;
    let answer = client.ask("x", json!({})).await;
    assert_eq!(answer.usage.map(|usage| usage.completion_tokens), Some(60));
    let (receipt, records) = records(&client, &answer.id).await;
    let costs = records.iter().filter(|record| record.charge > NanoUsd::ZERO).count();
    assert_eq!(costs, 1, "{records:?}");
    network.balance_becomes(&client.account, left.checked_sub(receipt.charge).expect("enough")).await;
    assert_eq!(MODEL, receipt.model);
    network.finish().await;
}

#[tokio::test]
async fn who_falls_silent_is_left_alone_until_a_probe_succeeds() {
    let network = Setup::new(Books::Sqlite)
        .with_gateway_flag("--stall-timeout", "1s")
        .with_gateway_flag("--first-token-timeout", "2s")
        .with_gateway_flag("--first-token-floor", "1s")
        .start()
        .await;
    let cheap = ProviderSetup::scripted(script(json!({}), json!({"tokens": 20}))).ask(LESS.0, LESS.1);
    let cheap = join(&network, cheap).await;
    let _other = join(&network, ProviderSetup::scripted(script(json!({}), json!({"tokens": 20})))).await;
    let client = network.client("1").await;
    let price = TokenPrice { prompt: usd(LESS.0), completion: usd(LESS.1) };
    let is_cheap = async || {
        let answer = client.ask("x", json!({})).await;
        Some(records(&client, &answer.id).await.0.charge) == price.cost(7, 20)
    };
    assert!(is_cheap().await);
    cheap.process.signal("STOP");
    // Each request that meets it waits a second, until it has failed often enough.
    let mut waited = 0;
    for _ in 0..10 {
        let started = Instant::now();
        assert!(!is_cheap().await);
        waited += u32::from(started.elapsed() > Duration::from_millis(900));
    }
    assert!((1..=3).contains(&waited), "{waited} requests waited for it");
    cheap.process.signal("CONT");
    wait_until("it is tried again", Duration::from_secs(30), async || is_cheap().await).await;
    assert!(network.gateway.log().contains("left alone for a while") && network.gateway.log().contains("works again"));
    for _ in 0..5 {
        assert!(is_cheap().await, "it works like any other");
    }
    network.finish().await;
}

#[tokio::test]
async fn retries_do_not_become_a_storm() {
    let network = Setup::new(Books::Sqlite).start().await;
    let mut failing = Vec::new();
    for _ in 0..4 {
        failing.push(join(&network, ProviderSetup::scripted(script(json!({}), json!({"error": "failed"})))).await);
    }
    let client = std::sync::Arc::new(network.client("10").await);
    const REQUESTS: u64 = 600;
    let started = Instant::now();
    let asking: Vec<_> = (0..REQUESTS)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.post(Client::body("x", json!({})).to_string()).await.status().as_u16() })
        })
        .collect();
    for status in asking {
        assert_eq!(status.await.expect("no panic"), 502);
    }
    let seconds = started.elapsed().as_secs() + 2;
    let refused = async || {
        let jobs = failing.iter().map(|provider| provider.status()["jobs"]["refused"].as_u64().unwrap_or(0));
        jobs.sum::<u64>()
    };
    wait_until("every provider has written its status", Duration::from_secs(10), async || refused().await >= REQUESTS)
        .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (tries, most) = (refused().await, REQUESTS + REQUESTS / 5 + 25 * seconds);
    println!("{REQUESTS} requests, {tries} tries, at most {most}");
    assert!(tries <= most, "{tries} tries, at most {most}");
    network.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_stream_that_a_machine_had_goes_on_when_it_dies() {
    const STREAMS: usize = 90; // of a fresh gateway, whose budget for retries is 43 in that second
    let network = Setup::new(Books::Sqlite).start().await;
    let steady = || script(json!({}), json!({"tokens": 80, "delay_ms_per_token": 50}));
    let mut dying = join(&network, ProviderSetup::scripted(steady()).slots(STREAMS as u32)).await;
    let _stays = join(&network, ProviderSetup::scripted(steady()).slots(STREAMS as u32)).await;
    let client = std::sync::Arc::new(network.client("10").await);
    let first = json!({"provider": {"order": [dying.id()]}});
    let asking: Vec<_> = (0..STREAMS)
        .map(|_| (client.clone(), first.clone()))
        .map(|(client, first)| tokio::spawn(async move { client.stream("x", first).await }))
        .collect();
    tokio::time::sleep(Duration::from_secs(2)).await; // of the four that they take
    dying.process.kill();
    let mut texts = std::collections::BTreeSet::new();
    for stream in asking {
        let stream = stream.await.expect("no panic");
        assert!(stream.done && stream.error.is_none(), "{stream:?}");
        texts.insert(stream.text);
    }
    assert_eq!(texts.len(), 1, "the same answer for everyone");
    let cut = network.gateway.log().lines().filter(|line| line.contains("provider failed")).count();
    assert!(cut > 60, "{cut} were cut");
    network.finish().await;
}

#[tokio::test]
async fn text_that_two_made_is_counted_again_as_one() {
    let (network, _stays, client) = network().await;
    import(&network, BUNDLED).await;
    let (question, _) = questions().remove(3);
    let more = json!({"model": BUNDLED, "temperature": 0});
    for (stream, cuts) in [(true, vec![1, 4, 7, 9]), (false, vec![5])] {
        let (_, undisturbed) = ask(&client, stream, &question, &more).await;
        assert!(undisturbed.usage.completion_tokens > 10);
        for cut in cuts {
            let setup = ProviderSetup::bundled(BUNDLED).ask(LESS.0, LESS.1);
            let _dying = join(&network, setup.flag("--test-die-after-tokens", &cut.to_string())).await;
            let (id, heard) = ask(&client, stream, &question, &more).await;
            assert_eq!(heard, undisturbed, "cut after token {cut}");
            is_charged_once(&client, &id, heard.usage, cut).await;
            let (receipt, records) = records(&client, &id).await;
            for (attempt, record) in receipt.attempts.iter().zip(&records) {
                let recount = attempt.recount.as_ref().expect("newcomers' are counted again");
                assert!(!recount.is_lower(), "{recount:?}");
                assert_eq!(recount.claimed_completion_tokens, record.completion_tokens);
            }
            assert_eq!(receipt.attempts.last().and_then(|last| last.recount.as_ref()?.prompt_tokens), None);
        }
    }
    network.finish().await;
}

fn cost(ask: (&str, &str), prompt: u32, completion: u32) -> NanoUsd {
    let price = TokenPrice { prompt: usd(ask.0), completion: usd(ask.1) };
    price.cost(prompt, completion).expect("a small cost")
}

#[tokio::test]
async fn a_gateway_that_dies_while_another_goes_on_leaves_both_their_part() {
    const FROZEN_AT: u32 = 150;
    /// Tokens that may pass unvouched, and that may be under way when the gateway is killed.
    const UNVOUCHED: u32 = 64 + 32;
    let mut network = Setup::new(Books::Sqlite).with_gateway_flag("--stall-timeout", "1s").start().await;
    let rule = |more: Value| {
        let mut rule = json!({"tokens": 4000, "delay_ms_per_token": 5});
        rule.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        script(json!({"context_length": 100_000}), rule)
    };
    let freezes = ProviderSetup::scripted(rule(json!({"freeze_after": FROZEN_AT}))).ask(LESS.0, LESS.1);
    let freezes = join(&network, freezes).await;
    let goes_on = join(&network, ProviderSetup::scripted(rule(json!({})))).await;
    let client = network.client("1").await;

    let mut bytes = client.open("x", json!({"max_tokens": 2000})).await.bytes_stream();
    let (mut streamed, mut rest) = (Streamed::default(), String::new());
    while streamed.events < 450 {
        rest.push_str(std::str::from_utf8(&bytes.next().await.expect("more").expect("bytes")).expect("text"));
        while let Some(end) = rest.find("\n\n") {
            let event: String = rest.drain(..end + 2).collect();
            streamed.take(&event);
        }
    }
    network.kill_gateway();
    let seen = streamed.text.split_whitespace().count() as u32;
    assert!(seen > FROZEN_AT + 200, "{seen} tokens");

    network.restart_gateway().await;
    network.serves(MODEL).await;
    freezes.receipts_acknowledged().await;
    goes_on.receipts_acknowledged().await;
    let left = network.balance(&client.account).await;
    let charged = usd("1").checked_sub(left).expect("no more than there was");
    let least =
        cost(LESS, 7, FROZEN_AT - UNVOUCHED).checked_add(cost(crate::support::ASK, 0, seen - FROZEN_AT - UNVOUCHED));
    let most = cost(LESS, 7, FROZEN_AT).checked_add(cost(crate::support::ASK, 0, seen - FROZEN_AT + UNVOUCHED));
    assert!((least..=most).contains(&Some(charged)), "{charged}: {least:?} to {most:?} for {seen} tokens");
    let (_, records) = records(&client, &streamed.id).await;
    let parts: Vec<_> = records.iter().map(|record| (record.prompt_tokens, record.completion_tokens > 0)).collect();
    assert_eq!(parts, [(7, true), (0, true)], "the prompt once");
    network.finish().await;
}

#[tokio::test]
async fn a_continuation_is_topped_up_and_ends_where_the_credit_does() {
    let network = Setup::new(Books::Sqlite).with_gateway_flag("--default-hold-tokens", "16").start().await;
    let rule = |more: Value| {
        let mut rule = json!({"tokens": 400, "delay_ms_per_token": 1});
        rule.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        script(json!({}), rule)
    };
    let dies = ProviderSetup::scripted(rule(json!({"die_after": 30}))).ask(LESS.0, LESS.1);
    let mut dies = join(&network, dies).await;
    let _goes_on = join(&network, ProviderSetup::scripted(rule(json!({})))).await;
    let rich = network.client("1").await;
    let streamed = rich.stream("x", json!({})).await;
    assert!(streamed.done && streamed.error.is_none(), "{streamed:?}");
    assert_eq!(streamed.usage.map(|usage| (usage.prompt_tokens, usage.completion_tokens)), Some((7, 400)));
    let (receipt, parts) = records(&rich, &streamed.id).await;
    let charge = cost(LESS, 7, parts[0].completion_tokens).checked_add(cost(
        crate::support::ASK,
        0,
        400 - parts[0].completion_tokens,
    ));
    assert_eq!(Some(receipt.charge), charge);
    network.balance_becomes(&rich.account, usd("1").checked_sub(receipt.charge).expect("enough")).await;

    dies.restart();
    dies.connected().await;
    tokio::time::sleep(Duration::from_millis(500)).await; // its offer is asked for at once
    let poor = network.client("0.0005").await;
    let streamed = poor.stream("x", json!({})).await;
    assert_eq!(streamed.error.as_ref().map(|error| &error["code"]), Some(&json!("insufficient_quota")), "{streamed:?}");
    let (receipt, parts) = records(&poor, &streamed.id).await;
    let delivered: u32 = parts.iter().map(|record| record.completion_tokens).sum();
    assert_eq!(delivered, streamed.text.split_whitespace().count() as u32);
    assert!(parts.len() == 2 && parts[1].completion_tokens > 100, "{parts:?}");
    let left = usd("0.0005").checked_sub(receipt.charge).expect("never above the credit");
    assert!(left < cost(crate::support::ASK, 0, 2), "all of it was of use: {left}");
    network.balance_becomes(&poor.account, left).await;
    network.finish().await;
}

#[tokio::test]
async fn nor_in_json_of_a_schema() {
    let schema = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 8, "maxLength": 40},
            "bags": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 999}, "minItems": 3, "maxItems": 5},
            "kind": {"enum": ["rice", "maize"]},
        },
        "required": ["name", "bags", "kind"],
        "additionalProperties": false,
    });
    let form = json!({"type": "json_schema", "json_schema": {"name": "barn", "strict": true, "schema": schema}});
    let more = json!({"temperature": 1, "seed": 4, "max_tokens": 64, "response_format": form});
    dies_everywhere("Tell me about rice.", more, |tokens| {
        let last = tokens.saturating_sub(2)..tokens;
        cuts().into_iter().filter(|cut| *cut < tokens).chain(last).collect()
    })
    .await;
}

#[tokio::test]
async fn nor_in_a_tool_call() {
    let parameters = json!({
        "type": "object",
        "properties": {
            "barn": {"type": "string", "minLength": 8, "maxLength": 30},
            "bags": {"type": "integer", "minimum": 1, "maximum": 99999},
        },
        "required": ["barn", "bags"],
        "additionalProperties": false,
    });
    let tools =
        json!([{"type": "function", "function": {"name": "count_bags", "strict": true, "parameters": parameters}}]);
    let more = json!({"temperature": 1, "seed": 9, "max_tokens": 64, "tools": tools, "tool_choice": "required"});
    dies_everywhere("How many bags are in the barn?", more, |tokens| {
        let last = tokens.saturating_sub(2)..tokens;
        cuts().into_iter().filter(|cut| *cut < tokens).chain(last).collect()
    })
    .await;
}
