//! Every parameter that the engine says it supports changes the answer as OpenAI says it does.

use std::collections::HashSet;

use lumbung_provider::engine::FinishReason;
use serde_json::{Value, json};

use crate::support::{
    Choice, ask, begin, endless, forced_logprobs, greedy, padi, prompt_ids, questions, read, refusal, request,
};

/// So hot that even a model that knows its answers by heart wanders.
fn hot(seed: i64) -> Value {
    request("Tell me about rice.", json!({"temperature": 2, "seed": seed, "max_tokens": 40}))
}

#[tokio::test]
async fn a_seed_repeats_an_answer_and_another_gives_another() {
    let engine = padi(1).await;
    let first = ask(&engine, &hot(1)).await.only();
    assert_eq!(ask(&engine, &hot(1)).await.only().ids, first.ids);
    for seed in [2, 3, -1, i64::MAX] {
        assert_ne!(ask(&engine, &hot(seed)).await.only().ids, first.ids, "seed {seed}");
    }
}

#[tokio::test]
async fn without_a_seed_answers_differ() {
    let engine = padi(1).await;
    let mut unseeded = hot(0);
    unseeded.as_object_mut().unwrap().remove("seed");
    assert_ne!(ask(&engine, &unseeded).await.only().ids, ask(&engine, &unseeded).await.only().ids);
}

#[tokio::test]
async fn a_seeded_answer_does_not_depend_on_its_neighbours() {
    let engine = padi(2).await;
    let seeded = request("Tell me about rice.", json!({"temperature": 1, "seed": 5, "max_tokens": 120}));
    let wild = request("Tell me about rice.", json!({"temperature": 1.5, "seed": 6, "max_tokens": 120}));
    let (alone, wild_alone) = (ask(&engine, &seeded).await.only(), ask(&engine, &wild).await.only());
    // Neighbours of the same length share batches, others take turns.
    for neighbour in [wild.clone(), endless("What is an API key?", 120)] {
        let (a, b) = (begin(&engine, &seeded).await.unwrap(), begin(&engine, &neighbour).await.unwrap());
        let (beside, _) = tokio::join!(read(a), read(b));
        assert_eq!(beside.only().ids, alone.ids);
    }
    let (a, b) = (begin(&engine, &wild).await.unwrap(), begin(&engine, &seeded).await.unwrap());
    assert_eq!(tokio::join!(read(a), read(b)).0.only().ids, wild_alone.ids);
}

#[tokio::test]
async fn temperature_and_top_p_narrow_the_draw() {
    let engine = padi(1).await;
    let certain = ask(&engine, &greedy("Tell me about rice.", json!({"max_tokens": 40}))).await.only();
    let nucleus = request("Tell me about rice.", json!({"temperature": 2, "top_p": 0, "seed": 1, "max_tokens": 40}));
    assert_eq!(ask(&engine, &nucleus).await.only().ids, certain.ids, "top_p 0 leaves the likeliest token");
    assert_ne!(ask(&engine, &hot(1)).await.only().ids, certain.ids);
}

#[tokio::test]
async fn logit_bias_forces_and_bans() {
    let engine = padi(1).await;
    let plain = ask(&engine, &greedy("What is SSE?", json!({}))).await.only();
    let first = plain.ids[0];
    let banned = greedy("What is SSE?", json!({"logit_bias": {first.to_string(): -100}, "max_tokens": 60}));
    assert!(!ask(&engine, &banned).await.only().ids.contains(&first));
    let forced = greedy("What is SSE?", json!({"logit_bias": {"300": 100}, "max_tokens": 5}));
    assert_eq!(ask(&engine, &forced).await.only().ids, [300; 5]);

    let refusal = refusal(&engine, &greedy("?", json!({"logit_bias": {"1024": 1}}))).await;
    assert_eq!(refusal.param.as_deref(), Some("logit_bias.1024"));
}

#[tokio::test]
async fn penalties_count_the_tokens_of_the_answer() {
    let engine = padi(1).await;
    let repeats = |choice: &Choice| choice.ids.len() - choice.ids.iter().collect::<HashSet<_>>().len();
    let mut plain = endless("What is SSE?", 200);
    let before = repeats(&ask(&engine, &plain).await.only());
    for penalty in ["frequency_penalty", "presence_penalty"] {
        plain[penalty] = json!(2);
        let after = repeats(&ask(&engine, &plain).await.only());
        assert!(after < before, "{penalty}: {after} repeats, without {before}");
        plain[penalty] = json!(0);
    }
}

#[tokio::test]
async fn logprobs_are_those_of_a_forced_prefill() {
    let engine = padi(1).await;
    let asked = json!({"temperature": 1.3, "seed": 3, "logprobs": true, "top_logprobs": 5, "max_tokens": 60,
                       "frequency_penalty": 0.5, "logit_bias": {"300": 2}});
    let answer = ask(&engine, &request("Tell me about rice.", asked)).await.only();
    let prompt = prompt_ids(&engine, "Tell me about rice.").await;
    let rows = forced_logprobs(&engine, [prompt.clone(), answer.ids.clone()].concat()).await;

    assert_eq!(answer.logprobs.len(), answer.ids.len());
    for (at, (id, told)) in answer.ids.iter().zip(&answer.logprobs).enumerate() {
        let row = &rows[prompt.len() + at - 1];
        assert!((told.logprob - row[*id as usize]).abs() < 1e-3, "token {at}: {} {}", told.logprob, row[*id as usize]);
        let mut sorted = row.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        assert_eq!(told.top_logprobs.len(), 5);
        for (top, expected) in told.top_logprobs.iter().zip(sorted) {
            assert!((top.logprob - expected).abs() < 1e-3, "alternative at {at}: {} {expected}", top.logprob);
        }
    }
    let bytes: Vec<u8> = answer.logprobs.iter().flat_map(|told| told.bytes.clone()).collect();
    assert_eq!(String::from_utf8_lossy(&bytes), answer.text, "the tokens' bytes make up the text");
}

#[tokio::test]
async fn logprobs_come_only_if_asked_for() {
    let engine = padi(1).await;
    assert!(ask(&engine, &greedy("What is SSE?", json!({}))).await.only().logprobs.is_empty());
    let choice = ask(&engine, &greedy("What is SSE?", json!({"logprobs": true}))).await.only();
    assert_eq!(choice.logprobs.len(), choice.count as usize);
    assert!(choice.logprobs.iter().all(|told| told.top_logprobs.is_empty()));
    let end = choice.logprobs.last().unwrap();
    assert_eq!((end.token.as_str(), end.bytes.len()), ("<|im_end|>", 0), "the end has a name and no text");
}

#[tokio::test]
async fn the_end_token_counts_and_is_not_shown() {
    let engine = padi(1).await;
    let question = questions().swap_remove(0);
    let answer = ask(&engine, &greedy(&question.question, json!({}))).await.only();
    assert_eq!((answer.text.as_str(), answer.reason), (question.answer.as_str(), Some(FinishReason::Stop)));
    assert_eq!(answer.count as usize, answer.ids.len());
    assert_eq!(answer.ids.last(), Some(&2));

    // Exactly as many tokens as the end needs, and one fewer.
    let exact = greedy(&question.question, json!({"max_tokens": answer.count}));
    assert_eq!(ask(&engine, &exact).await.only().reason, Some(FinishReason::Stop));
    let short = greedy(&question.question, json!({"max_tokens": answer.count - 1}));
    let short = ask(&engine, &short).await.only();
    assert_eq!((short.reason, short.text), (Some(FinishReason::Length), question.answer));
}
