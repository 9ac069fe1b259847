//! An answer's frames on their way out: what was made and not framed yet, and the count and hash of what was framed.

use bytes::{Bytes, BytesMut};
use lumbung_openapi::frame::{self, FrameKind, MAX_IDS, MAX_PAYLOAD};
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
    /// Whether a token has been counted.
    begun: bool,
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
        pending.begun |= pending.count > 0;
    }

    /// Where a choice's next bytes for the client go.
    pub fn payload(&mut self, choice: u8) -> &mut BytesMut {
        &mut self.pending[usize::from(choice)].payload
    }

    /// A choice's bytes for the client end with those that wait.
    pub fn finish(&mut self, choice: u8) {
        self.pending[usize::from(choice)].finished = true;
    }

    /// Frames every choice that has bytes for the client. Tokens without text yet wait for those that follow, and what a
    /// choice opens with for its first token: it can be continued from a token, and not from before the first.
    pub fn frame_payloads(&mut self) {
        for choice in 0..self.pending.len() {
            if self.pending[choice].begun && !self.pending[choice].payload.is_empty() {
                self.frame_choice(choice, FrameKind::Delta);
            }
        }
    }

    /// Frames everything that goes with tokens, with `kind`: another provider can go on from there.
    pub fn frame_counted(&mut self, kind: FrameKind) {
        for choice in 0..self.pending.len() {
            let pending = &self.pending[choice];
            if pending.begun && (pending.count > 0 || !pending.payload.is_empty()) {
                self.frame_choice(choice, kind);
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

    /// Whether something can be taken.
    pub fn has_framed(&self) -> bool {
        !self.wire.is_empty()
    }

    /// Bytes that wait for tokens.
    pub fn held(&self) -> usize {
        self.pending.iter().filter(|pending| !pending.begun).map(|pending| pending.payload.len()).sum()
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
        let before = self.tokens;
        self.tokens = before.saturating_add(pending.count);
        self.delivered.update(&pending.payload);
        // More than a frame holds goes before it: what is counted is delivered with its last byte.
        while pending.payload.len() > MAX_PAYLOAD {
            let piece = pending.payload.split_to(end_of_piece(&pending.payload));
            frame::encode(&mut self.wire, FrameKind::Delta, choice as u8, before, &[], &piece);
        }
        frame::encode(&mut self.wire, kind, choice as u8, self.tokens, &pending.ids, &pending.payload);
        pending.count = 0;
        pending.ids.clear();
        pending.payload.clear();
    }
}

/// Where a payload is cut that is longer than a frame: behind an event, where there is one.
fn end_of_piece(payload: &[u8]) -> usize {
    let fitting = &payload[..MAX_PAYLOAD];
    fitting.windows(2).rposition(|pair| pair == b"\n\n").map_or(fitting.len(), |at| at + 2)
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
    fn what_a_choice_opens_with_waits_for_its_own_first_token() {
        let mut outgoing = Outgoing::new(3);
        for choice in 0..3 {
            outgoing.payload(choice).extend_from_slice(b"echo ");
        }
        outgoing.finish(2);
        outgoing.count(&tokens(1, 0..1), FrameKind::Delta);
        outgoing.frame_payloads();
        let sent: Vec<_> = frames(&mut outgoing).iter().map(|frame| (frame.choice, frame.tokens)).collect();
        assert_eq!((sent, outgoing.held()), (vec![(1, 1)], 10));
        outgoing.payload(1).extend_from_slice(b"more");
        outgoing.frame_counted(FrameKind::Delta);
        assert_eq!(
            (frames(&mut outgoing).len(), outgoing.held()),
            (1, 10),
            "nor does it go where the answer breaks off"
        );
        outgoing.frame_all(FrameKind::Delta);
        let sent: Vec<_> = frames(&mut outgoing).iter().map(|frame| (frame.choice, frame.kind)).collect();
        assert_eq!(sent, [(0, FrameKind::Delta), (2, FrameKind::Finish)]);
    }

    #[test]
    fn more_bytes_than_a_frame_holds_are_divided_between_events() {
        let mut outgoing = Outgoing::new(1);
        let event = [&vec![b'x'; MAX_PAYLOAD / 2 + 1][..], b"\n\n"].concat();
        (0..3).for_each(|_| outgoing.payload(0).extend_from_slice(&event));
        outgoing.payload(0).extend_from_slice(&vec![b'y'; MAX_PAYLOAD + 1]);
        outgoing.count(&tokens(0, 0..2), FrameKind::Delta);
        outgoing.finish(0);
        outgoing.frame_payloads();
        let sent = frames(&mut outgoing);
        let shape: Vec<_> = sent.iter().map(|f| (f.kind, f.tokens, f.ids.len() / 4, f.payload.len())).collect();
        let (delta, whole) = (FrameKind::Delta, event.len());
        let expected = [(delta, 0, 0, whole), (delta, 0, 0, whole), (delta, 0, 0, whole), (delta, 0, 0, MAX_PAYLOAD)];
        assert_eq!(shape[..4], expected);
        assert_eq!(shape[4..], [(FrameKind::Finish, 2, 2, 1)]);
        let bytes: Vec<u8> = sent.iter().flat_map(|frame| frame.payload.to_vec()).collect();
        assert_eq!(outgoing.delivered(), Hash::of(&bytes));
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
