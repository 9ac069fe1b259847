//! Frames: what travels in both directions of a job's HTTP/2 stream on a provider's tunnel.
//!
//! ```text
//! byte 0      kind
//! byte 1      choice (index of the answer that the token ids belong to)
//! bytes 2–3   number of token ids, big-endian
//! bytes 4–7   completion tokens so far, this frame included, over all choices, big-endian
//! bytes 8–11  payload length, big-endian
//! then        token ids, 4 bytes each, big-endian
//! then        payload
//! ```
//!
//! A frame may be cut anywhere by HTTP/2; a *delivered* token is one in a frame that arrived whole.

use bytes::{BufMut, Bytes, BytesMut};

use crate::reply::TokenKinds;
use crate::writer::json_of;

/// Bytes before the token ids.
pub const HEADER_LEN: usize = 12;
/// The largest payload of one frame: a job's whole buffer at the gateway.
pub const MAX_PAYLOAD: usize = 4 << 20;
/// The largest request, in as many [`FrameKind::Request`] frames as it takes; and the largest document or last event of an
/// answer, in as many [`FrameKind::Body`] frames: 2,048 vectors of 1,024 numbers as text.
pub const MAX_BODY: usize = 32 << 20;
/// The most token ids in one frame.
pub const MAX_IDS: usize = 8192;
/// Bytes of an [`AnswerEnd`] that are read.
const MAX_END: usize = 1024;
/// The payload of a [`FrameKind::History`] frame of a choice that is complete.
pub const FINISHED: &[u8] = &[1];

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// Gateway → provider, first: the ticket, a compact JWS.
    Ticket = 1,
    /// Gateway → provider, second: the client's request body as it came; one that is as long as a frame can be goes on in the
    /// next, so that the last of them is shorter.
    Request = 2,
    /// Gateway → provider, while the answer streams: what has been delivered so far, vouched for.
    Voucher = 3,
    /// Gateway → provider, after the request where the ticket's `first_token` is above 0: token ids of one choice that
    /// earlier attempts have delivered, more than [`MAX_IDS`] in several frames. The last one of them all has as many
    /// `tokens` as the ticket's `first_token`. The payload is [`FINISHED`] where the end of the choice was delivered too.
    History = 4,
    /// Provider → gateway, first: prompt tokens and how many of them were cached ([`PromptCount`]).
    Prompt = 16,
    /// Provider → gateway: whole server-sent events for the client.
    Delta = 17,
    /// Provider → gateway: tokens made for an answer that is not streamed; no payload. Without further tokens: the engine works
    /// at what it can show only when it is whole, such as vectors; at most once a second.
    Progress = 18,
    /// Provider → gateway: a whole JSON answer without its usage member and closing brace, or a stream's last event without
    /// its end; what is longer than [`MAX_PAYLOAD`] in several frames, one right after the other.
    Body = 19,
    /// Provider → gateway: the answer is complete ([`AnswerEnd`]).
    End = 20,
    /// Provider → gateway: the answer cannot go on; the payload is an [`ErrorObject`](crate::error::ErrorObject) in JSON.
    Error = 21,
    /// Provider → gateway, last: the receipt's claims ([`ReceiptClaims`](crate::receipt::ReceiptClaims)) in JSON.
    Receipt = 22,
    /// Provider → gateway: like [`FrameKind::Delta`], and the choice ends with it.
    Finish = 23,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<Self> {
        use FrameKind::*;
        [Ticket, Request, Voucher, History, Prompt, Delta, Progress, Body, End, Error, Receipt, Finish]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }

    /// Whether the payload is meant for the client and counts towards the receipt's hash.
    pub fn is_for_client(self) -> bool {
        matches!(self, Self::Delta | Self::Finish | Self::Body)
    }
}

/// One frame. Ids and payload are slices of what was read, not copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it carries.
    pub kind: FrameKind,
    /// Which answer the ids belong to.
    pub choice: u8,
    /// Completion tokens so far, this frame included.
    pub tokens: u32,
    /// Token ids, four bytes each, big-endian; empty where the engine does not tell them.
    pub ids: Bytes,
    /// The rest, by kind.
    pub payload: Bytes,
}

impl Frame {
    /// The token ids as numbers.
    pub fn token_ids(&self) -> impl Iterator<Item = u32> {
        self.ids.as_chunks().0.iter().map(|id| u32::from_be_bytes(*id))
    }
}

/// The payload of a [`FrameKind::Prompt`] frame: eight bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PromptCount {
    /// Tokens of the prompt, template included.
    pub prompt_tokens: u32,
    /// How many of them came from a prefix cache.
    pub cached_tokens: u32,
}

