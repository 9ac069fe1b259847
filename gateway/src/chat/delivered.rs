//! What of an answer has been delivered, token by token: enough for another provider to go on from there.
//!
//! Kept while an answer runs and only as long as it is complete: an engine that does not tell its tokens' ids, or whose
//! weights have no name, leaves nothing to go on from.

use bytes::{Bytes, BytesMut};
use lumbung_openapi::frame::{self, Frame, FrameKind, MAX_IDS};
use lumbung_openapi::money::NanoUsd;
use lumbung_openapi::ticket::Ticket;

use crate::fleet::seat::{Seat, Weights};

/// An answer with more tokens than this is not continued any more: half a MiB.
const MAX_KEPT: u32 = 128 << 10;

/// What the attempts at an answer have delivered.
#[derive(Debug, Default)]
pub struct Delivered {
    /// Who can go on; `None` where nobody can.
    by: Option<Weights>,
    choices: Vec<Choice>,
    tokens: u32,
    /// What these tokens and their prompt cost, by the gateway's count.
    spent: NanoUsd,
    /// Whether the prompt is among that.
    prompt: bool,
}

#[derive(Debug, Default)]
struct Choice {
    /// Token ids, four bytes each, big-endian.
    ids: Vec<u8>,
    finished: bool,
}

impl Delivered {
    /// This provider has taken the job.
    pub fn go_on_with(&mut self, seat: &Seat) {
        if self.tokens == 0 {
            self.by = seat.resumable_weights();
        }
    }

    /// Takes a frame that has arrived, with so many new tokens.
    pub fn take(&mut self, frame: &Frame, tokens: u32) {
        match frame.kind {
            FrameKind::Prompt => return,
            FrameKind::Delta | FrameKind::Progress | FrameKind::Finish => {}
            FrameKind::Body if tokens == 0 => return,
            // A count that is corrected at the end, as engines do that tell no ids.
            _ if tokens > 0 => self.forget(),
            _ => return,
        }
        self.tokens = self.tokens.saturating_add(tokens);
        if self.by.is_none() {
            return;
        }
        if frame.ids.len() != 4 * tokens as usize || self.tokens > MAX_KEPT {
            return self.forget();
        }
        let choice = usize::from(frame.choice);
        if self.choices.len() <= choice {
            self.choices.resize_with(choice + 1, Choice::default);
        }
        self.choices[choice].ids.extend_from_slice(&frame.ids);
        self.choices[choice].finished |= frame.kind == FrameKind::Finish;
    }

    /// Counts in what an attempt cost.
    pub fn spend(&mut self, ticket: &Ticket, prompt: u32, completion: u32) {
        let cost = ticket.price.cost(prompt, completion).and_then(|cost| self.spent.checked_add(cost));
        self.spent = cost.unwrap_or(NanoUsd::MAX);
        self.prompt |= prompt > 0;
    }

    /// Completion tokens so far, over all choices.
    pub fn tokens(&self) -> u32 {
        self.tokens
    }

    /// Whether there is anything.
    pub fn has_any(&self) -> bool {
        self.tokens > 0
    }

    /// What that has cost.
    pub fn spent(&self) -> NanoUsd {
        self.spent
    }

    /// Whether the next attempt may not ask for the prompt.
    pub fn has_prompt(&self) -> bool {
        self.has_any() && self.prompt
    }

    /// Whether another provider could go on.
    pub fn can_go_on(&self) -> bool {
        self.has_any() && self.by.is_some()
    }

    /// Whether this one can: whoever comes first, and then only those who would have said the same.
    pub fn suits(&self, seat: &Seat) -> bool {
        !self.has_any() || self.by.as_ref().is_some_and(|weights| seat.can_resume(weights))
    }

