//! Content that is not text: where it stands, and how many tokens it may come to. What is in it is the engine's business.

use super::json::{Members, Value};
use crate::error::InvalidRequest;
use crate::modality::Modality;
use crate::parameter::Parameter;

/// The most tokens that a picture comes to: Qwen2.5-VL's at the most pixels that its processor leaves (12,845,056, in
/// patches of 28 by 28), which is more than other open models make of one.
const MOST_OF_AN_IMAGE: u32 = 16_384;
/// What a picture usually comes to: one of about a megapixel.
const LIKELY_OF_AN_IMAGE: u32 = 1024;
/// Base64 of the sound that has the fewest bytes per token: 8 kbit/s, at 25 tokens a second (Qwen2-Audio), is 53.
const AUDIO_BYTES_PER_TOKEN: usize = 32;
/// Engines fill a sound up to whole pieces, such as Whisper's 30 seconds.
const MOST_OF_SILENCE: usize = 1024;
/// The same of a sound as clients send it: MP3 at 64 kbit/s.
const LIKELY_AUDIO_BYTES_PER_TOKEN: usize = 512;
/// Base64 of a document per token of its text.
const LIKELY_FILE_BYTES_PER_TOKEN: usize = 16;
/// What an image's URL may begin with: engines fetch the first two themselves, and must read none of their own files.
const SCHEMES: [&str; 3] = ["https://", "http://", "data:"];

/// One part of a message that is not text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Media {
    /// Its kind.
    pub modality: Modality,
    /// The message's number.
    pub message: usize,
    /// The part's number.
    pub part: usize,
    /// Bytes of the body that hold it, or the address where it is; they are no text of the prompt.
    pub bytes: usize,
}

impl Media {
    /// The name of its kind of part in a conversation.
    pub fn parameter(&self) -> Option<Parameter> {
        match self.modality {
            Modality::Image => Some(Parameter::ImageUrl),
            Modality::Audio => Some(Parameter::InputAudio),
            Modality::File => Some(Parameter::File),
            Modality::Text | Modality::Video | Modality::Embeddings => None,
        }
    }

    /// The most prompt tokens that it can come to; a document's are limited by the model's context alone.
    pub fn most_tokens(&self) -> u32 {
        match self.modality {
            Modality::Image => MOST_OF_AN_IMAGE,
            Modality::Audio => tokens(MOST_OF_SILENCE + self.bytes / AUDIO_BYTES_PER_TOKEN),
            _ => u32::MAX,
        }
    }

    /// What it probably comes to: a rate is charged with it until the answer is over.
    pub fn likely_tokens(&self) -> u32 {
        match self.modality {
            Modality::Image => LIKELY_OF_AN_IMAGE,
            Modality::Audio => tokens(self.bytes / LIKELY_AUDIO_BYTES_PER_TOKEN),
            _ => tokens(self.bytes / LIKELY_FILE_BYTES_PER_TOKEN),
        }
    }
}

