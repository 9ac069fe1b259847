//! An answer is continued from the tokens that another provider delivered, and comes to the same end wherever it was cut.

use bytes::Bytes;
use lumbung_openapi::chat::ChatRequest;
use lumbung_provider::engine::mistral::MistralEngine;
use lumbung_provider::engine::{Engine, History, Job};
use serde_json::{Value, json};

use crate::support::{Answer, Choice, ask, bundled, endless, greedy, padi, questions, read, request};

/// What every attempt at these jobs draws by, where a request names no seed.
const SEED: i64 = 77;

async fn resume(engine: &MistralEngine, request: &Value, history: &[History]) -> Answer {
    let body = Bytes::from(request.to_string());
    let request = ChatRequest::parse(&body).unwrap();
    let max_completion_tokens = request.max_tokens.unwrap_or(u32::MAX);
    let seed = request.sampling.seed.unwrap_or(SEED);
    read(
        engine
            .generate(Job { id: "job_1", request: &request, body: &body, max_completion_tokens, seed, history })
            .await
            .unwrap(),
    )
    .await
}

fn history(choice: &Choice, tokens: usize) -> History {
    History { ids: choice.ids[..tokens].to_vec(), finished: false }
}

fn assert_same(resumed: &Choice, whole: &Choice, at: usize) {
    assert_eq!((&resumed.ids, &resumed.text), (&whole.ids, &whole.text), "cut after token {at}");
    assert_eq!((resumed.reason, resumed.count), (whole.reason, whole.count), "cut after token {at}");
    assert_eq!((&resumed.calls, &resumed.call_ids), (&whole.calls, &whole.call_ids), "cut after token {at}");
}

/// Cut after every token, the first and the last too.
async fn is_the_same_wherever_it_is_cut(request: Value) -> Choice {
    let engine = padi(1).await;
    let whole = resume(&engine, &request, &[]).await.only();
    for at in 0..=whole.ids.len() {
        let resumed = resume(&engine, &request, &[history(&whole, at)]).await.only();
        assert_same(&resumed, &whole, at);
    }
    whole
}

#[tokio::test]
async fn a_greedy_answer() {
    let whole = is_the_same_wherever_it_is_cut(endless("Tell me about rice.", 64)).await;
    assert_eq!(whole.ids.len(), 64);
    let known = &questions()[0];
    is_the_same_wherever_it_is_cut(greedy(&known.question, json!({}))).await;
}

#[tokio::test]
async fn an_answer_drawn_at_random_with_and_without_a_seed() {
    let hot = |more: Value| {
        let mut request = request("Tell me about rice.", json!({"temperature": 1.5, "max_tokens": 64}));
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        request
    };
    let seeded = is_the_same_wherever_it_is_cut(hot(json!({"seed": 5}))).await;
    let unseeded = is_the_same_wherever_it_is_cut(hot(json!({}))).await;
    assert_ne!(seeded.ids, unseeded.ids);
    is_the_same_wherever_it_is_cut(hot(json!({"frequency_penalty": 1.2, "presence_penalty": 0.5, "top_p": 0.9}))).await;
}

#[tokio::test]
async fn a_stop_sequence_across_the_cut() {
    let whole = ask(&padi(1).await, &endless("Tell me about rice.", 64)).await.only();
    let middle = whole.text.char_indices().nth(whole.text.chars().count() / 2).unwrap().0;
    let stop: String = whole.text[middle..].chars().take(12).collect();
    let mut request = endless("Tell me about rice.", 64);
    request["stop"] = json!([stop, "no such text"]);
    let stopped = is_the_same_wherever_it_is_cut(request).await;
    assert!(stopped.ids.len() < 64 && !stopped.text.contains(&stop));
}

/// Tokens of single bytes, by GPT-2's names for them.
fn byte_tokens<const N: usize>(names: [&str; N]) -> [u64; N] {
    let tokenizer: Value =
        serde_json::from_slice(&std::fs::read(bundled("padi").join("tokenizer.json")).unwrap()).unwrap();
    names.map(|name| tokenizer["model"]["vocab"][name].as_u64().unwrap())
}