    /// As frames for whoever goes on; empty if nothing was delivered.
    pub fn to_frames(&self) -> Bytes {
        let (mut out, mut tokens) = (BytesMut::new(), 0);
        for (number, choice) in (0..).zip(&self.choices) {
            let mut pieces = choice.ids.chunks(4 * MAX_IDS).peekable();
            while let Some(ids) = pieces.next() {
                tokens += (ids.len() / 4) as u32;
                let is_end = choice.finished && pieces.peek().is_none();
                let payload = if is_end { frame::FINISHED } else { b"" };
                frame::encode_header(&mut out, FrameKind::History, number, tokens, ids.len() / 4, payload.len());
                out.extend_from_slice(ids);
                out.extend_from_slice(payload);
            }
        }
        out.freeze()
    }

    fn forget(&mut self) {
        (self.by, self.choices) = (None, Vec::new());
    }
}

#[cfg(test)]
mod tests {
    use lumbung_openapi::frame::FrameReader;

    use super::*;

    fn weights() -> Weights {
        Weights { digest: "sha256:a".into(), quantization: "f32".into(), context_length: 100 }
    }

    fn delivered() -> Delivered {
        Delivered { by: Some(weights()), ..Delivered::default() }
    }

    fn frame(kind: FrameKind, choice: u8, ids: &[u32]) -> Frame {
        let ids: Vec<u8> = ids.iter().flat_map(|id| id.to_be_bytes()).collect();
        Frame { kind, choice, tokens: 0, ids: ids.into(), payload: Bytes::new() }
    }

    fn history(delivered: &Delivered) -> Vec<(u8, u32, Vec<u32>, bool)> {
        let mut frames = Vec::new();
        let take = |frame: Frame| {
            assert_eq!(frame.kind, FrameKind::History);
            frames.push((frame.choice, frame.tokens, frame.token_ids().collect(), *frame.payload == *frame::FINISHED));
        };
        FrameReader::default().push(delivered.to_frames(), take).expect("frames");
        frames
    }

    #[test]
    fn what_was_delivered_is_told_choice_by_choice() {
        let mut delivered = delivered();
        assert!(!delivered.can_go_on() && delivered.to_frames().is_empty());
        delivered.take(&frame(FrameKind::Delta, 1, &[7]), 1);
        delivered.take(&frame(FrameKind::Delta, 0, &[1, 2]), 2);
        delivered.take(&frame(FrameKind::Finish, 1, &[8]), 1);
        delivered.take(&frame(FrameKind::End, 0, &[]), 0);
        assert_eq!(history(&delivered), [(0, 2, vec![1, 2], false), (1, 4, vec![7, 8], true)]);
        assert!(delivered.can_go_on());
        assert_eq!(delivered.tokens(), 4);
    }

    #[test]
    fn many_tokens_go_in_several_frames() {
        let mut delivered = delivered();
        let ids: Vec<u32> = (0..MAX_IDS as u32).collect();
        delivered.take(&frame(FrameKind::Progress, 0, &ids), MAX_IDS as u32);
        delivered.take(&frame(FrameKind::Finish, 0, &[9]), 1);
        let frames = history(&delivered);
        assert_eq!(frames.len(), 2);
        assert_eq!((frames[0].1, frames[0].3), (MAX_IDS as u32, false));
        assert_eq!((frames[1].1, &frames[1].2, frames[1].3), (MAX_IDS as u32 + 1, &vec![9], true));
    }

    #[test]
    fn without_ids_or_beyond_the_limit_nobody_can_go_on_and_nothing_is_kept() {
        let mut sidecar = delivered();
        sidecar.take(&frame(FrameKind::Delta, 0, &[]), 1);
        let mut corrected = delivered();
        corrected.take(&frame(FrameKind::Delta, 0, &[1]), 1);
        corrected.take(&frame(FrameKind::End, 0, &[]), 3);
        let mut long = delivered();
        long.take(&frame(FrameKind::Delta, 0, &vec![0; MAX_KEPT as usize + 1]), MAX_KEPT + 1);
        for delivered in [sidecar, corrected, long] {
            assert!(delivered.has_any() && !delivered.can_go_on() && delivered.to_frames().is_empty());
        }
    }
}