impl PromptCount {
    /// As payload.
    pub fn to_bytes(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&self.prompt_tokens.to_be_bytes());
        bytes[4..].copy_from_slice(&self.cached_tokens.to_be_bytes());
        bytes
    }

    /// From payload; `None` unless it is eight bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (prompt, cached) = bytes.split_first_chunk::<4>()?;
        Some(Self {
            prompt_tokens: u32::from_be_bytes(*prompt),
            cached_tokens: u32::from_be_bytes(cached.try_into().ok()?),
        })
    }
}

/// The payload of a [`FrameKind::End`] frame: the finish reason; after a space the reasoning tokens, if there are any or
/// something follows; after another one, in JSON, other kinds of tokens, if the engine tells any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnswerEnd {
    /// Of the first choice: not worth more than a word.
    pub finish_reason: String,
    /// Of the completion tokens of all choices, those spent on reasoning.
    pub reasoning_tokens: u32,
    /// What else is told of tokens.
    pub kinds: TokenKinds,
}

impl AnswerEnd {
    /// As payload.
    pub fn to_text(&self) -> String {
        let Self { finish_reason, reasoning_tokens, kinds } = self;
        match (*reasoning_tokens, *kinds == TokenKinds::default()) {
            (0, true) => finish_reason.clone(),
            (tokens, true) => format!("{finish_reason} {tokens}"),
            (tokens, false) => format!("{finish_reason} {tokens} {}", json_of(kinds)),
        }
    }

    /// From payload; what cannot be read is left out.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_END)]);
        let mut words = text.splitn(3, ' ');
        let mut word = || words.next().unwrap_or_default();
        let is_of_word = |c: &char| c.is_ascii_alphabetic() || *c == '_';
        Self {
            finish_reason: word().chars().filter(is_of_word).take(32).collect(),
            reasoning_tokens: word().parse().unwrap_or(0),
            kinds: serde_json::from_str(word()).unwrap_or_default(),
        }
    }
}

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A kind that this version does not know.
    #[error("unknown frame kind {0}")]
    UnknownKind(u8),
    /// More than [`MAX_PAYLOAD`] or [`MAX_IDS`].
    #[error("frame too large")]
    TooLarge,
}

/// Writes one frame.
pub fn encode(out: &mut BytesMut, kind: FrameKind, choice: u8, tokens: u32, ids: &[u32], payload: &[u8]) {
    out.reserve(HEADER_LEN + 4 * ids.len() + payload.len());
    encode_header(out, kind, choice, tokens, ids.len(), payload.len());
    for id in ids {
        out.put_u32(*id);
    }
    out.put_slice(payload);
}

/// Writes the header of a frame whose ids and payload follow by themselves.
pub fn encode_header(out: &mut BytesMut, kind: FrameKind, choice: u8, tokens: u32, ids: usize, payload: usize) {
    debug_assert!(ids <= MAX_IDS && payload <= MAX_PAYLOAD);
    out.put_u8(kind as u8);
    out.put_u8(choice);
    out.put_u16(ids as u16);
    out.put_u32(tokens);
    out.put_u32(payload as u32);
}

/// Cuts frames out of the chunks that HTTP/2 delivers. Holds at most one unfinished frame.
#[derive(Debug, Default)]
pub struct FrameReader {
    rest: BytesMut,
}

impl FrameReader {
    /// Takes the next chunk and hands every frame that is now whole to `each`.
    /// A chunk made of whole frames is sliced, not copied. An error is final: the peer breaks the protocol.
    pub fn push(&mut self, chunk: Bytes, mut each: impl FnMut(Frame)) -> Result<(), FrameError> {
        let mut chunk = if self.rest.is_empty() {
            chunk
        } else {
            self.rest.extend_from_slice(&chunk);
            if frame_len(&self.rest)?.is_none_or(|total| self.rest.len() < total) {
                return Ok(()); // a large frame grows in place: no copy per chunk
            }
            self.rest.split().freeze()
        };
        while let Some(total) = frame_len(&chunk)? {
            if chunk.len() < total {
                break;
            }
            each(cut(chunk.split_to(total))?);
        }
        self.rest.extend_from_slice(&chunk);
        Ok(())
    }

    /// Whether a frame was begun and not finished.
    pub fn is_mid_frame(&self) -> bool {
        !self.rest.is_empty()
    }
}