#[tokio::test]
async fn a_form_across_the_cut() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "^[a-zé]{3,6}$"}, "b": {"type": "integer"}},
        "required": ["a", "b"], "additionalProperties": false});
    let format = json!({"type": "json_schema", "json_schema": {"name": "s", "strict": true, "schema": schema}});
    let asked = json!({"temperature": 1.5, "max_tokens": 40, "response_format": format});
    let whole = is_the_same_wherever_it_is_cut(request("Tell me about rice.", asked)).await;
    assert!(whole.text.starts_with("{\"a\":\""), "{}", whole.text);

    let tool = json!({"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}});
    let called =
        is_the_same_wherever_it_is_cut(greedy("What is the weather in Paris?", json!({"tools": [tool]}))).await;
    assert_eq!(called.calls.len(), 1, "{called:?}");
}

#[tokio::test]
async fn characters_of_several_tokens_across_the_cut() {
    // Byte tokens that begin characters and go on with them, in any order: whole ones, broken ones, and cuts within both.
    let bytes = byte_tokens(["Ã", "©", "æ", "¼", "¢"]);
    let bias: serde_json::Map<String, Value> = bytes.iter().map(|id| (id.to_string(), json!(100))).collect();
    let mut whole_characters = 0;
    for seed in 0..3 {
        let request = request("Say it.", json!({"temperature": 2, "seed": seed, "max_tokens": 48, "logit_bias": bias}));
        let whole = is_the_same_wherever_it_is_cut(request).await;
        whole_characters += whole.text.chars().filter(|c| matches!(c, 'é' | '漢')).count();
    }
    assert!(whole_characters > 0, "some characters came whole");
}

#[tokio::test]
async fn log_probabilities_of_what_was_delivered_are_told_again() {
    let engine = padi(1).await;
    let request = request(
        "Tell me about rice.",
        json!({"temperature": 1, "max_tokens": 24, "logprobs": true, "top_logprobs": 2}),
    );
    let whole = resume(&engine, &request, &[]).await.only();
    for at in [0, 1, 7, 23, 24] {
        let resumed = resume(&engine, &request, &[history(&whole, at)]).await.only();
        assert_same(&resumed, &whole, at);
        assert_eq!(resumed.logprobs.len(), whole.logprobs.len());
        for (again, first) in resumed.logprobs.iter().zip(&whole.logprobs) {
            assert_eq!((&again.token, &again.bytes), (&first.token, &first.bytes));
            assert!((again.logprob - first.logprob).abs() < 1e-3, "{again:?} {first:?}");
            assert_eq!(again.top_logprobs.len(), 2);
        }
    }
}

#[tokio::test]
async fn choices_that_were_cut_at_different_places() {
    let engine = padi(1).await;
    let request = request("Tell me about rice.", json!({"temperature": 1.2, "max_tokens": 30, "n": 3}));
    let whole = resume(&engine, &request, &[]).await;
    let all = whole.choices[0].ids.len();
    let mut histories = vec![history(&whole.choices[0], all), history(&whole.choices[1], 11)];
    for finished in [false, true] {
        histories[0].finished = finished;
        let resumed = resume(&engine, &request, &histories).await;
        for (choice, first) in resumed.choices.iter().zip(&whole.choices) {
            assert_same(choice, first, 0);
        }
    }
}

#[tokio::test]
async fn tokens_of_another_model_are_refused() {
    let engine = padi(1).await;
    let body = Bytes::from(greedy("x", json!({})).to_string());
    let request = ChatRequest::parse(&body).unwrap();
    let history = [History { ids: vec![1 << 30], finished: false }];
    let job = Job { id: "job_1", request: &request, body: &body, max_completion_tokens: 9, seed: 0, history: &history };
    assert!(engine.generate(job).await.is_err());
}
