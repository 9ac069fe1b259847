//! mistralrs by itself: how fast it is when whoever asks it wants nothing but tokens, with nothing of this project between.
//! What a provider adds to its engine is measured against this.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use either::Either;
use mistralrs::{NormalRequest, Request, RequestMessage, Response, SamplingParams, TextMessageRole, TextMessages};
use serde::Serialize;
use tokio::sync::mpsc;

use super::MistralEngine;

/// What mistralrs sends beside a chunk per token: an error at most.
const RESPONSES_BESIDE_CHUNKS: usize = 8;

/// What is asked of it.
#[derive(Clone, Debug)]
pub struct Load {
    /// Answers at once; each is followed by another.
    pub streams: usize,
    /// The user's message.
    pub prompt: String,
    /// Tokens of each answer.
    pub tokens: usize,
    /// Load before anything is counted.
    pub warm_up: Duration,
    /// Load that is counted.
    pub length: Duration,
}

/// How fast it was.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Pace {
    /// Answers at once.
    pub streams: usize,
    /// Of all streams together.
    pub tokens_per_second: f64,
    /// From asking to the first token: the median, in milliseconds.
    pub first_token_ms: f64,
}

/// What is counted meanwhile.
#[derive(Default)]
struct Tally {
    tokens: AtomicU64,
    /// And whether the stream had had an answer before.
    first_token_us: std::sync::Mutex<Vec<(bool, u64)>>,
}

impl MistralEngine {
    /// Asks mistralrs, always for its likeliest tokens, and says how fast they came.
    ///
    /// # Errors
    /// Whatever mistralrs says instead of an answer.
    pub async fn pace_alone(&self, load: &Load) -> anyhow::Result<Pace> {
        let messages = TextMessages::new().add_message(TextMessageRole::User, &load.prompt);
        let prompt = self.model().tokenize(Either::Left(messages), None, false, true, None).await;
        let prompt = prompt.map_err(|error| anyhow::anyhow!("the prompt was not tokenized: {error}"))?;
        let tally = Tally::default();
        let asking = futures_util::future::try_join_all((0..load.streams).map(|_| self.ask_on(&prompt, load, &tally)));
        let counting = async {
            tokio::time::sleep(load.warm_up).await;
            let (begun, before) = (Instant::now(), tally.tokens.load(Relaxed));
            tokio::time::sleep(load.length).await;
            (tally.tokens.load(Relaxed) - before) as f64 / begun.elapsed().as_secs_f64()
        };
        let tokens_per_second = tokio::select! {
            broken = asking => anyhow::bail!("it stopped: {:?}", broken.err()),
            counted = counting => counted,
        };
        let all = tally.first_token_us.into_inner().unwrap_or_default();
        let is_later = all.iter().any(|(is_later, _)| *is_later);
        let mut first: Vec<u64> = all.into_iter().filter(|(later, _)| *later == is_later).map(|(_, us)| us).collect();
        first.sort_unstable();
        anyhow::ensure!(!first.is_empty(), "not one token came");
        let first_token_ms = first[first.len() / 2] as f64 / 1000.0;
        Ok(Pace { streams: load.streams, tokens_per_second, first_token_ms })
    }

    /// One answer after another, for good.
    async fn ask_on(&self, prompt: &[u32], load: &Load, tally: &Tally) -> anyhow::Result<()> {
        // Those that all begin at once at first do not wait for each other's turn as later ones do.
        let mut is_later = false;
        loop {
            let begun = Instant::now();
            // No more at once than it answers rightly.
            let _seat = self.runner.seats().acquire().await?;
            let mut responses = self.ask_alone(prompt.to_vec(), load.tokens).await?;
            let mut is_first = true;
            loop {
                let Some(Response::CompletionChunk(chunk)) = responses.recv().await else {
                    anyhow::bail!("something else than a token came");
                };
                tally.tokens.fetch_add(1, Relaxed);
                if std::mem::take(&mut is_first)
                    && let Ok(mut first) = tally.first_token_us.lock()
                {
                    first.push((is_later, begun.elapsed().as_micros() as u64));
                }
                if chunk.choices.iter().any(|choice| choice.finish_reason.is_some()) {
                    break;
                }
            }
            is_later = true;
        }
    }

    async fn ask_alone(&self, prompt: Vec<u32>, tokens: usize) -> anyhow::Result<mpsc::Receiver<Response>> {
        let (sender, responses) = mpsc::channel(tokens + RESPONSES_BESIDE_CHUNKS);
        let mut sampling = SamplingParams::neutral();
        sampling.temperature = Some(0.0);
        sampling.max_len = Some(tokens);
        let request = NormalRequest {
            is_streaming: true,
            ..NormalRequest::new_simple(RequestMessage::CompletionTokens(prompt), sampling, sender, 0, None, None)
        };
        let engine = self.model().inner().get_sender(None).map_err(|error| anyhow::anyhow!("{error}"))?;
        engine.send(Request::Normal(Box::new(request))).await.map_err(|_| anyhow::anyhow!("its thread has died"))?;
        Ok(responses)
    }
}