fn tokens(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Reads a part of a message that is not text: what an engine must be able to take, its kind, and its bytes. `None` where
/// its type is none of these.
pub(super) fn parse(
    kind: &str,
    part: &Members<'_>,
    path: &str,
) -> Result<Option<(Parameter, Modality, usize)>, InvalidRequest> {
    let content = |name: &str| part.required_at(path, name);
    Ok(Some(match kind {
        "image_url" => (Parameter::ImageUrl, Modality::Image, parse_image(content(kind)?, &format!("{path}.{kind}"))?),
        "input_audio" => {
            let path = format!("{path}.{kind}");
            let audio = content(kind)?.object(&path)?;
            text(&audio, "format", &path)?;
            (Parameter::InputAudio, Modality::Audio, text(&audio, "data", &path)?)
        }
        "file" => (Parameter::File, Modality::File, parse_file(content(kind)?, &format!("{path}.{kind}"))?),
        _ => return Ok(None),
    }))
}

fn parse_image(image: Value<'_>, path: &str) -> Result<usize, InvalidRequest> {
    let image = image.object(path)?;
    let param = format!("{path}.url");
    let url = image.required_at(path, "url")?;
    check_url(&url.string(&param)?, &param)?;
    Ok(url.json().len())
}

/// Whether a picture may be there.
pub(crate) fn check_url(url: &str, param: &str) -> Result<(), InvalidRequest> {
    let begins_with = |scheme: &&str| url.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    match SCHEMES.iter().any(begins_with) {
        true => Ok(()),
        false => Err(InvalidRequest::value(param, format!("'{param}' must be an http(s) address or a data: URL."))),
    }
}

/// Nothing can be uploaded here, so an id names nothing.
pub(crate) fn refuse_file_id(members: &Members<'_>, path: &str, instead: &str) -> Result<(), InvalidRequest> {
    if members.get("file_id").is_none() {
        return Ok(());
    }
    let param = format!("{path}.file_id");
    let message = format!("'{param}' names an uploaded file, and none can be uploaded here: send '{instead}'.");
    Err(InvalidRequest { message, param: Some(param), code: Some("unsupported_parameter") })
}

fn parse_file(file: Value<'_>, path: &str) -> Result<usize, InvalidRequest> {
    let file = file.object(path)?;
    refuse_file_id(&file, path, "file_data")?;
    text(&file, "file_data", path)
}

/// The bytes of a text that must be there.
fn text(members: &Members<'_>, name: &str, path: &str) -> Result<usize, InvalidRequest> {
    let value = members.required_at(path, name)?;
    match value.is_string() {
        true => Ok(value.json().len()),
        false => Err(InvalidRequest::wrong_type(format!("{path}.{name}"), "a string")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::ChatRequest;
    use super::*;

    fn parse(part: &str) -> Result<Vec<Media>, (Option<String>, Option<&'static str>)> {
        let text = r#"{"type":"text","text":"What is this?"}"#;
        let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":[{text},{part}]}}]}}"#);
        let request = ChatRequest::parse(body.as_bytes()).map_err(|error| (error.param, error.code))?;
        Ok(request.media)
    }

    #[test]
    fn what_is_in_a_part_is_measured_and_is_no_text() {
        let of = |modality, bytes| Ok(vec![Media { modality, message: 0, part: 1, bytes }]);
        let data = "A".repeat(64_000);
        let image =
            format!(r#"{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{data}","detail":"low"}}}}"#);
        assert_eq!(parse(&image), of(Modality::Image, 64_024));
        let elsewhere = r#"{"type":"image_url","image_url":{"url":"HTTPS://example.org/a.png"}}"#;
        assert_eq!(parse(elsewhere), of(Modality::Image, 27));
        let audio = format!(r#"{{"type":"input_audio","input_audio":{{"data":"{data}","format":"mp3"}}}}"#);
        assert_eq!(parse(&audio), of(Modality::Audio, 64_002));
        let file = format!(r#"{{"type":"file","file":{{"filename":"a.pdf","file_data":"{data}"}}}}"#);
        assert_eq!(parse(&file), of(Modality::File, 64_002));
        let tokens = |part: &str| {
            let media = parse(part).expect("a part")[0];
            (media.most_tokens(), media.likely_tokens())
        };
        assert_eq!((tokens(&image), tokens(elsewhere)), ((16_384, 1024), (16_384, 1024)));
        assert_eq!((tokens(&audio), tokens(&file)), ((3024, 125), (u32::MAX, 4000)));
    }

    #[test]
    fn what_is_wrong_with_a_part_is_named() {
        for (part, name, code) in [
            (r#"{"type":"image_url"}"#, "image_url", "missing_required_parameter"),
            (r#"{"type":"image_url","image_url":"https://example.org"}"#, "image_url", "invalid_type"),
            (r#"{"type":"image_url","image_url":{}}"#, "image_url.url", "missing_required_parameter"),
            (r#"{"type":"image_url","image_url":{"url":7}}"#, "image_url.url", "invalid_type"),
            (r#"{"type":"image_url","image_url":{"url":"file:///etc/passwd"}}"#, "image_url.url", "invalid_value"),
            (r#"{"type":"image_url","image_url":{"url":"é"}}"#, "image_url.url", "invalid_value"),
            (
                r#"{"type":"input_audio","input_audio":{"format":"wav"}}"#,
                "input_audio.data",
                "missing_required_parameter",
            ),
            (
                r#"{"type":"input_audio","input_audio":{"data":"x"}}"#,
                "input_audio.format",
                "missing_required_parameter",
            ),
            (r#"{"type":"input_audio","input_audio":[]}"#, "input_audio", "invalid_type"),
            (r#"{"type":"file","file":{}}"#, "file.file_data", "missing_required_parameter"),
            (r#"{"type":"file","file":{"file_id":"file-1"}}"#, "file.file_id", "unsupported_parameter"),
            (r#"{"type":"video_url","video_url":{"url":"https://example.org"}}"#, "type", "invalid_value"),
        ] {
            assert_eq!(parse(part), Err((Some(format!("messages[0].content[1].{name}")), Some(code))), "{part}");
        }
    }
}
