//! Asking an engine and gathering what it says.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use either::Either;
use lumbung_openapi::chat::ChatRequest;
use lumbung_openapi::error::InvalidRequest;
use lumbung_openapi::reply::TokenLogprob;
use lumbung_provider::engine::mistral::{LoadOptions, MistralEmbedder, MistralEngine, ModelSource};
use lumbung_provider::engine::{Engine, EngineError, Event, FinishReason, Generation, Job};
use mistralrs::{
    Constraint, CustomLogitsProcessor, NormalRequest, Request, RequestMessage, Response, SamplingParams,
    TextMessageRole, TextMessages,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Longer than anything here takes on a slow machine, shorter than patience.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// `<|im_end|>` and `<|endoftext|>`: banned, an answer goes on to its limit.
pub const ENDLESS: [(&str, i32); 2] = [("2", -100), ("0", -100)];
/// The bundled model's context.
pub const CONTEXT: usize = 2048;

/// A bundled model's file or folder.
pub fn bundled(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models").join(name)
}

pub async fn load(path: PathBuf, slots: usize) -> MistralEngine {
    let source: ModelSource = path.to_str().unwrap().parse().unwrap();
    let options = LoadOptions { slots: NonZeroUsize::new(slots).unwrap() };
    MistralEngine::load(source, options).await.unwrap()
}

/// The bundled model, with so many slots.
pub async fn padi(slots: usize) -> MistralEngine {
    load(bundled("padi"), slots).await
}

#[derive(Deserialize)]
pub struct Question {
    pub question: String,
    pub answer: String,
}

pub fn questions() -> Vec<Question> {
    serde_json::from_slice(&std::fs::read(bundled("questions.json")).unwrap()).unwrap()
}

/// A request with one message, and `more` members.
pub fn request(question: &str, more: Value) -> Value {
    let mut request = json!({"model": "padi", "messages": [{"role": "user", "content": question}]});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    request
}

/// A greedy request.
pub fn greedy(question: &str, more: Value) -> Value {
    let mut request = request(question, more);
    request["temperature"] = json!(0);
    request
}

/// A request whose answer goes on to its limit.
pub fn endless(question: &str, max_tokens: usize) -> Value {
    let bias: serde_json::Map<String, Value> =
        ENDLESS.iter().map(|(id, bias)| ((*id).to_owned(), json!(bias))).collect();
    greedy(question, json!({"max_tokens": max_tokens, "logit_bias": bias}))
}

/// Begins an answer.
pub async fn begin(engine: &MistralEngine, request: &Value) -> Result<Generation, EngineError> {
    let body = Bytes::from(request.to_string());
    let request = ChatRequest::parse(&body).unwrap();
    let max_completion_tokens = request.max_tokens.unwrap_or(u32::MAX);
    let seed = request.sampling.seed.unwrap_or_else(rand::random);
    let job = Job { id: "job_1", request: &request, body: &body, max_completion_tokens, seed, history: &[] };
    engine.generate(job).await
}

/// Asks for vectors: how many tokens were read, and the vectors.
pub async fn embed(engine: &MistralEmbedder, request: Value) -> Result<(u32, Vec<Vec<f32>>), InvalidRequest> {
    let mut request = request;
    request["model"] = json!("padi-embed");
    let body = Bytes::from(request.to_string());
    let request = ChatRequest::parse_embedding(&body).unwrap();
    let job = Job { id: "job_1", request: &request, body: &body, max_completion_tokens: 0, seed: 0, history: &[] };
    let mut generation = match engine.generate(job).await {
        Ok(generation) => generation,
        Err(EngineError::Invalid(refusal)) => return Err(refusal),
        Err(error) => panic!("{error}"),
    };
    let (mut count, mut vectors, mut finished) = (0, Vec::new(), false);
    while let Some(event) = tokio::time::timeout(PATIENCE, generation.events.recv()).await.expect("vectors in time") {
        match event {
            Event::Prompt(prompt) => count = prompt.prompt_tokens,
            Event::Vector(vector) => vectors.push(vector),
            Event::Finish { .. } => finished = true,
            other => panic!("not asked for: {other:?}"),
        }
    }
    assert!(finished);
    Ok((count, vectors))
}

/// What a refused request is told.
pub async fn refusal(engine: &MistralEngine, request: &Value) -> InvalidRequest {
    match begin(engine, request).await {
        Err(EngineError::Invalid(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

/// A whole answer.
#[derive(Debug, Default)]
pub struct Answer {
    pub prompt_tokens: Vec<u32>,
    pub choices: Vec<Choice>,
    /// The choices in the order in which they finished.
    pub finished: Vec<u8>,
    /// Choices whose first token came before another one had finished.
    pub overlapping: bool,
}

#[derive(Debug, Default)]
pub struct Choice {
    pub reasoning: String,
    pub reasoning_count: u32,
    pub text: String,
    /// Name and arguments of each.
    pub calls: Vec<(String, String)>,
    pub call_ids: Vec<String>,
    pub ids: Vec<u32>,
    pub count: u32,
    pub logprobs: Vec<TokenLogprob>,
    pub reason: Option<FinishReason>,
}

impl Answer {
    /// The only choice.
    pub fn only(self) -> Choice {
        let [choice] = <[Choice; 1]>::try_from(self.choices).unwrap();
        choice
    }
}

/// Reads an answer to its end, and checks what holds for every answer.
pub async fn read(mut generation: Generation) -> Answer {
    let mut answer = Answer::default();
    while let Some(event) = tokio::time::timeout(PATIENCE, generation.events.recv()).await.expect("an answer in time") {
        match event {
            Event::Prompt(count) => answer.prompt_tokens.push(count.prompt_tokens),
            Event::Tokens(tokens) => {
                let number = tokens.choice as usize;
                answer.overlapping |= answer.choices.len() > answer.finished.len() && number >= answer.choices.len();
                answer.choices.resize_with(answer.choices.len().max(number + 1), Choice::default);
                let choice = &mut answer.choices[number];
                assert_eq!(choice.reason, None, "tokens after the end");
                assert_eq!(tokens.count as usize, tokens.ids.len());
                choice.text += &tokens.text;
                choice.reasoning += &tokens.reasoning;
                choice.reasoning_count += tokens.reasoning_count;
                for call in tokens.calls {
                    if let Some(head) = call.head {
                        assert_eq!(choice.calls.len(), call.call as usize, "calls come one after another");
                        choice.calls.push((head.name, String::new()));
                        choice.call_ids.push(head.id);
                    }
                    choice.calls[call.call as usize].1 += &call.arguments;
                }
                choice.count += tokens.count;
                choice.ids.extend(tokens.ids);
                choice.logprobs.extend(tokens.logprobs);
            }
            Event::Finish { choice, reason } => {
                answer.finished.push(choice);
                assert_eq!(answer.choices[choice as usize].reason.replace(reason), None, "two ends");
            }
            Event::Total(total) | Event::ReasoningTotal(total) => panic!("a count that differs: {total}"),
            Event::Kinds(kinds) => panic!("text alone: {kinds:?}"),
            Event::Vector(vector) => panic!("a vector of {} numbers that nobody asked for", vector.len()),
            Event::Working => panic!("it shows everything as it is made"),
            Event::Failed(error) => panic!("failed: {error}"),
        }
    }
    assert_eq!(answer.prompt_tokens.len(), 1, "the prompt is counted once");
    assert!(answer.choices.iter().all(|choice| choice.reason.is_some()), "every choice has an end");
    answer
}

/// Asks and reads.
pub async fn ask(engine: &MistralEngine, request: &Value) -> Answer {
    read(begin(engine, request).await.unwrap()).await
}

/// Waits for so many tokens.
pub async fn read_tokens(generation: &mut Generation, tokens: u32) {
    let mut read = 0;
    while read < tokens {
        match generation.events.recv().await {
            Some(Event::Tokens(tokens)) => read += tokens.count,
            Some(Event::Prompt(_)) => {}
            other => panic!("instead of tokens: {other:?}"),
        }
    }
}

/// The ids of one user message in the model's template.
pub async fn prompt_ids(engine: &MistralEngine, question: &str) -> Vec<u32> {
    let messages = TextMessages::new().add_message(TextMessageRole::User, question);
    engine.model().tokenize(Either::Left(messages), None, false, true, None).await.unwrap()
}

/// A request to mistralrs past the engine.
pub async fn submit_raw(
    engine: &MistralEngine,
    ids: Vec<u32>,
    processor: Option<std::sync::Arc<dyn CustomLogitsProcessor>>,
) -> mpsc::Receiver<Response> {
    let (sender, responses) = mpsc::channel(64);
    let mut sampling = SamplingParams::neutral();
    sampling.temperature = Some(0.0);
    sampling.max_len = Some(1);
    let request = NormalRequest {
        return_raw_logits: processor.is_none(),
        logits_processors: processor.map(|processor| vec![processor]),
        ..NormalRequest::new_simple(RequestMessage::CompletionTokens(ids), sampling, sender, 0, None, None)
    };
    assert!(matches!(request.constraint, Constraint::None));
    engine.model().inner().get_sender(None).unwrap().send(Request::Normal(Box::new(request))).await.unwrap();
    responses
}

/// Natural logarithms of all tokens' probabilities at every position of a text, by one forced prefill.
pub async fn forced_logprobs(engine: &MistralEngine, ids: Vec<u32>) -> Vec<Vec<f32>> {
    let mut responses = submit_raw(engine, ids, None).await;
    let Some(Response::Raw { logits_chunks, .. }) = responses.recv().await else { panic!("no logits") };
    let mut rows = Vec::new();
    for chunk in logits_chunks {
        let width = *chunk.dims().last().unwrap();
        let logits: Vec<f32> = chunk.flatten_all().unwrap().to_vec1().unwrap();
        rows.extend(logits.chunks(width).map(|row| {
            let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = row.iter().map(|logit| f64::from(logit - most).exp()).sum();
            row.iter().map(|logit| (f64::from(logit - most) - sum.ln()) as f32).collect()
        }));
    }
    rows
}
