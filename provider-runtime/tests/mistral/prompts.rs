//! Prompts that go to the model as they are.

use bytes::Bytes;
use lumbung_openapi::chat::ChatRequest;
use lumbung_provider::engine::mistral::MistralEngine;
use lumbung_provider::engine::{Engine, EngineError, FinishReason, Generation, Job};
use serde_json::{Value, json};

use crate::support::*;

async fn begin(engine: &MistralEngine, more: Value) -> Result<Generation, EngineError> {
    let mut body = json!({"model": "m", "temperature": 0});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let body = Bytes::from(body.to_string());
    let request = ChatRequest::parse_completion(&body).unwrap();
    let max_completion_tokens = request.max_tokens.unwrap();
    let job = Job { id: "job_1", request: &request, body: &body, max_completion_tokens, seed: 0, history: &[] };
    engine.generate(job).await
}

/// What the bundled model's template makes of a question.
fn rendered(question: &str) -> String {
    format!("<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")
}

#[tokio::test]
async fn a_prompt_that_is_a_template_rendered_is_answered_as_a_chat() {
    let engine = padi(2).await;
    let asked: Vec<Question> = questions().into_iter().step_by(50).take(3).collect();
    let prompts: Vec<String> = asked.iter().map(|question| rendered(&question.question)).collect();
    let answer = read(begin(&engine, json!({"prompt": prompts, "n": 2, "max_tokens": 200})).await.unwrap()).await;
    assert_eq!(answer.choices.len(), 6);
    for (number, choice) in answer.choices.iter().enumerate() {
        assert_eq!(choice.text, asked[number / 2].answer, "answer {number} is of prompt {}", number / 2);
        assert_eq!(choice.reason, Some(FinishReason::Stop));
    }
    let chats: u32 = {
        let mut sum = 0;
        for question in &asked {
            sum += ask(&engine, &greedy(&question.question, json!({"max_tokens": 1}))).await.prompt_tokens[0];
        }
        sum
    };
    assert_eq!(answer.prompt_tokens, [chats], "the prompts together");
}

#[tokio::test]
async fn token_ids_are_gone_on_with_and_may_be_repeated() {
    let engine = padi(1).await;
    let question = questions().swap_remove(0);
    let text = rendered(&question.question);
    let whole = read(begin(&engine, json!({"prompt": text, "max_tokens": 8})).await.unwrap()).await.only();
    // What was made goes on from there.
    let more = json!({"prompt": whole.ids, "max_tokens": 5, "echo": true});
    let repeated = read(begin(&engine, more).await.unwrap()).await;
    assert_eq!(repeated.prompt_tokens, [8]);
    let repeated = repeated.only();
    assert!(repeated.text.starts_with(&whole.text), "{} {}", repeated.text, whole.text);
    assert_eq!(repeated.count as usize, repeated.ids.len(), "what is repeated is not counted");
    let stopped = json!({"prompt": text, "max_tokens": 200, "stop": question.answer.split(' ').nth(2)});
    let stopped = read(begin(&engine, stopped).await.unwrap()).await.only();
    assert_eq!(stopped.reason, Some(FinishReason::StopSequence(0)));
}

#[tokio::test]
async fn a_prompt_at_fault_is_refused() {
    let engine = padi(1).await;
    for (more, code) in [
        (json!({"prompt": [1, 2_000_000]}), "invalid_value"),
        (json!({"prompt": vec![5; 5000]}), "context_length_exceeded"),
    ] {
        match begin(&engine, more).await {
            Err(EngineError::Invalid(refusal)) => assert_eq!(refusal.code, Some(code)),
            other => panic!("not refused: {other:?}"),
        }
    }
}
