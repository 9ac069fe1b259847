//! Counting what arrives: the gateway's own word on what was delivered.

use lumbung_openapi::frame::{AnswerEnd, Frame, FrameKind, PromptCount};
use lumbung_openapi::merkle::Hash;
use lumbung_openapi::receipt::ReceiptClaims;
use lumbung_openapi::reply::TokenKinds;
use lumbung_openapi::ticket::Ticket;
use sha2::{Digest, Sha256};

use super::clock;
use crate::domain::routing::vitals::{Sample, Unread};
use crate::domain::settlement::Counted;

/// Counts one attempt, frame by frame.
pub struct Meter {
    prompt: PromptCount,
    tokens: u32,
    /// The engine's own total, where the running count is only of chunks because the engine tells no ids.
    total: Option<u32>,
    /// Whether the engine tells token ids.
    has_ids: bool,
    hash: Sha256,
    end: AnswerEnd,
    receipt: Option<String>,
    received_us: i64,
    started_us: i64,
    /// When the first token arrived, Unix microseconds.
    pub first_token_us: Option<i64>,
    /// How many came with it.
    first_tokens: u32,
    /// When the last one arrived.
    last_token_us: i64,
    /// The prompt, until then.
    unread: Unread,
}

/// A provider whose frames cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MeterError {
    /// Fewer tokens than before, or not as many more as there are ids.
    #[error("the token count does not follow")]
    Count,
    /// More tokens than the ticket allows.
    #[error("more tokens than the ticket allows")]
    AboveTicket,
    /// A frame of a kind that comes from the other side, or with a payload that is not of its kind.
    #[error("a frame out of place")]
    OutOfPlace,
}

impl Meter {
    /// From the moment that the provider is asked. The client asked at `received_us`, Unix microseconds.
    pub fn start(received_us: i64, unread: Unread) -> Self {
        Self {
            prompt: PromptCount::default(),
            tokens: 0,
            total: None,
            has_ids: false,
            hash: Sha256::new(),
            end: AnswerEnd::default(),
            receipt: None,
            received_us,
            started_us: clock::unix_micros(),
            first_token_us: None,
            first_tokens: 0,
            last_token_us: 0,
            unread,
        }
    }

    /// Takes one frame into account.
    pub fn count(&mut self, frame: &Frame, ticket: &Ticket) -> Result<(), MeterError> {
        match frame.kind {
            FrameKind::Prompt => self.prompt = PromptCount::from_bytes(&frame.payload).ok_or(MeterError::OutOfPlace)?,
            FrameKind::Delta | FrameKind::Finish | FrameKind::Progress | FrameKind::Body => {
                self.advance(frame, ticket)?
            }
            FrameKind::End => {
                if self.has_ids && frame.tokens != self.tokens {
                    return Err(MeterError::Count);
                }
                self.total = Some(frame.tokens.min(ticket.max_completion_tokens));
                self.end = AnswerEnd::from_bytes(&frame.payload);
            }
            FrameKind::Receipt => {
                self.receipt = Some(String::from_utf8(frame.payload.to_vec()).map_err(|_| MeterError::OutOfPlace)?)
            }
            FrameKind::Error => {}
            FrameKind::Ticket | FrameKind::Request | FrameKind::Voucher | FrameKind::History => {
                return Err(MeterError::OutOfPlace);
            }
        }
        Ok(())
    }

    fn advance(&mut self, frame: &Frame, ticket: &Ticket) -> Result<(), MeterError> {
        let new = frame.tokens.checked_sub(self.tokens).ok_or(MeterError::Count)?;
        if !frame.ids.is_empty() && frame.ids.len() / 4 != new as usize {
            return Err(MeterError::Count);
        }
        if frame.tokens > ticket.max_completion_tokens {
            return Err(MeterError::AboveTicket);
        }
        self.has_ids |= !frame.ids.is_empty();
        if new > 0 {
            self.last_token_us = clock::unix_micros();
            if self.first_token_us.is_none() {
                (self.first_token_us, self.first_tokens) = (Some(self.last_token_us), new);
                self.unread.end();
            }
        }
        self.tokens = frame.tokens;
        self.hash.update(&frame.payload);
        Ok(())
    }

    /// Tokens of the prompt, as the provider counted them and the ticket allows.
    pub fn prompt(&self, ticket: &Ticket) -> PromptCount {
        let prompt_tokens = self.prompt.prompt_tokens.min(ticket.max_prompt_tokens);
        PromptCount { prompt_tokens, cached_tokens: self.prompt.cached_tokens.min(prompt_tokens) }
    }

    /// The most tokens that the prompt can have had: the ticket's limit, until the provider has counted.
    pub fn longest_prompt(&self, ticket: &Ticket) -> u32 {
        match self.prompt.prompt_tokens {
            0 => ticket.max_prompt_tokens,
            counted => counted.min(ticket.max_prompt_tokens),
        }
    }

    /// Completion tokens that have arrived.
    pub fn tokens(&self) -> u32 {
        self.total.unwrap_or(self.tokens)
    }

