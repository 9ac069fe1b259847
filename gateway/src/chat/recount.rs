//! Counting again what a provider says it has made, with the model's own tokenizer: every job of a newcomer, and a sample
//! of everyone else's that nobody outside can foresee. The lower figure stands.
//!
//! It is done between the last frame and the settlement, on threads of its own, and waited for only so long: the client's
//! tail names what is charged. A count that comes too late changes nothing, and the books say so.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use lumbung_openapi::endpoint::Endpoint;
use lumbung_openapi::parameter::{Parameter, ParameterSet};
use lumbung_openapi::receipt::{Recount, RecountOutcome};
use lumbung_openapi::ticket::Ticket;
use serde::de::IgnoredAny;
use sha2::Sha256;
use tokio::sync::Semaphore;
use tracing::warn;

use super::admit::Admitted;
use super::attempt::Attempt;
use super::relay::Relayed;
use super::transcript::Transcript;
use super::{Gateway, clock};
use crate::domain::provider::Standing;
use crate::domain::settlement::{Tokens, shares_of};
use crate::domain::tokenizer::{ModelTokenizer, Said};

/// How long a newcomer's job waits to be counted again. Only an overloaded gateway, or megabytes of text, come near it.
const NEWCOMERS_WAIT: Duration = Duration::from_secs(2);
/// How long everyone else's waits.
const OTHERS_WAIT: Duration = Duration::from_millis(250);
/// Members outside OpenAI's specification that change what a chat template writes, in ways that are not rendered here.
const TEMPLATE_MEMBERS: [&str; 6] =
    ["add_special_tokens", "chat_template", "documents", "reasoning", "template", "think"];

/// The tokenizers of the catalogue's models, and who is counted again.
pub struct Recounter {
    /// Fresh for each process, so that no provider knows which of its jobs are in the sample.
    secret: Hmac<Sha256>,
    /// Of a trusted provider's jobs, in basis points.
    rate_bps: u16,
    /// By the catalogue's model id.
    models: ArcSwap<HashMap<String, Arc<ModelTokenizer>>>,
    /// Counts at a time: half the machine, so that streams go on beside them.
    workers: Arc<Semaphore>,
}

/// An attempt that will be counted again, while its answer goes by.
#[derive(Clone)]
pub struct Hearing {
    tokenizer: Arc<ModelTokenizer>,
    /// What the client has been told so far, by earlier attempts too.
    pub transcript: Transcript,
    patience: Duration,
}

/// What of an attempt is counted.
#[derive(Clone, Copy, Debug)]
struct What {
    /// It is paid for the prompt.
    has_prompt: bool,
    /// The answer ends with it.
    is_last: bool,
}

/// What was found; `None` where there was nothing to count by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Found {
    prompt: Option<u32>,
    completion: Option<u32>,
}

impl Recounter {
    /// Knows no tokenizer yet.
    pub fn new(rate_bps: u16) -> Result<Self, getrandom::Error> {
        let mut secret = [0; 64]; // SHA-256's block
        getrandom::fill(&mut secret)?;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Self {
            secret: Hmac::new(&secret.into()),
            rate_bps,
            models: ArcSwap::default(),
            workers: Arc::new(Semaphore::new(cores.div_ceil(2))),
        })
    }

    /// Takes over which model has which tokenizer.
    pub fn set_models(&self, models: HashMap<String, Arc<ModelTokenizer>>) {
        self.models.store(Arc::new(models));
    }

    /// The tokenizer of a model of the catalogue.
    pub fn tokenizer(&self, model: &str) -> Option<Arc<ModelTokenizer>> {
        self.models.load().get(model).cloned()
    }

    /// Counts on the threads that are there for it; `None` if that fails.
    pub async fn count_with<T: Send + 'static>(&self, count: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let turn = self.workers.clone().acquire_owned().await.ok()?;
        let counting = tokio::task::spawn_blocking(move || {
            let _turn = turn; // kept by a count that nobody waits for any more
            count()
        });
        counting.await.ok()
    }

    /// A tokenizer that is loaded already, by its digest.
    pub fn loaded(&self, digest: &str) -> Option<Arc<ModelTokenizer>> {
        self.models.load().values().find(|tokenizer| tokenizer.digest() == digest).cloned()
    }

    /// Whether this attempt is to be counted again. All that an attempt that is not pays for this: a look-up and a hash.
    pub fn choose(&self, ticket: &Ticket, standing: Standing, endpoint: Endpoint) -> Option<Hearing> {
        let models = self.models.load();
        let tokenizer = models.get(&ticket.model)?;
        let patience = match standing {
            Standing::Trusted if !self.is_sampled(&ticket.job, ticket.attempt) => return None,
            Standing::Trusted => OTHERS_WAIT,
            Standing::Newcomer | Standing::Banned => NEWCOMERS_WAIT,
        };
        Some(Hearing { tokenizer: tokenizer.clone(), transcript: Transcript::new(endpoint), patience })
    }

    fn is_sampled(&self, job: &str, attempt: u32) -> bool {
        let mut hash = self.secret.clone();
        hash.update(job.as_bytes());
        hash.update(&attempt.to_be_bytes());
        let hash: [u8; 32] = hash.finalize().into_bytes().into();
        let drawn = u64::from_be_bytes([hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7]]);
        drawn % 10_000 < u64::from(self.rate_bps)
    }

    async fn count(&self, job: &Admitted, hearing: Hearing, what: What) -> (Found, RecountOutcome) {
        let Hearing { tokenizer, transcript, patience } = hearing;
        let (endpoint, body, parameters) = (job.endpoint, job.normalized.clone(), job.wish.parameters);
        let counting = self.count_with(move || find(&tokenizer, endpoint, &body, parameters, transcript, what));
        match tokio::time::timeout(patience, counting).await {
            Ok(Some(found)) if found.completion.is_some() => (found, RecountOutcome::Counted),
            Ok(Some(found)) => (found, RecountOutcome::NoText),
            Ok(None) => (Found::default(), RecountOutcome::Failed),
            Err(_) => (Found::default(), RecountOutcome::Late),
        }
    }
}

