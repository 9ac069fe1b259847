//! An answer's frames on their way out: what was made and not framed yet, and the count and hash of what was framed.

use bytes::{Bytes, BytesMut};
use lumbung_openapi::frame::{self, FrameKind, MAX_IDS};
use lumbung_openapi::merkle::Hash;
use sha2::{Digest, Sha256};

use crate::engine::Tokens;

/// Frames of one answer.
pub struct Outgoing {
    wire: BytesMut,
    /// One for each choice.
    pending: Vec<Pending>,
    tokens: u32,
    delivered: Sha256,
}

/// What one choice has made since its last frame.
#[derive(Default)]
struct Pending {
    count: u32,
    ids: Vec<u32>,
    payload: BytesMut,
    /// Whether the choice ends with this.
    finished: bool,
}

impl Outgoing {
    /// For so many choices.
    pub fn new(choices: usize) -> Self {
        let pending = (0..choices).map(|_| Pending::default()).collect();
        Self { wire: BytesMut::new(), pending, tokens: 0, delivered: Sha256::new() }
    }

    /// Takes the count and the ids of tokens; their text goes to [`Self::payload`].
    pub fn count(&mut self, tokens: &Tokens, kind: FrameKind) {
        let choice = usize::from(tokens.choice);
        let mut ids = tokens.ids.as_slice();
        while self.pending[choice].ids.len() + ids.len() > MAX_IDS {
            let (fitting, rest) = ids.split_at(MAX_IDS - self.pending[choice].ids.len());
            self.pending[choice].ids.extend_from_slice(fitting);
            self.pending[choice].count = self.pending[choice].count.saturating_add(fitting.len() as u32);
            ids = rest;
            self.frame_choice(choice, kind);
        }
        let pending = &mut self.pending[choice];
        // Of an event that was divided, the part that is left; otherwise all of it, ids or not.
        let left = tokens.count.saturating_sub((tokens.ids.len() - ids.len()) as u32);
        pending.count = pending.count.saturating_add(left);
        pending.ids.extend_from_slice(ids);
    }

    /// Where a choice's next bytes for the client go.
    pub fn payload(&mut self, choice: u8) -> &mut BytesMut {
        &mut self.pending[usize::from(choice)].payload
    }

    /// A choice's bytes for the client end with those that wait.
    pub fn finish(&mut self, choice: u8) {
        self.pending[usize::from(choice)].finished = true;
    }

    /// Frames every choice that has bytes for the client. Tokens without text yet wait for those that follow, and what an
    /// answer opens with for its first token: an answer can be continued from a token, and not from before the first.
    pub fn frame_payloads(&mut self) {
        if self.tokens == 0 && !self.has_uncounted() {
            return;
        }
        for choice in 0..self.pending.len() {
            if !self.pending[choice].payload.is_empty() {
                self.frame_choice(choice, FrameKind::Delta);
            }
        }
    }

    /// Frames everything that was counted or made, with `kind`.
    pub fn frame_all(&mut self, kind: FrameKind) {
        for choice in 0..self.pending.len() {
            let pending = &self.pending[choice];
            if pending.count > 0 || !pending.payload.is_empty() {
                self.frame_choice(choice, kind);
            }
        }
    }

    /// Whether tokens were counted that are in no frame yet.
    pub fn has_uncounted(&self) -> bool {
        self.pending.iter().any(|pending| pending.count > 0)
    }

    /// Adds a frame that belongs to no choice.
    pub fn frame(&mut self, kind: FrameKind, payload: &[u8]) {
        if kind.is_for_client() {
            self.delivered.update(payload);
        }
        frame::encode(&mut self.wire, kind, 0, self.tokens, &[], payload);
    }

    /// The engine's own count takes the place of what was added up.
    pub fn correct(&mut self, tokens: u32) {
        self.tokens = tokens;
    }

    /// Completion tokens in frames so far.
    pub fn tokens(&self) -> u32 {
        self.tokens
    }

    /// The hash of the client's bytes in frames so far.
    pub fn delivered(&self) -> Hash {
        Hash(self.delivered.clone().finalize().into())
    }

    /// Bytes that wait to be sent, framed or not.
    pub fn len(&self) -> usize {
        self.wire.len() + self.pending.iter().map(|pending| pending.payload.len()).sum::<usize>()
    }

    /// Whether nothing waits to be sent.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes what is framed; `None` if there is nothing.
    pub fn take(&mut self) -> Option<Bytes> {
        (!self.wire.is_empty()).then(|| self.wire.split().freeze())
    }

