//! One scripted answer, from its first token to its end or to where the script breaks it off.

use std::time::Duration;

use lumbung_openapi::chat::ChatRequest;
use lumbung_openapi::frame::PromptCount;
use lumbung_openapi::reply::{TokenLogprob, TopLogprob};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::raw;
use super::script::{Rule, ScriptedCall};
use crate::engine::{CallDelta, CallHead, EngineError, Event, FinishReason, History, Job, Tokens};

/// The natural logarithm that every scripted token's probability is said to have.
const LOGPROB: f32 = -0.25;

/// One answer, known to its end before it begins.
pub(super) struct Plan {
    /// The reasoning, the reply and the calls' arguments, one after another.
    text: String,
    /// Where each token ends in the text.
    ends: Vec<usize>,
    /// Where the reasoning and the reply end in the text.
    reasoning_end: usize,
    reply_end: usize,
    /// The calls' names, and where their arguments end in the text.
    calls: Vec<(String, usize)>,
    /// Names the job.
    job: String,
    /// How many alternatives are told with each token, if log-probabilities are asked for.
    logprobs: Option<u8>,
    last: Last,
    /// How many tokens of each choice have been delivered before.
    delivered: Vec<usize>,
    /// What each choice begins with beside its own tokens.
    echoes: Vec<String>,
    first_delay: Duration,
    delay: Duration,
    step: usize,
}

/// What comes after the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Finish(FinishReason),
    Fail,
    Freeze,
    Die,
}

impl Plan {
    /// What a rule answers to a job, in at most so many tokens.
    pub(super) fn new(rule: &Rule, job: &Job<'_>, most_tokens: u32) -> Self {
        let most = most_tokens as usize;
        let (reply, reply_ends) = match rule.tokens {
            Some(count) => {
                let count = (count as usize).min(most + 1);
                (rule.word.repeat(count), (1..=count).map(|nth| nth * rule.word.len()).collect())
            }
            None => (rule.reply.clone(), reply_ends(rule)),
        };
        let (mut text, mut ends) = (rule.reasoning.clone(), token_ends(&rule.reasoning));
        let reasoning_end = text.len();
        ends.extend(reply_ends.iter().map(|end| reasoning_end + end));
        text += &reply;
        let reply_end = text.len();
        let mut calls = Vec::with_capacity(rule.calls.len());
        for ScriptedCall { name, arguments } in &rule.calls {
            ends.extend(token_ends(arguments).iter().map(|end| text.len() + end));
            text += arguments;
            calls.push((name.clone(), text.len()));
        }
        let natural = if calls.is_empty() { FinishReason::Stop } else { FinishReason::ToolCalls };
        let mut last = Last::Finish(natural);
        if ends.len() > most {
            ends.truncate(most);
            last = Last::Finish(FinishReason::Length);
        }
        let said = ends.last().copied().unwrap_or(0).clamp(reasoning_end, reply_end);
        let shown = &text[reasoning_end..said];
        let stops = job.request.stop.iter().filter_map(|stop| Some((shown.find(&**stop)?, stop.len())));
        if let Some((at, len)) = stops.min() {
            let at = reasoning_end + at;
            // The token that completes the stop sequence was made and counts; its text from there on is not shown.
            ends.truncate(ends.partition_point(|end| *end < at + len) + 1);
            ends.iter_mut().for_each(|end| *end = (*end).min(at));
            last = Last::Finish(stopped_by(job.request, shown));
        }
        let breaks = [(rule.fail_after, Last::Fail), (rule.freeze_after, Last::Freeze), (rule.die_after, Last::Die)];
        for (after, instead) in breaks {
            if let Some(after) = after.map(|after| after as usize)
                && after <= ends.len()
            {
                ends.truncate(after);
                last = instead;
            }
        }
        Self {
            text,
            ends,
            reasoning_end,
            reply_end,
            calls,
            job: job.id.to_owned(),
            logprobs: job.request.logprobs,
            last,
            delivered: vec![0; job.request.answers() as usize],
            echoes: raw::echoes(job.request),
            first_delay: Duration::from_secs_f64(rule.delay_ms_first / 1e3),
            delay: Duration::from_secs_f64(rule.delay_ms_per_token / 1e3),
            step: rule.tokens_per_event as usize,
        }
    }

    /// Goes on where an earlier attempt was cut off: what it delivered is repeated without delay. A token's id is its place.
    pub(super) fn after(mut self, history: &[History]) -> Result<Self, EngineError> {
        for (delivered, history) in self.delivered.iter_mut().zip(history) {
            *delivered = history.ids.len();
            if *delivered > self.ends.len() || !(0..).zip(&history.ids).all(|(place, id)| *id == place) {
                return Err(EngineError::Failed("the script has not said what was delivered".into()));
            }
        }
        Ok(self)
    }

    /// Plays to the end, or until nobody listens.
    pub(super) async fn play(self, prompt: PromptCount, events: mpsc::Sender<Event>) {
        tokio::select! {
            () = events.closed() => {}
            _ = self.play_to(prompt, &events) => {}
        }
    }