/// Counts again what is to be counted again, before the job is settled. Where several providers made one answer, its text is
/// counted as a whole, for where one left off says nothing about where a token ends.
pub async fn recount(gateway: &Gateway, job: &Admitted, relayed: &mut Relayed) {
    let mut counted = Vec::new();
    let costs = |attempt: &Attempt| attempt.charged && attempt.claimed() != Tokens::default();
    // Only the answer's end may be that of a call begun: whoever went on from an earlier cut has shown what was begun there.
    let last = relayed.attempts.iter().rposition(|attempt| attempt.hearing.is_some() && costs(attempt));
    for (place, attempt) in relayed.attempts.iter_mut().enumerate().filter(|(_, attempt)| costs(attempt)) {
        let Some(hearing) = attempt.hearing.take() else { continue };
        let claimed = attempt.claimed();
        let tokenizer = hearing.tokenizer.digest().to_owned();
        let what = What { has_prompt: attempt.ticket.max_prompt_tokens > 0, is_last: Some(place) == last };
        let (found, outcome) = gateway.recounter.count(job, hearing, what).await;
        counted.push((place, claimed, tokenizer, found, outcome));
    }
    let claims: Vec<u32> = counted.iter().map(|(_, claimed, ..)| claimed.completion).collect();
    let so_far: Vec<Option<u32>> = counted.iter().map(|(.., found, _)| found.completion).collect();
    let shares = shares_of(&claims, &so_far);
    for ((place, claimed, tokenizer, found, outcome), share) in counted.into_iter().zip(shares) {
        let attempt = &mut relayed.attempts[place];
        let recount = Recount {
            outcome,
            tokenizer,
            claimed_prompt_tokens: claimed.prompt,
            claimed_completion_tokens: claimed.completion,
            prompt_tokens: found.prompt,
            completion_tokens: share,
        };
        report(attempt, &recount);
        let lower = recount.is_lower() && outcome == RecountOutcome::Counted;
        job.model.health.meter.recounts.count(if lower { "lower" } else { outcome.as_str() });
        attempt.recount = Some(recount);
    }
}

fn report(attempt: &Attempt, recount: &Recount) {
    let Ticket { job, attempt: number, provider, model, .. } = &attempt.ticket;
    match recount.outcome {
        RecountOutcome::Counted | RecountOutcome::NoText if recount.is_lower() => warn!(
            job,
            attempt = number,
            provider,
            model,
            claimed_prompt_tokens = recount.claimed_prompt_tokens,
            claimed_completion_tokens = recount.claimed_completion_tokens,
            prompt_tokens = recount.prompt_tokens,
            completion_tokens = recount.completion_tokens,
            "a provider claims more tokens than its answer has"
        ),
        RecountOutcome::Counted | RecountOutcome::NoText => {}
        RecountOutcome::Late | RecountOutcome::Failed => {
            warn!(
                job,
                attempt = number,
                provider,
                model,
                outcome = recount.outcome.as_str(),
                "tokens not counted again"
            );
        }
    }
}

/// Whether the model's template alone makes the prompt.
fn is_rendered(parameters: ParameterSet, writes_tools: bool) -> bool {
    use Parameter::*;
    let rendered = [
        MaxTokens,
        Temperature,
        TopP,
        Seed,
        Stop,
        N,
        FrequencyPenalty,
        PresencePenalty,
        LogitBias,
        Logprobs,
        TopLogprobs,
        ResponseFormat,
        ReasoningEffort,
        Prompt,
        Echo,
        Input,
        Dimensions,
    ];
    let of_tools = [Tools, ToolChoice, ParallelToolCalls];
    let of_tools = of_tools.into_iter().filter(|_| writes_tools);
    parameters.missing_from(rendered.into_iter().chain(of_tools).collect()).is_empty()
}

