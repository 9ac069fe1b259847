//! One choice of an answer, on the engine's thread: draws each token, makes text of it, finds its end, tells the job.
//!
//! mistralrs calls this once per step with the logits, and gets one-hot logits back, so that it picks the very token
//! drawn here. What it then makes of that token (chunks, text, stop strings, counts) is not used: see the tests named
//! `defect_…` for why.
//!
//! An answer that another provider began is *replayed*: every token that it delivered goes the way of a token drawn here
//! ([`Choice::accept`]), so that whatever depends on the tokens so far is as it was there.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lumbung_openapi::reply::{TokenLogprob, TopLogprob};
use mistralrs::Tensor;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::guide::Guide;
use super::parts::{Begun, Parts, Place, Reader};
use super::sampling::{Drawn, Logprobs, Sampler};
use super::vocabulary::Vocabulary;
use crate::engine::text::Utf8Decoder;
use crate::engine::{EngineError, Event, FinishReason, History, Tokens};

/// One choice of an answer.
pub struct Choice {
    number: u8,
    prompt: Arc<[u32]>,
    /// What another provider has delivered of it.
    history: History,
    max_tokens: u32,
    markers: Arc<[u32]>,
    vocabulary: Arc<Vocabulary>,
    generated_tokens: Arc<AtomicU64>,
    /// Cancelled once the choice is over.
    over: CancellationToken,
    state: Mutex<State>,
}

/// Where events go for as long as a choice goes on.
struct Telling {
    events: mpsc::Sender<Event>,
    _over: DropGuard,
}

struct State {
    /// `None` once the choice is over, so that the channel closes when all are.
    telling: Option<Telling>,
    tokens: Vec<u32>,
    sampler: Sampler,
    decoder: Utf8Decoder,
    reader: Reader,
    /// Keeps the answer to the form that was asked for.
    guide: Option<Guide>,
    /// Whether a first space is still to be dropped.
    strip_space: bool,
}

/// What every choice of a job has in common.
#[derive(Clone)]
pub struct ChoiceOf {
    /// Token ids, template included.
    pub prompt: Arc<[u32]>,
    /// The most tokens of each choice; at least 1.
    pub max_tokens: u32,
    /// Control tokens that are tags to the reader.
    pub markers: Arc<[u32]>,
    /// The model's.
    pub vocabulary: Arc<Vocabulary>,
    /// The engine's counter.
    pub generated_tokens: Arc<AtomicU64>,
    /// Has room for everything that all choices can ever send.
    pub events: mpsc::Sender<Event>,
}

impl Choice {
    /// Choice `number` of a job, from its beginning or from where another provider's `history` ends.
    pub fn new(
        of: ChoiceOf,
        number: u8,
        sampler: Sampler,
        reader: Reader,
        guide: Option<Guide>,
        history: History,
    ) -> Self {
        let over = CancellationToken::new();
        let state = State {
            telling: Some(Telling { events: of.events, _over: over.clone().drop_guard() }),
            tokens: Vec::new(),
            sampler,
            decoder: Utf8Decoder::default(),
            reader,
            guide,
            strip_space: of.vocabulary.strips_first_space(),
        };
        let choice = Self {
            number,
            prompt: of.prompt,
            history,
            max_tokens: of.max_tokens,
            markers: of.markers,
            vocabulary: of.vocabulary,
            generated_tokens: of.generated_tokens,
            over,
            state: Mutex::new(state),
        };
        choice.replay();
        choice
    }

    /// Takes what was delivered, where the logits are not needed for it; where log-probabilities are to be told, the model
    /// is asked for each token again, and [`Self::token_at`] gives it the one that was delivered.
    fn replay(&self) {
        let mut state = self.lock();
        if !state.sampler.tells_logprobs() {
            for &token in &self.history.ids {
                if state.telling.is_some() {
                    self.accept(&mut state, Drawn { token, logprobs: None });
                }
            }
            // mistralrs had ended it by itself (see `stop`), which these tokens alone do not tell.
            if self.history.finished && state.telling.is_some() {
                let reason = state.stop_reason();
                state.end(Event::Finish { choice: self.number, reason });
            }
        }
    }

