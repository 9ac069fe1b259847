//! An OpenAI-compatible server beside this process: vLLM, SGLang, llama.cpp, Ollama, and whatever else speaks it.
//!
//! The client's body goes to it almost as it came (`request`), always streamed; what comes back (`sse`, `chunk`) becomes
//! events (`reading`). Such servers tell no token ids, so an answer cannot be continued elsewhere, and most of them
//! tell the number of tokens only at the end: until then a chunk with text counts as one.

mod calls;
mod chunk;
mod embedding;
mod reading;
mod refusal;
mod request;
mod sse;
mod working;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use async_trait::async_trait;
use http::{HeaderValue, header};
use lumbung_openapi::parameter::{Parameter, ParameterSet};
use lumbung_openapi::provider::Resume;
use reqwest::{Client, Response, Url, redirect};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::{Engine, EngineError, EngineModel, Event, Generation, Job};
use crate::gateway::causes;
use reading::Reading;
use working::{SOON, told};

/// Events that an answer may be ahead of whoever takes them.
const AHEAD: usize = 32;
/// A server that sends nothing for so long has forgotten the request.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(600);

/// Where the server is and what it can do.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Its base address, `http://127.0.0.1:8000/v1`.
    pub base: Url,
    /// The model's name there.
    pub model: String,
    /// Its API key, if it wants one.
    pub key: Option<String>,
    /// OpenAI's parameters that it honours.
    pub supported: ParameterSet,
    /// Tokens of prompt and completion together.
    pub context_length: u32,
    /// As OpenRouter names it.
    pub quantization: String,
}

/// The engine that asks another server.
pub struct OpenAiEngine {
    client: Client,
    upstream: Upstream,
    describe: EngineModel,
    /// Whether the last answer came as one document.
    streams_nothing: AtomicBool,
}

/// A model that the server lists.
#[derive(Clone, Debug, Deserialize)]
pub struct Listed {
    /// Its name.
    pub id: String,
    /// Tokens of prompt and completion together; vLLM and SGLang tell it.
    #[serde(default)]
    pub max_model_len: Option<u32>,
}

/// Parameters that vLLM, SGLang, llama.cpp and Ollama all honour. `n`, `logit_bias` and `tools` are not among them: a server
/// that ignores one would answer another question than was asked.
pub fn usual_parameters() -> ParameterSet {
    use Parameter::*;
    [MaxTokens, Temperature, TopP, Seed, Stop, FrequencyPenalty, PresencePenalty, Logprobs, TopLogprobs, Prompt]
        .into_iter()
        .collect()
}

/// Reads a list of parameter names. Those whose answers are more than text, reasoning and tool calls are not passed on.
pub fn parse_parameters(names: &[String]) -> anyhow::Result<ParameterSet> {
    use Parameter::*;
    let mut set = ParameterSet::default();
    for name in names {
        let parameter = Parameter::ALL.iter().copied().find(|parameter| parameter.name() == name);
        match parameter.with_context(|| format!("'{name}' is no parameter of OpenAI's"))? {
            Functions | FunctionCall | Modalities | Audio | Store | WebSearchOptions => {
                bail!("'{name}' cannot be offered: what is passed on is text, reasoning and tool calls")
            }
            parameter => set.insert(parameter),
        }
    }
    Ok(set)
}

impl OpenAiEngine {
    /// An engine that asks the server there. Nothing is sent yet.
    pub fn new(upstream: Upstream) -> anyhow::Result<Self> {
        if !matches!(upstream.base.scheme(), "http" | "https") {
            bail!("'{}' is no http address", upstream.base);
        }
        let client = Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .read_timeout(SILENCE_TIMEOUT)
            .tcp_nodelay(true)
            .redirect(redirect::Policy::none())
            // It is this machine's or its neighbour's; a proxy would only see prompts.
            .no_proxy()
            .build()
            .context("cannot set up TLS")?;
        let describe = EngineModel {
            weights_digest: String::new(),
            quantization: upstream.quantization.clone(),
            context_length: upstream.context_length,
            supported: upstream.supported,
            resume: Resume::None,
        };
        Ok(Self { client, upstream, describe, streams_nothing: AtomicBool::new(false) })
    }

