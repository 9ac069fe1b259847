//! Server-sent events, cut out of a stream of bytes (WHATWG HTML, "Interpreting an event stream").

/// The largest event that is read.
const MAX_EVENT: usize = 1 << 20;

/// Why a stream cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// One event is larger than a megabyte.
    #[error("an event is too large")]
    TooLarge,
    /// Not UTF-8.
    #[error("an event is not UTF-8")]
    NotUtf8,
}

/// Cuts events. Only their data is of interest; names, ids, retry times and comments are passed over.
#[derive(Debug, Default)]
pub struct SseReader {
    line: Vec<u8>,
    data: Option<String>,
    /// The last byte was a CR: an LF right after it ends no further line.
    after_cr: bool,
}

impl SseReader {
    /// Takes the next bytes, and hands the data of each event that is now whole to `each`.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(String)) -> Result<(), SseError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            if std::mem::take(&mut self.after_cr) && rest[0] == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
                self.line.extend_from_slice(rest);
                return self.check_size();
            };
            self.line.extend_from_slice(&rest[..end]);
            self.after_cr = rest[end] == b'\r';
            rest = &rest[end + 1..];
            self.check_size()?;
            if let Some(data) = self.end_line()? {
                each(data);
            }
        }
        Ok(())
    }

    /// The data of an event that the stream's end cut off. The standard drops it; some servers forget the last empty line.
    pub fn finish(&mut self) -> Result<Option<String>, SseError> {
        if !self.line.is_empty() {
            self.end_line()?;
        }
        Ok(self.data.take())
    }

    fn end_line(&mut self) -> Result<Option<String>, SseError> {
        if self.line.is_empty() {
            return Ok(self.data.take());
        }
        let line = std::str::from_utf8(&self.line).map_err(|_| SseError::NotUtf8)?;
        let line = line.strip_prefix('\u{feff}').unwrap_or(line);
        if let Some(value) = line.strip_prefix("data").and_then(|rest| rest.strip_prefix(':')) {
            let value = value.strip_prefix(' ').unwrap_or(value);
            match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            }
        }
        self.line.clear();
        Ok(None)
    }

    fn check_size(&self) -> Result<(), SseError> {
        let size = self.line.len() + self.data.as_ref().map_or(0, String::len);
        if size > MAX_EVENT { Err(SseError::TooLarge) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(parts: &[&[u8]]) -> Vec<String> {
        let (mut reader, mut events) = (SseReader::default(), Vec::new());
        for part in parts {
            reader.push(part, |data| events.push(data)).unwrap();
        }
        events.extend(reader.finish().unwrap());
        events
    }

    #[test]
    fn events_are_the_same_however_they_are_cut_and_however_lines_end() {
        let text =
            ": comment\n\ndata: {\"a\":\ndata: \"é\"}\nid: 7\n\nevent: x\ndata:b\n\nretry: 5\n\ndata: [DONE]\n\n";
        let expected = ["{\"a\":\n\"é\"}", "b", "[DONE]"];
        for ending in ["\n", "\r\n", "\r"] {
            let bytes = text.replace('\n', ending).into_bytes();
            assert_eq!(read(&[&bytes]), expected);
            for cut in 0..bytes.len() {
                assert_eq!(read(&[&bytes[..cut], &bytes[cut..]]), expected, "{ending:?} cut at {cut}");
            }
            assert_eq!(read(&bytes.chunks(1).collect::<Vec<_>>()), expected);
        }
    }

    #[test]
    fn an_event_without_its_last_empty_line_is_read() {
        assert_eq!(read(&[b"data: a\n\ndata: b"]), ["a", "b"]);
        assert_eq!(read(&[b"data: a\n"]), ["a"]);
        assert_eq!(read(&[b"\n\n"]), Vec::<String>::new());
    }

    #[test]
    fn what_is_too_large_or_no_text_is_refused() {
        let mut reader = SseReader::default();
        let large = vec![b'x'; MAX_EVENT + 1];
        assert_eq!(reader.push(&large, |_| ()), Err(SseError::TooLarge));
        let mut reader = SseReader::default();
        assert_eq!(reader.push(b"data: \xff\n", |_| ()), Err(SseError::NotUtf8));
    }
}
