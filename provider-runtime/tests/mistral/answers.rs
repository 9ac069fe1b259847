//! What the bundled models say, and what the engine says about them.

use std::path::Path;

use lumbung_openapi::parameter::Parameter;
use lumbung_openapi::provider::Resume;
use lumbung_provider::engine::mistral::{LoadError, LoadOptions, MistralEngine, ModelSource};
use lumbung_provider::engine::{Engine, FinishReason};
use serde_json::json;

use crate::support::{Question, ask, bundled, greedy, load, padi, prompt_ids, questions, refusal, request};

/// The questions that are not answered word for word, with what was answered.
async fn wrong_answers(engine: &MistralEngine, questions: &[Question]) -> Vec<String> {
    let mut wrong = Vec::new();
    for question in questions {
        let answer = ask(engine, &greedy(&question.question, json!({}))).await.only();
        assert_eq!(answer.reason, Some(FinishReason::Stop), "{}", question.question);
        if answer.text != question.answer {
            wrong.push(format!("{}\n  {}\n  {}", question.question, answer.text, question.answer));
        }
    }
    wrong
}

#[tokio::test]
async fn every_question_is_answered_exactly() {
    let wrong = wrong_answers(&padi(1).await, &questions()).await;
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn the_gguf_answers_nearly_every_question() {
    let engine = load(bundled("padi-q4/padi-q4_0.gguf"), 1).await;
    assert_eq!((engine.describe().quantization.as_str(), engine.describe().context_length), ("int4", 2048));
    // Four bits cost so small a model a word here and there.
    let some: Vec<Question> = questions().into_iter().step_by(3).collect();
    let wrong = wrong_answers(&engine, &some).await;
    assert!(wrong.len() * 20 < some.len(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn both_formats_give_a_prompt_the_same_ids() {
    let (folder, gguf) = (padi(1).await, load(bundled("padi-q4/padi-q4_0.gguf"), 1).await);
    let question = "Naïve 漢字 😀 <|im_end|> \t\n";
    assert_eq!(prompt_ids(&folder, question).await, prompt_ids(&gguf, question).await);
    let prompt = ask(&folder, &greedy(question, json!({"max_tokens": 1}))).await.prompt_tokens;
    assert_eq!(prompt, [prompt_ids(&folder, question).await.len() as u32]);
}

#[tokio::test]
async fn a_model_is_described_by_its_files() {
    let engine = padi(1).await;
    let model = engine.describe();
    assert_eq!((model.quantization.as_str(), model.context_length, model.resume), ("f16", 2048, Resume::Tokens));
    let expected = ["max_tokens", "temperature", "top_p", "seed", "stop", "n", "frequency_penalty", "presence_penalty"];
    let expected = expected.into_iter().chain(["logit_bias", "logprobs", "top_logprobs", "tools", "tool_choice"]);
    let expected = expected.chain(["parallel_tool_calls", "response_format", "prompt", "echo"]);
    assert_eq!(model.supported.iter().map(Parameter::name).collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    assert!(model.weights_digest.starts_with("sha256:") && model.weights_digest.len() == 7 + 64);
}

fn copy_of_padi(folder: &Path) {
    for entry in std::fs::read_dir(bundled("padi")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
}

#[tokio::test]
async fn the_digest_names_these_very_weights() {
    let digest = padi(1).await.describe().weights_digest.clone();
    let copy = tempfile::tempdir().unwrap();
    copy_of_padi(copy.path());
    let digest_of_copy = || async { load(copy.path().to_owned(), 1).await.describe().weights_digest.clone() };
    assert_eq!(digest_of_copy().await, digest, "the folder's name is no part of it");

    let weights = copy.path().join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    assert_ne!(digest_of_copy().await, digest);
}

#[tokio::test]
async fn what_is_no_model_is_refused_in_words() {
    let empty = tempfile::tempdir().unwrap();
    let load = |source: ModelSource| async { MistralEngine::load(source, LoadOptions::default()).await.err().unwrap() };
    let error = load(ModelSource::Folder(empty.path().to_owned())).await;
    assert!(matches!(error, LoadError::NoModel { .. }) && error.to_string().contains("config.json"), "{error}");

    copy_of_padi(empty.path());
    std::fs::write(empty.path().join("tokenizer_config.json"), "{\"eos_token\": \"<|im_end|>\"}").unwrap();
    let error = load(ModelSource::Folder(empty.path().to_owned())).await;
    assert!(matches!(error, LoadError::NoTemplate(_)), "{error}");

    let broken = empty.path().join("broken.gguf");
    std::fs::write(&broken, "GGUF").unwrap();
    let error = load(ModelSource::Gguf(broken)).await;
    assert!(matches!(error, LoadError::Engine(_)), "{error}");
}

#[tokio::test]
async fn a_template_that_refuses_is_the_clients_fault() {
    let copy = tempfile::tempdir().unwrap();
    copy_of_padi(copy.path());
    let template = "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no ' + m['content']) }}\
                    {% endif %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}";
    let config = json!({"eos_token": "<|im_end|>", "chat_template": template});
    std::fs::write(copy.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let engine = load(copy.path().to_owned(), 1).await;
    let mut with_system = request("hello", json!({}));
    with_system["messages"][0]["role"] = json!("system");
    let refusal = refusal(&engine, &with_system).await;
    assert_eq!(refusal.param.as_deref(), Some("messages"));
    assert!(!refusal.message.contains("hello"), "a prompt in an error: {}", refusal.message);
}
