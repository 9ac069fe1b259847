//! From tokens' bytes to text that may be shown: characters are whole, and stop sequences never appear.
//!
//! Both work on what they are given piece by piece and come to the same result however it is cut, so a token limit,
//! a resumed answer or another engine's batching cannot change the text.

/// Makes text of bytes: an incomplete character waits for its other bytes.
#[derive(Clone, Debug, Default)]
pub struct Utf8Decoder {
    /// The beginning of a character: at most three bytes.
    incomplete: Vec<u8>,
}

impl Utf8Decoder {
    /// The characters that `bytes` complete. What can never be UTF-8 becomes U+FFFD.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.incomplete.extend_from_slice(bytes);
        let pending = std::mem::take(&mut self.incomplete);
        let mut text = String::with_capacity(pending.len());
        let mut chunks = pending.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            match invalid.is_empty() {
                true => {}
                false if chunks.peek().is_none() && may_be_completed(invalid) => self.incomplete = invalid.to_vec(),
                false => text.push(char::REPLACEMENT_CHARACTER),
            }
        }
        text
    }

    /// The bytes of the character that is incomplete.
    pub fn incomplete(&self) -> &[u8] {
        &self.incomplete
    }

    /// The end: a character that stayed incomplete becomes U+FFFD.
    pub fn finish(&mut self) -> &'static str {
        match std::mem::take(&mut self.incomplete).is_empty() {
            true => "",
            false => "\u{FFFD}",
        }
    }
}

/// Whether bytes at the end of the input are the beginning of a character, as opposed to bytes that can never be one.
fn may_be_completed(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
}

/// Withholds the first stop sequence and everything after it, and before that whatever may still become one.
///
/// The first is the one whose last character comes first; of several that end there, the longest. vLLM and OpenAI look
/// at the text after every token, so theirs depends on where tokens end; this one does not.
#[derive(Clone, Debug, Default)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
    stopped_by: Option<usize>,
}

/// What a [`StopMatcher`] makes of more text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Matched {
    /// This may be shown, and the answer goes on.
    Open(String),
    /// This may be shown, and the answer ends here.
    Stopped(String),
}

impl StopMatcher {
    /// For these sequences; empty ones match nothing.
    pub fn new(stops: impl IntoIterator<Item = String>) -> Self {
        Self { stops: stops.into_iter().filter(|stop| !stop.is_empty()).collect(), ..Self::default() }
    }

    /// Takes more text. After [`Matched::Stopped`] nothing more is to be pushed.
    pub fn push(&mut self, text: &str) -> Matched {
        self.held.push_str(text);
        if let Some((start, number)) = self.first_stop() {
            self.held.truncate(start);
            self.stopped_by = Some(number);
            return Matched::Stopped(std::mem::take(&mut self.held));
        }
        let keep = self.may_become_stop();
        let kept = self.held.split_off(self.held.len() - keep);
        Matched::Open(std::mem::replace(&mut self.held, kept))
    }

    /// The end without a stop sequence: what was held back.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Which sequence has ended the answer, by its number.
    pub fn stopped_by(&self) -> Option<usize> {
        self.stopped_by
    }

    /// Where the first complete stop sequence begins, and its number. Nothing shown before can belong to it: it would have
    /// been held back.
    fn first_stop(&self) -> Option<(usize, usize)> {
        let found =
            |(number, stop): (usize, &String)| self.held.find(stop).map(|start| (start + stop.len(), start, number));
        self.stops.iter().enumerate().filter_map(found).min().map(|(_, start, number)| (start, number))
    }

    /// Length of the longest end of the text with which a stop sequence begins.
    fn may_become_stop(&self) -> usize {
        let longest = |stop: &String| {
            let most = self.held.len().min(stop.len() - 1);
            (1..=most).rev().find(|&len| self.held.as_bytes().ends_with(&stop.as_bytes()[..len])).unwrap_or(0)
        };
        // Always whole characters: it begins with a stop's first byte, and text ends where a character ends.
        self.stops.iter().map(longest).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
