//! Tokens counted again with the model's own tokenizer: what is claimed beyond it earns nothing, and what is honest is left alone.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lumbung_gateway::domain::ids::ProviderId;
use lumbung_gateway::domain::provider::Standing;
use lumbung_gateway::domain::tokenizer::{ModelTokenizer, Said, TokenizerFiles};
use lumbung_openapi::chat::ChatRequest;
use lumbung_openapi::jws::SigningKey;
use lumbung_openapi::money::TokenPrice;
use lumbung_openapi::receipt::{JobReceipt, Recount, RecountOutcome};
use lumbung_openapi::reply::Usage;
use lumbung_openapi::template::SpecialTokens;
use serde_json::{Value, json};

use crate::support::client::Client;
use crate::support::process::wait_until;
use crate::support::provider::{Provider, ProviderSetup};
use crate::support::{ASK, Books, MODEL, Network, Setup, usd};

const BUNDLED: &str = "lumbung/padi";

fn bundled(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../provider-runtime/models").join(name)
}

fn padi() -> PathBuf {
    bundled("padi")
}

fn tokenizer() -> ModelTokenizer {
    let read = |name: &str| std::fs::read_to_string(padi().join(name)).expect("a file of the bundled model");
    let config: Value = serde_json::from_str(&read("tokenizer_config.json")).expect("JSON");
    let files = TokenizerFiles {
        tokenizer_json: read("tokenizer.json"),
        chat_template: config["chat_template"].as_str().expect("a template").to_owned(),
        special_tokens: SpecialTokens { eos: Some("<|im_end|>".into()), ..Default::default() },
    };
    ModelTokenizer::new(&files).expect("a tokenizer")
}

/// A tool as a client describes it, whole or without what it does.
fn tool(has_description: bool) -> Value {
    let parameters = json!({"type": "object", "properties": {"village": {"type": "string"}}, "required": ["village"]});
    let mut tool = json!({"type": "function", "function": {"name": "harvest", "parameters": parameters}});
    if has_description {
        tool["function"]["description"] = "How much rice a village has brought in".into();
    }
    tool
}

/// Question and answer that the bundled model knows by heart.
pub fn questions() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(padi().join("../questions.json")).expect("the questions");
    let list: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    list.iter().map(|known| (text(&known["question"]), text(&known["answer"]))).collect()
}

/// Imports the bundled model's tokenizer as the operator does, and waits until the gateway has it.
pub async fn import(network: &Network, model: &str) {
    import_from(network, model, &padi()).await;
}