/// The length of the frame that starts here, or `None` while its header is incomplete.
fn frame_len(bytes: &[u8]) -> Result<Option<usize>, FrameError> {
    let Some(header) = bytes.first_chunk::<HEADER_LEN>() else { return Ok(None) };
    FrameKind::from_byte(header[0]).ok_or(FrameError::UnknownKind(header[0]))?;
    let ids = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let payload = u32::from_be_bytes([header[8], header[9], header[10], header[11]]) as usize;
    if ids > MAX_IDS || payload > MAX_PAYLOAD {
        return Err(FrameError::TooLarge);
    }
    Ok(Some(HEADER_LEN + 4 * ids + payload))
}

fn cut(mut frame: Bytes) -> Result<Frame, FrameError> {
    let header = frame.split_to(HEADER_LEN);
    let kind = FrameKind::from_byte(header[0]).ok_or(FrameError::UnknownKind(header[0]))?;
    let id_bytes = 4 * usize::from(u16::from_be_bytes([header[2], header[3]]));
    let tokens = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    let ids = frame.split_to(id_bytes);
    Ok(Frame { kind, choice: header[1], tokens, ids, payload: frame })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_survive_any_cut(
            frames in proptest::collection::vec((0..12usize, any::<u8>(), any::<u32>(), proptest::collection::vec(any::<u32>(), 0..5), proptest::collection::vec(any::<u8>(), 0..40)), 0..8),
            cuts in proptest::collection::vec(1..30usize, 1..20),
        ) {
            use FrameKind::*;
            let kinds = [Ticket, Request, Voucher, History, Prompt, Delta, Progress, Body, End, Error, Receipt, Finish];
            let mut wire = BytesMut::new();
            for (kind, choice, tokens, ids, payload) in &frames {
                encode(&mut wire, kinds[*kind], *choice, *tokens, ids, payload);
            }
            let (mut wire, mut reader, mut read) = (wire.freeze(), FrameReader::default(), Vec::new());
            for cut in cuts.iter().cycle() {
                if wire.is_empty() { break }
                let chunk = wire.split_to((*cut).min(wire.len()));
                prop_assert_eq!(reader.push(chunk, |frame| read.push(frame)), Ok(()));
            }
            prop_assert!(!reader.is_mid_frame());
            prop_assert_eq!(read.len(), frames.len());
            for (frame, (kind, choice, tokens, ids, payload)) in read.iter().zip(&frames) {
                let id_bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_be_bytes()).collect();
                prop_assert_eq!((frame.kind, frame.choice, frame.tokens, &frame.ids[..], &frame.payload[..]), (kinds[*kind], *choice, *tokens, &id_bytes[..], &payload[..]));
            }
        }

        #[test]
        fn no_bytes_make_the_reader_panic(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 0..8)) {
            let mut reader = FrameReader::default();
            for chunk in chunks {
                if reader.push(chunk.into(), |_| ()).is_err() { break }
            }
        }
    }

    #[test]
    fn an_end_tells_why_and_how_much_was_thought() {
        let image = TokenKinds { prompt_image: Some(7), cache_write: Some(0), ..TokenKinds::default() };
        for (reason, reasoning_tokens, kinds, text) in [
            ("stop", 0, TokenKinds::default(), "stop"),
            ("tool_calls", 12, TokenKinds::default(), "tool_calls 12"),
            ("stop", 0, image, r#"stop 0 {"cache_write":0,"prompt_image":7}"#),
        ] {
            let end = AnswerEnd { finish_reason: reason.into(), reasoning_tokens, kinds };
            assert_eq!((AnswerEnd::from_bytes(text.as_bytes()), end.to_text().as_str()), (end, text));
        }
        for odd in ["<st0p> -1", "stp x {", r#"stp 0 {"prompt_image":-1}"#, r#"stp  {"made_up":[{}]}"#] {
            let read = AnswerEnd { finish_reason: "stp".into(), ..AnswerEnd::default() };
            assert_eq!(AnswerEnd::from_bytes(odd.as_bytes()), read, "{odd}");
        }
        assert_eq!(AnswerEnd::from_bytes(b""), AnswerEnd::default());
    }

    #[test]
    fn a_frame_beyond_the_limits_is_refused() {
        let mut wire = BytesMut::new();
        encode(&mut wire, FrameKind::Delta, 0, 1, &[], b"x");
        wire[8..12].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(FrameReader::default().push(wire.freeze(), |_| ()), Err(FrameError::TooLarge));
        assert_eq!(
            FrameReader::default().push(Bytes::from_static(&[99; 12]), |_| ()),
            Err(FrameError::UnknownKind(99))
        );
    }
}