    /// Completion tokens spent on reasoning, as the provider said at the end. They cost what others cost.
    pub fn reasoning_tokens(&self) -> u32 {
        self.end.reasoning_tokens
    }

    /// What else the provider said of the tokens at the end.
    pub fn kinds(&self) -> TokenKinds {
        self.end.kinds
    }

    /// Whether the provider's claims have come, which are the last of an answer.
    pub fn has_receipt(&self) -> bool {
        self.receipt.is_some()
    }

    /// The provider's own claims, if they have come and can be read.
    pub fn claims(&self) -> Option<ReceiptClaims> {
        serde_json::from_str(self.receipt.as_deref()?).ok()
    }

    /// How fast it was, with such a share of the provider's slots taken.
    pub fn sample(&self, ticket: &Ticket, crowd: f64) -> Sample {
        let prompt = self.prompt(ticket);
        let secs = |from: i64, to: i64| to.saturating_sub(from).max(0) as f64 / 1e6;
        Sample {
            prompt_tokens: prompt.prompt_tokens,
            cached_tokens: prompt.cached_tokens,
            expected_cached: self.unread.expected_cached,
            first_token_secs: self.first_token_us.map(|first| secs(self.started_us, first)),
            ahead: self.unread.ahead,
            later_tokens: self.tokens.saturating_sub(self.first_tokens),
            later_secs: self.first_token_us.map_or(0.0, |first| secs(first, self.last_token_us)),
            crowd,
        }
    }

    /// The count at the end, and the claims' text. `finish_reason` says why there is none from the model.
    pub fn finish(self, ticket: &Ticket, finish_reason: Option<&str>) -> (Counted, Option<String>) {
        let prompt = self.prompt(ticket);
        let counted = Counted {
            prompt_tokens: prompt.prompt_tokens,
            cached_tokens: prompt.cached_tokens,
            completion_tokens: self.tokens(),
            delivered_sha256: finish_reason.is_none().then(|| Hash(self.hash.finalize().into())),
            finish_reason: finish_reason.map_or(self.end.finish_reason, str::to_owned),
            received_us: self.received_us,
            started_us: self.started_us,
            first_token_us: self.first_token_us,
            finished_us: clock::unix_micros(),
        };
        (counted, self.receipt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::settlement::tests::ticket;
    use bytes::Bytes;

    fn frame(kind: FrameKind, tokens: u32, ids: usize, payload: &'static str) -> Frame {
        Frame {
            kind,
            choice: 0,
            tokens,
            ids: Bytes::from(vec![0; 4 * ids]),
            payload: Bytes::from_static(payload.as_bytes()),
        }
    }

    fn unread() -> Unread {
        Unread::send(&std::sync::Arc::default(), Default::default())
    }

    #[test]
    fn what_arrives_is_counted_and_hashed() {
        let (ticket, _) = ticket();
        let mut meter = Meter::start(0, unread());
        let prompt = Frame {
            payload: Bytes::copy_from_slice(&PromptCount { prompt_tokens: 7, cached_tokens: 2 }.to_bytes()),
            ..frame(FrameKind::Prompt, 0, 0, "")
        };
        for frame in [
            prompt,
            frame(FrameKind::Delta, 1, 1, "a"),
            frame(FrameKind::Delta, 3, 2, "bc"),
            frame(FrameKind::End, 3, 0, "stop"),
        ] {
            meter.count(&frame, &ticket).expect("in order");
        }
        let (counted, receipt) = meter.finish(&ticket, None);
        assert_eq!((counted.prompt_tokens, counted.cached_tokens, counted.completion_tokens), (7, 2, 3));
        assert_eq!(
            (counted.delivered_sha256, &*counted.finish_reason, receipt),
            (Some(Hash::of(b"abc")), "stop", None)
        );
    }

    #[test]
    fn counts_that_cannot_be_are_refused() {
        let (ticket, _) = ticket();
        let count = |frames: &[Frame]| {
            let mut meter = Meter::start(0, unread());
            frames.iter().try_for_each(|frame| meter.count(frame, &ticket))
        };
        let delta = |tokens, ids| frame(FrameKind::Delta, tokens, ids, "x");
        assert_eq!(count(&[delta(2, 1)]), Err(MeterError::Count), "two tokens with one id");
        assert_eq!(count(&[delta(2, 0), delta(1, 0)]), Err(MeterError::Count), "fewer than before");
        let end = |tokens| frame(FrameKind::End, tokens, 0, "stop");
        assert_eq!(count(&[delta(1, 1), end(2)]), Err(MeterError::Count), "more at the end than arrived");
        assert_eq!(count(&[delta(1, 0), end(2)]), Ok(()), "an engine without ids counts at the end");
        assert_eq!(count(&[delta(201, 0)]), Err(MeterError::AboveTicket));
        assert_eq!(count(&[frame(FrameKind::Voucher, 0, 0, "")]), Err(MeterError::OutOfPlace));
        assert_eq!(count(&[frame(FrameKind::Prompt, 0, 0, "short")]), Err(MeterError::OutOfPlace));
    }
}