    /// A step of mistralrs: its logits, and prompt and answer so far. Never an error, which would leave the rest of the
    /// batch without the tokens that it has already drawn.
    pub fn apply(&self, logits: &Tensor, context: &[u32]) -> mistralrs::Result<Tensor> {
        let values: Vec<f32> = logits.to_vec1()?;
        let over = || self.vocabulary.special_ends().first().copied();
        // Once over, an end token makes mistralrs drop the sequence with this step.
        let token = self.token_at(context.len(), &values).or_else(over).unwrap_or_default() as usize;
        let mut one_hot = vec![0.0f32; values.len()];
        if let Some(chosen) = one_hot.get_mut(token) {
            *chosen = 1.0;
        }
        Tensor::from_vec(one_hot, values.len(), logits.device())
    }

    /// Whether it has finished, failed or been cancelled.
    pub fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// Waits for that.
    pub async fn over(&self) {
        self.over.cancelled().await;
    }

    /// Prompt and answer so far, and how many tokens may still come: where an engine that died goes on.
    pub fn rest(&self) -> (Vec<u32>, usize) {
        let state = self.lock();
        let context = [&*self.prompt, &state.tokens].concat();
        (context, (self.max_tokens as usize).saturating_sub(state.tokens.len()))
    }

    /// mistralrs ended the answer by itself: it knows a control token as an end that the model's files do not name.
    pub fn stop(&self) {
        let mut state = self.lock();
        let Parts { reasoning, text, .. } = state.flush();
        let held = Tokens { choice: self.number, reasoning, text, ..Tokens::default() };
        if held.shows() {
            state.send(Event::Tokens(held));
        }
        let reason = state.stop_reason();
        state.end(Event::Finish { choice: self.number, reason });
    }

    /// The engine cannot go on.
    pub fn fail(&self, reason: String) {
        self.lock().end(Event::Failed(EngineError::Failed(reason)));
    }

    /// A panic while it was held can only have been in this file, and left a consistent state: every step is a push.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The token after `length` tokens of prompt and answer; `None` if the choice is over.
    fn token_at(&self, length: usize, logits: &[f32]) -> Option<u32> {
        let mut state = self.lock();
        // A failing neighbour in the batch makes mistralrs draw the same position twice: it gets the same token.
        let position = length.checked_sub(self.prompt.len())?;
        if let Some(token) = state.tokens.get(position) {
            return Some(*token);
        }
        if state.telling.as_ref().is_none_or(|telling| telling.events.is_closed()) {
            state.telling = None;
            return None;
        }
        let drawn = match self.history.ids.get(position) {
            Some(&delivered) => Ok(state.sampler.forced(logits, delivered)),
            None if self.history.finished => {
                let reason = state.stop_reason();
                state.end(Event::Finish { choice: self.number, reason });
                return None;
            }
            None => state.draw(logits, position as u32),
        };
        match drawn {
            Ok(drawn) => {
                self.generated_tokens.fetch_add(1, Ordering::Relaxed);
                Some(self.accept(&mut state, drawn))
            }
            Err(reason) => {
                state.end(Event::Failed(EngineError::Failed(reason)));
                None
            }
        }
    }

    /// What every token of the answer goes through, drawn here or by another provider: all that depends on the tokens so
    /// far changes here and nowhere else, and the job is told. Every token counts, that which ends the answer too: as in
    /// vLLM's usage, and it cost a step like any other.
    fn accept(&self, state: &mut State, Drawn { token, logprobs }: Drawn) -> u32 {
        state.tokens.push(token);
        state.sampler.accept(token);

        let was_reasoning = state.reader.place() == Place::Reasoning;
        let is_end = self.vocabulary.is_end(token);
        let read = match is_end {
            true => Ok(Parts { stopped: true, ..Parts::default() }),
            false => state.read(token, self.shown(token)),
        };
        let mut parts = match read {
            Ok(parts) => parts,
            Err(reason) => {
                state.end(Event::Failed(EngineError::Failed(reason.to_owned())));
                return token;
            }
        };
        let cut = parts.stopped && !is_end;
        let is_complete = state.guide.as_ref().is_some_and(Guide::is_complete);
        let reason = match (parts.stopped || is_complete, state.tokens.len() >= self.max_tokens as usize) {
            (true, _) => Some(state.stop_reason()),
            (false, true) => Some(FinishReason::Length),
            (false, false) => None,
        };
        if reason.is_some() && !cut {
            let Parts { reasoning, text, .. } = state.flush();
            parts.reasoning += &reasoning;
            parts.text += &text;
        }
        let is_reasoning = was_reasoning || state.reader.place() == Place::Reasoning;
        let logprobs = logprobs.map(|logprobs| self.describe(token, logprobs));
        state.send(Event::Tokens(Tokens {
            choice: self.number,
            count: 1,
            reasoning_count: is_reasoning.into(),
            ids: vec![token],
            reasoning: parts.reasoning,
            text: parts.text,
            calls: parts.calls,
            logprobs: logprobs.into_iter().collect(),
            ..Tokens::default()
        }));
        if let Some(reason) = reason {
            state.end(Event::Finish { choice: self.number, reason });
        }
        token
    }