    fn frame_choice(&mut self, choice: usize, kind: FrameKind) {
        let pending = &mut self.pending[choice];
        let kind = match kind {
            FrameKind::Delta if std::mem::take(&mut pending.finished) => FrameKind::Finish,
            kind => kind,
        };
        self.tokens = self.tokens.saturating_add(pending.count);
        self.delivered.update(&pending.payload);
        frame::encode(&mut self.wire, kind, choice as u8, self.tokens, &pending.ids, &pending.payload);
        pending.count = 0;
        pending.ids.clear();
        pending.payload.clear();
    }
}

#[cfg(test)]
mod tests {
    use lumbung_openapi::frame::{Frame, FrameReader};

    use super::*;

    fn tokens(choice: u8, ids: std::ops::Range<u32>) -> Tokens {
        Tokens { choice, count: ids.len() as u32, ids: ids.collect(), ..Default::default() }
    }

    fn frames(outgoing: &mut Outgoing) -> Vec<Frame> {
        let mut frames = Vec::new();
        FrameReader::default().push(outgoing.take().unwrap_or_default(), |frame| frames.push(frame)).unwrap();
        frames
    }

    #[test]
    fn tokens_without_text_go_with_the_next_text_of_their_choice() {
        let mut outgoing = Outgoing::new(2);
        outgoing.count(&tokens(1, 0..2), FrameKind::Delta);
        outgoing.frame_payloads();
        assert_eq!(outgoing.take(), None, "nothing for the client yet");
        assert_eq!(outgoing.tokens(), 0, "and so nothing is counted as sent");
        outgoing.count(&tokens(0, 0..1), FrameKind::Delta);
        outgoing.payload(0).extend_from_slice(b"a");
        outgoing.count(&tokens(1, 2..3), FrameKind::Delta);
        outgoing.payload(1).extend_from_slice(b"b");
        outgoing.frame_payloads();
        let sent = frames(&mut outgoing);
        assert_eq!(
            sent.iter().map(|f| (f.choice, f.tokens, f.ids.len() / 4, &f.payload[..])).collect::<Vec<_>>(),
            [(0, 1, 1, &b"a"[..]), (1, 4, 3, &b"b"[..])]
        );
        assert_eq!(outgoing.delivered(), Hash::of(b"ab"));
    }

    #[test]
    fn the_end_of_a_choice_is_told_with_its_last_bytes() {
        let mut outgoing = Outgoing::new(2);
        for choice in [0, 1] {
            outgoing.count(&tokens(choice, 0..1), FrameKind::Delta);
            outgoing.payload(choice).extend_from_slice(b"x");
        }
        outgoing.finish(1);
        outgoing.frame_payloads();
        outgoing.payload(0).extend_from_slice(b"y");
        outgoing.frame_payloads();
        let kinds: Vec<_> = frames(&mut outgoing).iter().map(|frame| (frame.choice, frame.kind)).collect();
        assert_eq!(kinds, [(0, FrameKind::Delta), (1, FrameKind::Finish), (0, FrameKind::Delta)]);
        assert_eq!(outgoing.delivered(), Hash::of(b"xxy"));
    }

    #[test]
    fn nothing_counted_is_lost_at_the_end() {
        let mut outgoing = Outgoing::new(1);
        outgoing.count(&Tokens { count: 3, ..Default::default() }, FrameKind::Delta);
        assert!(outgoing.has_uncounted());
        outgoing.frame_all(FrameKind::Delta);
        outgoing.frame(FrameKind::End, b"stop");
        let sent = frames(&mut outgoing);
        assert_eq!(
            sent.iter().map(|f| (f.kind, f.tokens)).collect::<Vec<_>>(),
            [(FrameKind::Delta, 3), (FrameKind::End, 3)]
        );
        assert_eq!(outgoing.delivered(), Hash::of(b""), "an end is no bytes of the client's");
    }

    #[test]
    fn more_ids_than_a_frame_holds_are_divided() {
        let mut outgoing = Outgoing::new(1);
        let all = 2 * MAX_IDS as u32 + 5;
        outgoing.count(&tokens(0, 0..all), FrameKind::Progress);
        outgoing.frame_all(FrameKind::Progress);
        let sent = frames(&mut outgoing);
        let counts: Vec<u32> = sent.iter().map(|frame| frame.tokens).collect();
        assert_eq!(counts, [MAX_IDS as u32, 2 * MAX_IDS as u32, all]);
        let ids: Vec<u8> = sent.iter().flat_map(|frame| frame.ids.to_vec()).collect();
        assert_eq!(ids, (0..all).flat_map(u32::to_be_bytes).collect::<Vec<u8>>());
    }
}
