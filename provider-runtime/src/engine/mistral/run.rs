//! Getting mistralrs to run a choice, and to go on when its thread has died.

use std::sync::Arc;
use std::time::Duration;

use either::Either;
use mistralrs::{
    Constraint, CustomLogitsProcessor, Model, NormalRequest, Request, RequestMessage, Response, SamplingParams,
    StopTokens, Tensor,
};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::choice::Choice;
use crate::engine::Event;

/// A panic on mistralrs' thread ends every sequence on it; the next request starts a new thread, once the old one is gone.
const ATTEMPTS: usize = 2;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(100);
/// How often it is looked whether mistralrs has ended an answer by itself, or broken it off.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What mistralrs sends beside a chunk per token: an error at most.
const RESPONSES_BESIDE_CHUNKS: usize = 8;

/// mistralrs, with a bounded number of sequences at once.
pub struct Runner {
    model: Model,
    seats: Arc<Semaphore>,
    /// The model's ends, told to mistralrs with each request so that the two agree.
    stop_tokens: Vec<u32>,
}

/// A choice as mistralrs holds it: its seat is free when mistralrs has let go of the sequence, which after a cancel is a
/// step later than for the job.
struct Seated {
    choice: Arc<Choice>,
    _seat: OwnedSemaphorePermit,
}

impl CustomLogitsProcessor for Seated {
    fn apply(&self, logits: &Tensor, context: &[u32]) -> mistralrs::Result<Tensor> {
        self.choice.apply(logits, context)
    }
}

/// How mistralrs' work for a choice ended.
enum Outcome {
    Over,
    Broken(String),
}

/// The engine's thread died twice.
#[derive(Debug, thiserror::Error)]
#[error("the engine's thread died")]
pub struct TokenizeError;

impl Runner {
    /// Runs at most `seats` sequences at once.
    pub fn new(model: Model, seats: usize, stop_tokens: Vec<u32>) -> Self {
        Self { model, seats: Arc::new(Semaphore::new(seats)), stop_tokens }
    }

    /// As many as may run at once; whoever runs one has one of them.
    pub fn seats(&self) -> &Semaphore {
        &self.seats
    }

    /// mistralrs itself.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The ids of a prompt. No special tokens are added to what a template has written, as in transformers and vLLM:
    /// mistralrs' own chat requests begin a Llama prompt with two BOS. A prompt without a template gets them.
    pub async fn tokenize(self: &Arc<Self>, prompt: String, add_special: bool) -> Result<Vec<u32>, TokenizeError> {
        for attempt in 1..=ATTEMPTS {
            let (runner, prompt) = (Arc::clone(self), prompt.clone());
            // A task of its own: mistralrs' thread panics if the one who asked has gone away.
            let asked = tokio::spawn(async move {
                runner.model.tokenize(Either::Right(prompt), None, add_special, true, None).await
            });
            match asked.await {
                Ok(Ok(tokens)) => return Ok(tokens),
                Ok(Err(error)) => tracing::warn!(%error, attempt, "the engine did not tokenize"),
                Err(error) => tracing::warn!(%error, attempt, "the engine did not tokenize"),
            }
            tokio::time::sleep(BETWEEN_ATTEMPTS).await;
        }
        Err(TokenizeError)
    }

    /// Runs choices in their order, as many at once as there are free seats, until all are over or `events` is closed. One
    /// that another provider has brought to its end is over already.
    pub async fn run_all(self: Arc<Self>, choices: Vec<Arc<Choice>>, events: mpsc::Sender<Event>) {
        for choice in choices.into_iter().filter(|choice| !choice.is_over()) {
            let Some(seat) = self.seat(&events).await else { return };
            tokio::spawn(Arc::clone(&self).run(choice, events.clone(), seat));
        }
    }

    /// Waits for a free seat, unless nobody wants the answer any more.
    async fn seat(&self, events: &mpsc::Sender<Event>) -> Option<OwnedSemaphorePermit> {
        tokio::select! {
            () = events.closed() => None,
            // The semaphore is never closed.
            seat = Arc::clone(&self.seats).acquire_owned() => seat.ok(),
        }
    }