    /// The server's address.
    pub fn base(&self) -> &Url {
        &self.upstream.base
    }

    /// The model's name there.
    pub fn model(&self) -> &str {
        &self.upstream.model
    }

    /// The models that the server lists.
    pub async fn list_models(&self) -> Result<Vec<Listed>, String> {
        #[derive(Deserialize)]
        struct List {
            data: Vec<Listed>,
        }
        let request = self.client.get(endpoint(&self.upstream.base, "models")).timeout(Duration::from_secs(10));
        let response = self.authorized(request).send().await.map_err(|error| causes(&error))?;
        let response = response.error_for_status().map_err(|error| causes(&error))?;
        let list: List = response.json().await.map_err(|error| causes(&error))?;
        Ok(list.data)
    }

    /// The context that the server was started with, where it tells.
    pub async fn ask_context_length(&self) -> anyhow::Result<u32> {
        let hint = "give the context that the server was started with, in tokens, by --context-length";
        let models =
            self.list_models().await.map_err(|why| anyhow!("{} cannot be asked: {why}; {hint}", self.base()))?;
        let listed = models.into_iter().find(|listed| listed.id == self.upstream.model);
        let context = listed.and_then(|listed| listed.max_model_len).filter(|length| *length > 0);
        context.with_context(|| format!("{} does not tell its context; {hint}", self.base()))
    }

    fn authorized(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.upstream.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }
}

/// An endpoint below the base, whether or not that ends in a slash.
fn endpoint(base: &Url, name: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{name}", base.path().trim_end_matches('/')));
    url
}

#[async_trait]
impl Engine for OpenAiEngine {
    fn describe(&self) -> &EngineModel {
        &self.describe
    }

    async fn generate(&self, job: Job<'_>) -> Result<Generation, EngineError> {
        if let Some(wish) = &job.request.embedding {
            return self.embed(&job, wish).await;
        }
        let body = request::body(&job, &self.upstream.model, self.upstream.context_length)?;
        let name = if job.request.prompts.is_some() { "completions" } else { "chat/completions" };
        let request = self
            .client
            .post(endpoint(&self.upstream.base, name))
            .header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(header::ACCEPT, HeaderValue::from_static("text/event-stream"))
            .body(body);
        // Dropped with the job, which takes the request back.
        let mut asking = Box::pin(ask(self.authorized(request)));
        // A server that streams nothing answers when it is done.
        let is_streamed = request::is_streamed(job.request);
        let begun = match !is_streamed || self.streams_nothing.load(Ordering::Relaxed) {
            true => tokio::time::timeout(SOON, &mut asking).await.ok().transpose()?,
            false => Some((&mut asking).await?),
        };
        if let Some((_, is_document)) = &begun
            && is_streamed
        {
            self.streams_nothing.store(*is_document, Ordering::Relaxed);
        }
        let (sender, events) = mpsc::channel(AHEAD);
        let reading = Reading::new(job.id, job.request.answers(), job.max_completion_tokens);
        tokio::spawn(async move {
            let answer = async {
                let begun = match begun {
                    Some(begun) => Ok(begun),
                    None => told(asking, &sender).await,
                };
                match begun {
                    Ok((response, is_document)) => reading.run(response, is_document, &sender).await,
                    Err(error) => drop(sender.send(Event::Failed(error)).await), // nobody listens: nobody is to be told
                }
            };
            tokio::select! {
                () = sender.closed() => {}
                () = answer => {}
            }
        });
        Ok(Generation { events })
    }
}

/// Asks, and waits for the head of the answer: with it, whether that is one document. Some servers, and proxies before them,
/// stream nothing whatever they are asked.
async fn ask(request: reqwest::RequestBuilder) -> Result<(Response, bool), EngineError> {
    let response = request.send().await.map_err(|error| EngineError::Failed(causes(&error)))?;
    if !response.status().is_success() {
        return Err(refusal::read(response).await);
    }
    let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_document = content_type.is_some_and(|kind| kind.starts_with("application/json"));
    Ok((response, is_document))
}