/// The counting itself.
fn find(
    tokenizer: &ModelTokenizer,
    endpoint: Endpoint,
    body: &Bytes,
    parameters: ParameterSet,
    transcript: Transcript,
    what: What,
) -> Found {
    let Ok(request) = endpoint.parse(body) else { return Found::default() }; // it was read once before
    let has_tools = parameters.contains(Parameter::Tools) || parameters.contains(Parameter::Functions);
    let callable = request.tools.list.iter().filter(|_| what.is_last && request.tools.may_be_called());
    let longest = callable.map(|tool| &*tool.name).max_by_key(|name| name.len());
    let count = |mut said: Said| {
        if !has_tools {
            said.call_count = 0; // calls that nobody asked for have nothing around them
        }
        said.callable = longest.map(str::to_owned);
        tokenizer.completion_tokens(&said, &request.stop)
    };
    let completion = match endpoint {
        Endpoint::Embeddings => Some(0),
        // The prompt's text stands before the answer's, and where one ends the other's tokens may begin.
        _ if parameters.contains(Parameter::Echo) => None,
        // Answers that are left out were made too.
        _ if parameters.contains(Parameter::BestOf) => None,
        _ => transcript
            .into_choices()
            .and_then(|choices| choices.into_iter().map(count).try_fold(0u32, |sum, tokens| sum.checked_add(tokens?))),
    };
    let is_rendered = is_rendered(parameters, tokenizer.writes_tools()) && !changes_the_template(body);
    let prompt = if what.has_prompt && is_rendered {
        tokenizer.prompt_tokens(&request, clock::unix_secs() as i64)
    } else {
        None
    };
    Found { prompt, completion }
}

fn changes_the_template(body: &[u8]) -> bool {
    let members: Result<HashMap<String, IgnoredAny>, _> = serde_json::from_slice(body);
    members.map_or(true, |members| TEMPLATE_MEMBERS.iter().any(|name| members.contains_key(*name)))
}

#[cfg(test)]
mod tests {
    use lumbung_openapi::frame::{Frame, FrameKind};

    use super::*;
    use crate::domain::ids::JobId;
    use crate::domain::tokenizer::tests::padi;

    #[test]
    fn the_sample_is_the_share_that_was_asked_for_and_its_own_for_each_process() {
        let jobs: Vec<String> = (0..20_000).map(|_| JobId::fresh().to_string()).collect();
        let sample =
            |recounter: &Recounter| -> Vec<bool> { jobs.iter().map(|job| recounter.is_sampled(job, 1)).collect() };
        let [one, other] = [(); 2].map(|()| Recounter::new(500).expect("entropy"));
        let chosen = sample(&one).into_iter().filter(|chosen| *chosen).count();
        assert!((800..1200).contains(&chosen), "{chosen} of 20,000 at 5 %"); // six standard deviations
        assert_eq!(sample(&one), sample(&one), "a job is drawn once");
        assert_ne!(sample(&one), sample(&other));
        let none = Recounter::new(0).expect("entropy");
        assert!(sample(&none).into_iter().all(|chosen| !chosen));
        let all = Recounter::new(10_000).expect("entropy");
        assert!(sample(&all).into_iter().all(|chosen| chosen));
    }

    #[test]
    fn prompts_that_a_template_alone_does_not_make_are_left_alone() {
        let rendered =
            |name: &str, writes_tools| is_rendered(ParameterSet::from_names(["temperature", name]), writes_tools);
        assert!(rendered("stop", false) && rendered("reasoning_effort", false));
        assert!(rendered("tools", true) && rendered("tool_choice", true));
        assert!(!rendered("tools", false), "what a server makes of tools without the template is its own");
        assert!(!rendered("image_url", true));
        assert!(changes_the_template(br#"{"model":"m","chat_template":"{{ messages }}"}"#));
        assert!(!changes_the_template(br#"{"model":"m","messages":[]}"#));
    }

    /// Whoever goes on with an answer shows what had been begun: only at its end may a call be out of sight.
    #[test]
    fn a_call_begun_is_allowed_for_at_the_end_of_an_answer_alone() {
        let tokenizer = ModelTokenizer::new(&padi()).expect("a tokenizer");
        let tool = r#"{"type":"function","function":{"name":"harvest"}}"#;
        let body = |more: &str| {
            let body =
                format!(r#"{{"model":"m","messages":[{{"role":"user","content":"x"}}],"tools":[{tool}]{more}}}"#);
            Bytes::from(body)
        };
        let found = |more: &str, is_last: bool| {
            let mut transcript = Transcript::new(Endpoint::Chat);
            let cut = r#"data: {"choices":[{"index":0,"delta":{"content":"Rice"},"finish_reason":"length"}]}"#;
            let payload = Bytes::from(format!("{cut}\n\n"));
            transcript.take(&Frame { kind: FrameKind::Delta, choice: 0, tokens: 1, ids: Bytes::new(), payload });
            let parameters = ParameterSet::from_names(["tools"]);
            let what = What { has_prompt: false, is_last };
            find(&tokenizer, Endpoint::Chat, &body(more), parameters, transcript, what).completion.expect("a count")
        };
        let shown = found("", false);
        assert!(shown < 5, "{shown} tokens of one word");
        assert!(found("", true) > shown + 20);
        assert_eq!(found(r#","tool_choice":"none""#, true), shown);
    }
}