    async fn play_to(
        &self,
        prompt: PromptCount,
        events: &mpsc::Sender<Event>,
    ) -> Result<(), mpsc::error::SendError<Event>> {
        events.send(Event::Prompt(prompt)).await?;
        for (choice, text) in (0..).zip(&self.echoes) {
            events.send(Event::Tokens(Tokens { choice, text: text.clone(), ..Tokens::default() })).await?;
        }
        let repeated = self.delivered.iter().min().copied().unwrap_or(0);
        let begun = Instant::now() + self.first_delay;
        let mut from = 0;
        while from < self.ends.len() {
            let to = (from + self.step).min(self.ends.len());
            // Due times are counted from the beginning, so that timers' coarseness does not add up.
            let due = begun + self.delay * from.saturating_sub(repeated) as u32;
            if to > repeated && due > Instant::now() {
                tokio::time::sleep_until(due).await;
            }
            for (choice, &delivered) in (0..).zip(&self.delivered) {
                // An event is cut where the earlier attempt was.
                let cut = delivered.clamp(from, to);
                for (from, to) in [(from, cut), (cut, to)].into_iter().filter(|(from, to)| from < to) {
                    events.send(Event::Tokens(self.tokens(choice, from, to))).await?;
                }
            }
            from = to;
        }
        match self.last {
            Last::Finish(reason) => {
                for choice in 0..self.delivered.len() as u8 {
                    events.send(Event::Finish { choice, reason }).await?;
                }
            }
            Last::Fail => events.send(Event::Failed(EngineError::Failed("the script says so".into()))).await?,
            Last::Freeze => std::future::pending().await,
            Last::Die => {
                // So that what was made before has left the machine. In small steps: on a machine that is overloaded
                // each of them takes longer, and lets others have their turn.
                for _ in 0..20 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                std::process::abort();
            }
        }
        Ok(())
    }

    /// Tokens `from` to `to`. A token's id is its place, so that a reader sees whether one is missing.
    fn tokens(&self, choice: u8, from: usize, to: usize) -> Tokens {
        let start = if from == 0 { 0 } else { self.ends[from - 1] };
        let end = self.ends[to - 1];
        let part = |from: usize, to: usize| self.text[start.clamp(from, to)..end.clamp(from, to)].to_owned();
        Tokens {
            choice,
            count: (to - from) as u32,
            reasoning_count: self.ends[from..to].iter().filter(|end| **end <= self.reasoning_end).count() as u32,
            ids: (from as u32..to as u32).collect(),
            reasoning: part(0, self.reasoning_end),
            text: part(self.reasoning_end, self.reply_end),
            calls: self.calls(choice, start, end),
            logprobs: self.logprobs.map_or_else(Vec::new, |k| (from..to).map(|at| self.logprob(at, k)).collect()),
            ..Tokens::default()
        }
    }

    /// The parts of calls between two places of the text.
    fn calls(&self, choice: u8, start: usize, end: usize) -> Vec<CallDelta> {
        let mut begins = self.reply_end;
        let mut deltas = Vec::new();
        for (call, (name, ends)) in (0..).zip(&self.calls) {
            let arguments = &self.text[start.clamp(begins, *ends)..end.clamp(begins, *ends)];
            if !arguments.is_empty() {
                let id = format!("call_{}_{choice}_{call}", self.job);
                let head = (start <= begins).then(|| CallHead { id, name: name.clone() });
                deltas.push(CallDelta { call, head, arguments: arguments.to_owned() });
            }
            begins = *ends;
        }
        deltas
    }

    fn logprob(&self, at: usize, alternatives: u8) -> TokenLogprob {
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        let token = &self.text[start..self.ends[at]];
        let top = |nth: u8| TopLogprob {
            token: token.to_owned(),
            logprob: LOGPROB - f32::from(nth),
            bytes: token.as_bytes().to_vec(),
        };
        TokenLogprob {
            token: token.to_owned(),
            logprob: LOGPROB,
            bytes: token.as_bytes().to_vec(),
            top_logprobs: (0..alternatives).map(top).collect(),
        }
    }
}

/// Which stop sequence ends this text: of those that come first, the first in the request.
fn stopped_by(request: &ChatRequest<'_>, text: &str) -> FinishReason {
    let places = request.stop.iter().enumerate().filter_map(|(at, stop)| Some((text.find(&**stop)?, at)));
    places.min().map_or(FinishReason::Stop, |(_, at)| FinishReason::StopSequence(at as u8))
}

/// Where the tokens of a rule's reply end.
fn reply_ends(rule: &Rule) -> Vec<usize> {
    let Some(claimed) = rule.claim_tokens.map(u64::from) else { return token_ends(&rule.reply) };
    let at = |nth: u64| {
        let at = (rule.reply.len() as u64 * nth / claimed) as usize;
        (at..=rule.reply.len()).find(|at| rule.reply.is_char_boundary(*at)).unwrap_or(rule.reply.len())
    };
    (1..=claimed).map(at).collect()
}

/// Where the tokens of a text end: each is a word with the white space before it.
pub(super) fn token_ends(text: &str) -> Vec<usize> {
    let mut ends: Vec<usize> = text
        .char_indices()
        .zip(text.chars().skip(1))
        .filter(|((_, this), next)| !this.is_whitespace() && next.is_whitespace())
        .map(|((at, this), _)| at + this.len_utf8())
        .collect();
    if ends.last().copied().unwrap_or(0) < text.len() {
        ends.push(text.len());
    }
    ends
}