async fn import_from(network: &Network, model: &str, folder: &Path) {
    let output = Command::new(env!("CARGO_BIN_EXE_lumbung-gateway"))
        .args(["models", "tokenizer", model, "--from", &folder.display().to_string()])
        .env("LUMBUNG_DATA_DIR", network.folder.path())
        .env_remove("DATABASE_URL")
        .output()
        .expect("the command runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let log = network.folder.path().join("gateway.log");
    wait_until("the gateway has the tokenizer", Duration::from_secs(10), async || {
        std::fs::read_to_string(&log).unwrap_or_default().contains("tokenizer loaded")
    })
    .await;
    tokio::time::sleep(Duration::from_millis(50)).await; // the line comes just before the tokenizer is in use
}

fn id_of(provider: &Provider) -> ProviderId {
    ProviderId::from(SigningKey::from_seed(&provider.seed()).public())
}

async fn ask(client: &Client, stream: bool, question: &str, more: Value) -> (String, Usage) {
    match stream {
        true => {
            let streamed = client.stream(question, more).await;
            assert!(streamed.done && streamed.error.is_none());
            (streamed.id, streamed.usage.expect("usage"))
        }
        false => {
            let answer = client.ask(question, more).await;
            (answer.id, answer.usage.expect("usage"))
        }
    }
}

async fn recount_of(client: &Client, id: &str) -> Recount {
    let receipt: JobReceipt = serde_json::from_value(client.receipt(id).await).expect("a receipt");
    receipt.attempts[0].recount.clone().expect("counted again")
}

#[tokio::test]
async fn an_inflated_count_earns_what_the_honest_twin_earns() {
    let (tokenizer, known) = (tokenizer(), questions());
    let reply = known.iter().take(8).map(|(_, answer)| answer.as_str()).collect::<Vec<_>>().join(" ");
    let said = Said { content: reply.clone(), finish_reason: Some("stop".into()), ..Default::default() };
    let honest = tokenizer.completion_tokens(&said, &[]).expect("a count");
    assert!(honest > 100, "{honest} tokens");
    let prompt_of = |question: &str| {
        let body = Client::body(question, json!({})).to_string();
        tokenizer.prompt_tokens(&ChatRequest::parse(body.as_bytes()).expect("a request"), 0).expect("a count")
    };
    let by = |count: u32, percent: u32| (count * percent).div_ceil(100);
    let letters = reply.chars().count() as u32;
    assert!(letters > 2 * honest, "letter by letter is more");
    let cases = [("honest", 100), ("a little", 105), ("twice", 200), ("ten times", 1000), ("letters", 0)];
    let rules: Vec<Value> = cases
        .iter()
        .map(|(question, percent)| {
            let (prompt, claimed) = match percent {
                0 => (prompt_of(question), letters),
                percent => (by(prompt_of(question), *percent), by(honest, *percent)),
            };
            json!({"match": question, "reply": reply, "prompt_tokens": prompt, "claim_tokens": claimed, "tokens_per_event": 7})
        })
        .collect();

    let network = Setup::new(Books::Sqlite).start().await;
    import(&network, MODEL).await;
    let provider = network.scripted(rules.into()).await;
    let client = network.client("1").await;
    let keys = reqwest::get(format!("{}/.well-known/jwks.json", network.base)).await.expect("keys");
    let keys = serde_json::from_str(&keys.text().await.expect("text")).expect("a key set");
    let price = TokenPrice { prompt: usd(ASK.0), completion: usd(ASK.1) };
    let mut left = usd("1");
    for (question, percent) in cases {
        for stream in [false, true] {
            let (id, usage) = ask(&client, stream, question, json!({})).await;
            let prompt = prompt_of(question);
            assert_eq!(
                (usage.prompt_tokens, usage.completion_tokens),
                (prompt, honest),
                "{question}, stream: {stream}"
            );
            let cost = price.cost(prompt, honest).expect("a small cost");
            let recount = recount_of(&client, &id).await;
            assert_eq!((recount.outcome, recount.is_lower()), (RecountOutcome::Counted, percent != 100), "{question}");
            assert_eq!((recount.prompt_tokens, recount.completion_tokens), (Some(prompt), Some(honest)));
            wait_until("the provider has signed", Duration::from_secs(10), async || {
                !client.receipt(&id).await["attempts"][0]["proof"].is_null()
            })
            .await;
            let receipt: JobReceipt = serde_json::from_value(client.receipt(&id).await).expect("a receipt");
            assert_eq!((receipt.charge, receipt.verify(&keys)), (cost, Ok(())));
            left = left.checked_sub(cost).expect("a dollar is enough");
        }
    }
    network.balance_becomes(&client.account, left).await;
    // A newcomer: all of its jobs.
    let found = network.store.recounts(&id_of(&provider)).await.expect("figures");
    assert_eq!((found.attempts, found.counted, found.lowered), (10, 10, 8));
    network.finish().await;
}

#[tokio::test]
async fn a_prompt_with_tools_that_is_inflated_is_lowered_to_what_the_template_makes_of_it() {
    let tokenizer = tokenizer();
    let network = Setup::new(Books::Sqlite).start().await;
    import(&network, MODEL).await;
    let script = json!({
        "rules": [{"match": "*", "reply": "one", "prompt_tokens": 900}],
        "supported_parameters": ["max_tokens", "temperature", "tools", "tool_choice", "response_format", "reasoning_effort"],
    });
    let _provider = network.scripted(script).await;
    let client = network.client("1").await;
    for more in [
        json!({"tools": [tool(true)]}),
        json!({"tools": [tool(false)], "tool_choice": "none"}),
        json!({"response_format": {"type": "json_object"}}),
        json!({"reasoning_effort": "low"}),
    ] {
        let body = Client::body("How much?", more.clone()).to_string();
        let prompt = tokenizer.prompt_tokens(&ChatRequest::parse(body.as_bytes()).expect("a request"), 0);
        let prompt = prompt.expect("a count");
        let (id, usage) = ask(&client, true, "How much?", more.clone()).await;
        let recount = recount_of(&client, &id).await;
        assert_eq!((recount.prompt_tokens, recount.is_lower()), (Some(prompt), true), "{more}");
        assert_eq!(usage.prompt_tokens, prompt, "{more}");
    }
    network.finish().await;
}

#[tokio::test]
async fn of_a_trusted_provider_a_sample_is_counted_again() {
    let network = Setup::new(Books::Sqlite).with_gateway_flag("--recount-bps", "2500").start().await;
    import(&network, MODEL).await;
    let provider = network
        .scripted(json!([{"match": "*", "reply": "one two three", "claim_tokens": 900, "prompt_tokens": 1}]))
        .await;
    let client = network.client("5").await;
    let id = id_of(&provider);
    network.store.set_standing(&id, Standing::Trusted).await.expect("a standing");
    tokio::time::sleep(Duration::from_millis(1500)).await; // gateways follow twice a second
    let mut lowered = 0;
    for number in 0..200 {
        let (_, usage) = ask(&client, number % 2 == 0, "x", json!({})).await;
        lowered += u64::from(usage.completion_tokens < 900);
    }
    wait_until("all is settled", Duration::from_secs(10), async || {
        network.store.recounts(&id).await.is_ok_and(|found| found.attempts >= lowered)
    })
    .await;
    let found = network.store.recounts(&id).await.expect("figures");
    assert_eq!((found.attempts, found.lowered), (lowered, lowered), "what was chosen was lowered, and nothing else");
    assert!((20..=80).contains(&lowered), "{lowered} of 200 at 25 %"); // five standard deviations
    network.finish().await;
}

#[tokio::test]
async fn the_bundled_models_own_counts_stand() {
    let network = Setup::new(Books::Sqlite).with_model(BUNDLED, 2048).start().await;
    import(&network, BUNDLED).await;
    let provider = network.provider(ProviderSetup::bundled(BUNDLED)).await;
    let client = network.client("1").await;
    let known = questions();
    let mut jobs = 0;
    for (number, (question, answer)) in known.iter().step_by(known.len() / 36).enumerate() {
        let (before, said) = &known[number];
        let messages = match number % 3 {
            0 => json!([{"role": "user", "content": question}]),
            1 => {
                json!([{"role": "system", "content": "Answer in one sentence."}, {"role": "user", "content": question}])
            }
            _ => json!([{"role": "user", "content": before}, {"role": "assistant", "content": said},
                        {"role": "user", "content": question}]),
        };
        let more = json!({"model": BUNDLED, "messages": messages, "temperature": 0});
        let (id, usage) = ask(&client, number % 2 == 0, question, more).await;
        let recount = recount_of(&client, &id).await;
        assert_eq!(recount.outcome, RecountOutcome::Counted);
        assert_eq!(
            (recount.prompt_tokens, recount.completion_tokens),
            (Some(recount.claimed_prompt_tokens), Some(recount.claimed_completion_tokens)),
            "{question} {answer}"
        );
        assert_eq!(
            (usage.prompt_tokens, usage.completion_tokens),
            (recount.claimed_prompt_tokens, recount.claimed_completion_tokens)
        );
        jobs += 1;
    }
    assert!(jobs >= 36);

    // With tools, their calls and their results. A tool whose description is left out may be written as null by others.
    let call = json!({"id": "c1", "type": "function", "function": {"name": "harvest", "arguments": "{\"village\": \"Ubud\"}"}});
    for has_description in [true, false] {
        let messages = json!([
            {"role": "user", "content": "How much?"},
            {"role": "assistant", "content": null, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "two tonnes"},
        ]);
        let more = json!({"model": BUNDLED, "messages": messages, "tools": [tool(has_description)],
                           "max_tokens": 16, "temperature": 0});
        let (id, usage) = ask(&client, has_description, "", more).await;
        let recount = recount_of(&client, &id).await;
        let found = recount.prompt_tokens.expect("a count");
        assert_eq!(usage.prompt_tokens, recount.claimed_prompt_tokens, "what is honest stands");
        let beyond = found - recount.claimed_prompt_tokens;
        assert!(if has_description { beyond == 0 } else { (1..20).contains(&beyond) }, "{beyond}");
        jobs += 1;
    }
    // A limit in the middle of a call: before its name has come, nothing of it is shown, and still it was made.
    let choice = json!({"type": "function", "function": {"name": "harvest"}});
    for max_tokens in [1, 6, 12, 24] {
        let more = json!({"model": BUNDLED, "tools": [tool(true)], "tool_choice": choice, "max_tokens": max_tokens});
        let (id, usage) = ask(&client, max_tokens % 4 == 0, "How much?", more).await;
        let recount = recount_of(&client, &id).await;
        assert_eq!((usage.completion_tokens, recount.is_lower()), (max_tokens, false), "{recount:?}");
        jobs += 1;
    }
    let found = network.store.recounts(&id_of(&provider)).await.expect("figures");
    assert_eq!((found.attempts, found.counted, found.lowered), (jobs, jobs, 0));

    // What is drawn at random is not always spelled canonically: an honest provider loses that much, and no more.
    let (mut claimed, mut found) = (0, 0);
    for seed in 0..30 {
        let question = &known[seed * 5 % known.len()].0;
        let messages = json!([{"role": "user", "content": question}]);
        let more = json!({"model": BUNDLED, "messages": messages, "temperature": 1, "seed": seed, "max_tokens": 120});
        let (id, _) = ask(&client, seed % 2 == 0, question, more).await;
        let recount = recount_of(&client, &id).await;
        assert_eq!(recount.prompt_tokens, Some(recount.claimed_prompt_tokens));
        claimed += recount.claimed_completion_tokens;
        found += recount.completion_tokens.expect("a count").min(recount.claimed_completion_tokens);
    }
    println!("at temperature 1: {claimed} tokens drawn, {found} canonical");
    assert!(u64::from(claimed - found) * 100 <= u64::from(claimed) * 2, "{claimed} drawn, {found} canonical");
    network.finish().await;
}

/// Vectors cost their inputs' tokens, which the bundled model's own tokenizer finds again, to the token.
#[tokio::test]
async fn inputs_of_vectors_are_counted_again() {
    let vectors = "lumbung/padi-embed";
    let network = Setup::new(Books::Sqlite).with_model(vectors, 2048).start().await;
    import_from(&network, vectors, &bundled("padi-embed")).await;
    let _provider = network.provider(ProviderSetup::bundled_vectors(vectors)).await;
    let client = network.client("1").await;
    let input: Vec<String> = questions().into_iter().take(20).map(|(question, _)| question).collect();
    let ask = client.http.post(format!("{}/v1/embeddings", client.base)).bearer_auth(&client.key);
    let answer = ask.body(json!({"model": vectors, "input": input}).to_string()).send().await.expect("an answer");
    let id = answer.headers()["x-generation-id"].to_str().expect("an id").to_owned();
    let usage = answer.json::<Value>().await.expect("JSON")["usage"].take();
    let recount = recount_of(&client, &id).await;
    assert_eq!((recount.outcome, recount.completion_tokens), (RecountOutcome::Counted, Some(0)));
    assert_eq!(recount.prompt_tokens, Some(recount.claimed_prompt_tokens));
    assert_eq!(usage["prompt_tokens"], recount.claimed_prompt_tokens);
    assert!(recount.claimed_prompt_tokens > 60, "{recount:?}");
    network.finish().await;
}

/// Twelve long answers at once: more than can be counted in the time that a trusted provider's jobs wait.
#[tokio::test]
async fn a_count_that_comes_too_late_changes_nothing_and_the_books_say_so() {
    let network = Setup::new(Books::Sqlite).with_gateway_flag("--recount-bps", "10000").start().await;
    import(&network, MODEL).await;
    let words = questions().into_iter().map(|(_, answer)| answer).collect::<Vec<_>>().join(" ");
    let reply = words.repeat(1_500_000 / words.len());
    let (claimed, prompt) = (5000, 3);
    let rule = json!({"match": "*", "reply": reply, "claim_tokens": claimed, "prompt_tokens": prompt, "tokens_per_event": 4096});
    let provider = network.scripted(json!([rule])).await;
    network.store.set_standing(&id_of(&provider), Standing::Trusted).await.expect("a standing");
    tokio::time::sleep(Duration::from_millis(1500)).await; // gateways follow twice a second
    let client = network.client("5").await;
    let asking = (0..12).map(|_| client.ask("x", json!({})));
    let answers = futures_util::future::join_all(asking).await;

    let price = TokenPrice { prompt: usd(ASK.0), completion: usd(ASK.1) };
    let (mut late, mut left) = (0, usd("5"));
    for answer in &answers {
        let usage = answer.usage.expect("usage");
        let recount = recount_of(&client, &answer.id).await;
        assert_eq!((recount.claimed_prompt_tokens, recount.claimed_completion_tokens), (prompt, claimed));
        if recount.outcome == RecountOutcome::Late {
            late += 1;
            assert_eq!((recount.prompt_tokens, recount.completion_tokens), (None, None), "nothing was found in time");
            assert_eq!((usage.prompt_tokens, usage.completion_tokens), (prompt, claimed), "the claim stands");
        }
        let cost = price.cost(usage.prompt_tokens, usage.completion_tokens).expect("a small cost");
        left = left.checked_sub(cost).expect("five dollars are enough");
    }
    assert!(late > 0, "none of {} was late", answers.len());
    network.balance_becomes(&client.account, left).await;
    let found = network.store.recounts(&id_of(&provider)).await.expect("figures");
    assert_eq!((found.attempts, found.counted), (12, 12 - late), "{late} late");
    assert_eq!(network.gateway.log().matches("tokens not counted again").count() as u64, late);
    network.finish().await;
}