    /// What a token shows, a tag's name included.
    fn shown(&self, token: u32) -> std::borrow::Cow<'_, [u8]> {
        match self.markers.contains(&token) {
            true => self.vocabulary.name(token).into_owned().into_bytes().into(),
            false => self.vocabulary.shown(token).into(),
        }
    }

    /// A control token has a name and no bytes, so that the bytes of an answer's tokens make up its text.
    fn describe(&self, token: u32, logprobs: Logprobs) -> TokenLogprob {
        let bytes = |token| self.vocabulary.shown(token).to_vec();
        let name = |token| self.vocabulary.name(token).into_owned();
        let top = |(token, logprob)| TopLogprob { token: name(token), logprob, bytes: bytes(token) };
        TokenLogprob {
            token: name(token),
            logprob: logprobs.drawn,
            bytes: bytes(token),
            top_logprobs: logprobs.top.into_iter().map(top).collect(),
        }
    }
}

impl State {
    /// The next token, or why there is none.
    fn draw(&mut self, logits: &[f32], position: u32) -> Result<Drawn, String> {
        let place = self.reader.place();
        let allowed = self.guide.as_mut().map(|guide| guide.allowed(place)).transpose();
        let allowed = allowed.map_err(|lost| lost.to_string())?.flatten();
        self.sampler.draw(logits, position, allowed.as_ref()).map_err(|error| error.to_string())
    }

    /// Takes a token's bytes, and tells the guide what has begun with them.
    fn read(&mut self, token: u32, bytes: std::borrow::Cow<'_, [u8]>) -> Result<Parts, &'static str> {
        const ASTRAY: &str = "the answer has left its form";
        if self.guide.as_mut().is_some_and(|guide| !guide.accept(token)) {
            return Err(ASTRAY);
        }
        let mut bytes = &*bytes;
        if self.strip_space && !bytes.is_empty() {
            self.strip_space = false;
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        let text = self.decoder.push(bytes);
        let mut parts = self.reader.push(&text);
        match self.settle(&mut parts) {
            true => Ok(parts),
            false => Err(ASTRAY),
        }
    }

    /// Tells the guide what has begun, until nothing does. `false` if that is not of the form.
    fn settle(&mut self, parts: &mut Parts) -> bool {
        while let Some((begun, text)) = parts.begun.take() {
            let bytes = [text.as_bytes(), self.decoder.incomplete()].concat();
            let is_right = self.guide.as_mut().is_none_or(|guide| guide.begin(begun, &bytes));
            if !is_right && begun == Begun::Answer {
                return false;
            }
            self.reader.decide(is_right, parts);
        }
        true
    }

    /// What was held back, at the end. The replacement of a cut character can complete a stop sequence too.
    fn flush(&mut self) -> Parts {
        let mut parts = self.reader.push(self.decoder.finish());
        // The answer is over, whatever its form.
        self.settle(&mut parts);
        if !parts.stopped {
            let Parts { reasoning, text, .. } = self.reader.finish();
            parts.reasoning += &reasoning;
            parts.text += &text;
        }
        parts
    }

    /// Why an answer ends that has come to an end of its own.
    fn stop_reason(&self) -> FinishReason {
        match (self.reader.has_called(), self.reader.stopped_by()) {
            (true, _) => FinishReason::ToolCalls,
            (false, Some(number)) => FinishReason::StopSequence(number as u8),
            (false, None) => FinishReason::Stop,
        }
    }

    /// The channel has room for all that the job can make, so a slow reader stalls nobody. A reader who is gone ends it.
    fn send(&mut self, event: Event) {
        let Some(telling) = &self.telling else { return };
        match telling.events.try_send(event) {
            Ok(()) => {}
            Err(TrySendError::Closed(_)) => self.telling = None,
            Err(TrySendError::Full(_)) => {
                tracing::error!("a job made more events than its channel was made for");
                self.telling = None;
            }
        }
    }

    fn end(&mut self, event: Event) {
        self.send(event);
        self.telling = None;
    }
}