    async fn run(self: Arc<Self>, choice: Arc<Choice>, events: mpsc::Sender<Event>, first_seat: OwnedSemaphorePermit) {
        let mut seat = first_seat;
        for attempt in 1..=ATTEMPTS {
            let reason = match self.attempt(&choice, &events, seat).await {
                Outcome::Over => return,
                Outcome::Broken(reason) => reason,
            };
            tracing::warn!(%reason, attempt, "the engine broke off an answer");
            if attempt == ATTEMPTS {
                return choice.fail(reason);
            }
            tokio::time::sleep(BETWEEN_ATTEMPTS).await;
            match self.seat(&events).await {
                Some(free) => seat = free,
                None => return,
            }
        }
    }

    /// One request to mistralrs for all that is still to come of a choice.
    async fn attempt(&self, choice: &Arc<Choice>, events: &mpsc::Sender<Event>, seat: OwnedSemaphorePermit) -> Outcome {
        let mut responses = match self.submit(choice, seat).await {
            Ok(responses) => responses,
            Err(reason) => return Outcome::Broken(reason),
        };
        // What it sends for each token is of no use here: to be woken for it would cost a token more than all the rest.
        loop {
            tokio::select! {
                () = choice.over() => return Outcome::Over,
                // The choice sees it too, at its next step; without responses to send to, mistralrs also stops by itself.
                () = events.closed() => return Outcome::Over,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if let Some(outcome) = outcome_of(&mut responses, choice) {
                return outcome;
            }
        }
    }

    async fn submit(
        &self,
        choice: &Arc<Choice>,
        seat: OwnedSemaphorePermit,
    ) -> Result<mpsc::Receiver<Response>, String> {
        let (context, rest) = choice.rest();
        let (sender, responses) = mpsc::channel(rest + RESPONSES_BESIDE_CHUNKS);
        let mut sampling = SamplingParams::neutral();
        // Greedy over the one-hot logits that the choice returns.
        sampling.temperature = Some(0.0);
        sampling.max_len = Some(rest);
        sampling.stop_toks = Some(StopTokens::Ids(self.stop_tokens.clone()));
        let request = Request::Normal(Box::new(NormalRequest {
            messages: RequestMessage::CompletionTokens(context),
            sampling_params: sampling,
            response: sender,
            return_logprobs: false,
            // Dropping the receiver cancels a stream; with anything else it makes the engine's thread panic later.
            is_streaming: true,
            id: 0,
            constraint: Constraint::None,
            suffix: None,
            tools: None,
            tool_choice: None,
            logits_processors: Some(vec![Arc::new(Seated { choice: Arc::clone(choice), _seat: seat })]),
            return_raw_logits: false,
            web_search_options: None,
            model_id: None,
            truncate_sequence: false,
        }));
        let engine = self.model.inner().get_sender(None).map_err(|error| error.to_string())?;
        engine.send(request).await.map_err(|_| "the engine's thread has died".to_owned())?;
        Ok(responses)
    }
}

/// What mistralrs' responses so far say of the end; `None` where it is still to come.
fn outcome_of(responses: &mut mpsc::Receiver<Response>, choice: &Choice) -> Option<Outcome> {
    loop {
        let response = responses.try_recv();
        if choice.is_over() {
            return Some(Outcome::Over);
        }
        let reason = match response {
            Ok(Response::CompletionChunk(chunk)) => {
                if chunk.choices.iter().all(|choice| choice.finish_reason.is_none()) {
                    continue;
                }
                choice.stop();
                return Some(Outcome::Over);
            }
            Ok(Response::InternalError(error) | Response::ValidationError(error)) => error.to_string(),
            Ok(Response::CompletionModelError(reason, _) | Response::ModelError(reason, _)) => reason,
            Ok(_) => "a response that was not asked for".to_owned(),
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => "the engine's thread died".to_owned(),
        };
        return Some(Outcome::Broken(reason));
    }
}
