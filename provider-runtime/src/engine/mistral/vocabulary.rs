//! The bytes of every token, read once: what mistralrs streams are pieces of text, not tokens.
//!
//! Byte-level BPE (GPT-2's alphabet) and SentencePiece (`▁` and `<0xE4>`), from a `tokenizer.json` or a GGUF.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::Path;

use candle_core::quantized::gguf_file::{Content, Value as GgufValue};
use serde::Deserialize;
use serde_json::Value;

use super::files::read_json;
use super::load::LoadError;

/// What mistralrs takes for an end too where the chat template mentions it (`SUPPORTED_ALTERNATE_EOS` in its
/// `chat_template.rs`).
const ENDS_IN_TEMPLATES: [&str; 8] = [
    "<|im_end|>",
    "<end_of_turn>",
    "<|end_of_text|>",
    "<|end|>",
    "<|eot_id|>",
    "<|message|>",
    "<|start|>",
    "<|channel|>",
];

/// The bytes of every token.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    pieces: Vec<Piece>,
    /// Control tokens by name.
    special: HashMap<String, u32>,
    ends: HashSet<u32>,
    /// SentencePiece puts a space before the first word, which its decoder takes away again.
    strips_first_space: bool,
}

#[derive(Clone, Debug, Default)]
struct Piece {
    bytes: Box<[u8]>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    /// Text.
    Shown,
    /// A control token, whose bytes are its name; or no token at all.
    #[default]
    Special,
}

/// How a tokenizer writes bytes as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    ByteLevel,
    SentencePiece { strips_first_space: bool },
}

impl Vocabulary {
    /// From a folder in Hugging Face's layout.
    pub fn from_folder(folder: &Path) -> Result<Self, LoadError> {
        let path = folder.join("tokenizer.json");
        let file: TokenizerFile = read_json(&path)?;
        let style = style_of(file.decoder.as_ref())
            .ok_or_else(|| LoadError::Malformed { path, reason: "its decoder is not supported".into() })?;

        let mut pieces = Pieces::new(style);
        match file.model.vocab {
            Tokens::ById(tokens) => tokens.iter().for_each(|(token, id)| pieces.put(*id, token)),
            Tokens::InOrder(tokens) => (0..).zip(&tokens).for_each(|(id, (token, _))| pieces.put(id, token)),
        }
        for added in &file.added_tokens {
            let kind = if added.special { Kind::Special } else { Kind::Shown };
            pieces.put_literally(added.id, &added.content, kind);
        }
        let ends = ends_of_folder(folder, &pieces.ids)?;
        Ok(pieces.finish(ends))
    }

    /// From a GGUF's header.
    pub fn from_gguf(path: &Path, header: &Content) -> Result<Self, LoadError> {
        let malformed = |reason: &str| LoadError::Malformed { path: path.to_owned(), reason: reason.to_owned() };
        let get = |name: &str| header.metadata.get(&format!("tokenizer.{name}"));
        let style = match get("ggml.model").and_then(|model| model.to_string().ok()).map(String::as_str) {
            Some("gpt2") => Style::ByteLevel,
            Some("llama" | "replit") => Style::SentencePiece { strips_first_space: true },
            _ => return Err(malformed("its tokenizer is not supported")),
        };
        let list = |name: &str| get(name).and_then(|list| list.to_vec().ok()).map(Vec::as_slice);
        let tokens = list("ggml.tokens").ok_or_else(|| malformed("it has no tokens"))?;
        let kinds = list("ggml.token_type").unwrap_or_default();

        let mut pieces = Pieces::new(style);
        for (id, token) in (0u32..).zip(tokens) {
            let token = token.to_string().map_err(|_| malformed("a token is not text"))?;
            // llama.cpp's `llama_token_type`: 2 unknown, 3 control, 4 user-defined, 5 unused.
            match kinds.get(id as usize).and_then(|kind| kind.to_i32().ok()) {
                Some(2 | 3 | 5) => pieces.put_literally(id, token, Kind::Special),
                Some(4) if style == Style::ByteLevel => pieces.put_literally(id, token, Kind::Shown),
                _ => pieces.put(id, token),
            }
        }
        let template = get("chat_template").and_then(|template| template.to_string().ok()).map_or("", String::as_str);
        let mut ends = named_ends(template, &pieces.ids);
        let ids = ["ggml.eos_token_id", "ggml.eot_token_id"].map(|name| get(name).and_then(unsigned));
        ends.extend(ids.into_iter().flatten());
        Ok(pieces.finish(ends))
    }

    /// What a token adds to an answer's text.
    pub fn shown(&self, token: u32) -> &[u8] {
        match self.pieces.get(token as usize) {
            Some(Piece { bytes, kind: Kind::Shown }) if !self.ends.contains(&token) => bytes,
            _ => b"",
        }
    }

    /// A token's name, for a person: its text, or what the tokenizer calls it.
    pub fn name(&self, token: u32) -> Cow<'_, str> {
        self.pieces.get(token as usize).map_or(Cow::Borrowed(""), |piece| String::from_utf8_lossy(&piece.bytes))
    }

    /// Whether it is a control token, or none at all.
    pub fn is_special(&self, token: u32) -> bool {
        self.pieces.get(token as usize).is_none_or(|piece| piece.kind == Kind::Special)
    }

    /// The control token of this name.
    pub fn special_id(&self, name: &str) -> Option<u32> {
        self.special.get(name).copied()
    }

    /// The token that is this text and nothing else, be it a control token or not.
    pub fn id_of(&self, text: &str) -> Option<u32> {
        let is_text = |piece: &Piece| &*piece.bytes == text.as_bytes();
        self.special_id(text).or_else(|| self.pieces.iter().position(is_text).map(|at| at as u32))
    }

    /// Whether an answer ends with this token.
    pub fn is_end(&self, token: u32) -> bool {
        self.ends.contains(&token)
    }

    /// The tokens with which an answer ends, and which are control tokens.
    pub fn special_ends(&self) -> Vec<u32> {
        let is_special = |id: &u32| self.pieces.get(*id as usize).is_some_and(|piece| piece.kind == Kind::Special);
        let mut ends: Vec<u32> = self.ends.iter().copied().filter(is_special).collect();
        ends.sort_unstable();
        ends
    }

    /// Whether an answer's first character is dropped if it is a space.
    pub fn strips_first_space(&self) -> bool {
        self.strips_first_space
    }

    /// How many ids there are.
    pub fn len(&self) -> usize {
        self.pieces.len()
    }
}

/// A vocabulary in the making.
struct Pieces {
    style: Style,
    alphabet: HashMap<char, u8>,
    pieces: Vec<Piece>,
    ids: HashMap<String, u32>,
}

impl Pieces {
    fn new(style: Style) -> Self {
        Self { style, alphabet: byte_level_alphabet(), pieces: Vec::new(), ids: HashMap::new() }
    }

    /// A token as the tokenizer writes it.
    fn put(&mut self, id: u32, token: &str) {
        let bytes = match self.style {
            // What has other letters in it was added as it stands.
            Style::ByteLevel => token.chars().map(|letter| self.alphabet.get(&letter).copied()).collect(),
            Style::SentencePiece { .. } => byte_fallback(token).map(|byte| vec![byte]),
        };
        match (bytes, self.style) {
            (Some(bytes), _) => self.insert(id, token, bytes, Kind::Shown),
            (None, Style::ByteLevel) => self.put_literally(id, token, Kind::Shown),
            (None, Style::SentencePiece { .. }) => {
                self.insert(id, token, token.replace('▁', " ").into_bytes(), Kind::Shown);
            }
        }
    }

    fn put_literally(&mut self, id: u32, token: &str, kind: Kind) {
        self.insert(id, token, token.as_bytes().to_vec(), kind);
    }

    fn insert(&mut self, id: u32, token: &str, bytes: Vec<u8>, kind: Kind) {
        let at = id as usize;
        if self.pieces.len() <= at {
            self.pieces.resize_with(at + 1, Piece::default);
        }
        self.pieces[at] = Piece { bytes: bytes.into(), kind };
        self.ids.insert(token.to_owned(), id);
    }

    fn finish(self, ends: HashSet<u32>) -> Vocabulary {
        let strips_first_space = self.style == Style::SentencePiece { strips_first_space: true };
        let is_special = |id: &u32| self.pieces.get(*id as usize).is_some_and(|piece| piece.kind == Kind::Special);
        let special = self.ids.into_iter().filter(|(_, id)| is_special(id)).collect();
        Vocabulary { pieces: self.pieces, special, ends, strips_first_space }
    }
}

/// GPT-2's alphabet: printable bytes stand for themselves, the others for the letters from U+0100 on.
fn byte_level_alphabet() -> HashMap<char, u8> {
    let is_printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let printable = (0..=u8::MAX).filter(is_printable).map(|byte| (char::from(byte), byte));
    let others = ('\u{100}'..).zip((0..=u8::MAX).filter(|byte| !is_printable(byte)));
    printable.chain(others).collect()
}

/// SentencePiece's name for a single byte: `<0xE4>`.
fn byte_fallback(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

#[derive(Deserialize)]
struct TokenizerFile {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    model: TokenizerModel,
    decoder: Option<Value>,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    special: bool,
}

#[derive(Deserialize)]
struct TokenizerModel {
    vocab: Tokens,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Tokens {
    /// BPE and others.
    ById(HashMap<String, u32>),
    /// Unigram: token and score.
    InOrder(Vec<(String, f64)>),
}

fn style_of(decoder: Option<&Value>) -> Option<Style> {
    let decoder = decoder?;
    let steps = match decoder.get("decoders").and_then(Value::as_array) {
        Some(steps) => steps.iter().collect(),
        None => vec![decoder],
    };
    let find = |name: &str| steps.iter().find(|step| step.get("type").is_some_and(|kind| kind == name));
    if find("ByteLevel").is_some() {
        return Some(Style::ByteLevel);
    }
    if let Some(metaspace) = find("Metaspace") {
        let never = metaspace.get("prepend_scheme").is_some_and(|scheme| scheme == "never")
            || metaspace.get("add_prefix_space").is_some_and(|add| add == false);
        return Some(Style::SentencePiece { strips_first_space: !never });
    }
    find("Replace").filter(|replace| replace.pointer("/pattern/String").is_some_and(|pattern| pattern == "▁"))?;
    let strips_first_space = find("Strip").is_some_and(|strip| {
        strip.get("content").is_some_and(|content| content == " ")
            && strip.get("start").and_then(Value::as_u64) > Some(0)
    });
    Some(Style::SentencePiece { strips_first_space })
}

fn ends_of_folder(folder: &Path, ids: &HashMap<String, u32>) -> Result<HashSet<u32>, LoadError> {
    let read = |name: &str| match folder.join(name) {
        path if path.is_file() => read_json::<Value>(&path),
        _ => Ok(Value::Null),
    };
    let tokenizer = read("tokenizer_config.json")?;
    let template = match folder.join("chat_template.jinja") {
        path if path.is_file() => std::fs::read_to_string(&path).map_err(|source| LoadError::Read { path, source })?,
        _ => tokenizer.get("chat_template").map(Value::to_string).unwrap_or_default(),
    };
    let mut ends = named_ends(&template, ids);
    let eos = tokenizer.get("eos_token").map(|eos| eos.get("content").unwrap_or(eos));
    ends.extend(eos.and_then(Value::as_str).and_then(|eos| ids.get(eos)));
    for config in [read("generation_config.json")?, read("config.json")?] {
        let listed = match config.get("eos_token_id") {
            Some(Value::Array(ids)) => ids.clone(),
            Some(id) => vec![id.clone()],
            None => continue,
        };
        ends.extend(listed.iter().filter_map(Value::as_u64).filter_map(|id| u32::try_from(id).ok()));
        // As in transformers: the first file that says so decides.
        break;
    }
    Ok(ends)
}

fn named_ends(template: &str, ids: &HashMap<String, u32>) -> HashSet<u32> {
    ENDS_IN_TEMPLATES.iter().filter(|end| template.contains(**end)).filter_map(|end| ids.get(*end)).copied().collect()
}

fn unsigned(value: &GgufValue) -> Option<u32> {
    value.to_u32().ok().or_else(|| value.to_u64().ok().and_then(|id| u32::try_from(id).ok()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn folder(tokenizer: &Value) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let config = json!({"eos_token": {"content": "</s>"}, "chat_template": "{{ x }}<|im_end|>"});
        std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        std::fs::write(folder.path().join("config.json"), json!({"eos_token_id": [5]}).to_string()).unwrap();
        folder
    }

    #[test]
    fn byte_level_tokens_are_bytes() {
        let folder = folder(&json!({
            "model": {"vocab": {"Ġthe": 0, "æ¼": 1, "¢": 2, "Ċ": 3}},
            "decoder": {"type": "ByteLevel"},
            "added_tokens": [
                {"id": 4, "content": "<|im_end|>", "special": true},
                {"id": 7, "content": "<think>", "special": false},
            ],
        }));
        let vocabulary = Vocabulary::from_folder(folder.path()).unwrap();
        let bytes: Vec<u8> = (0..4).flat_map(|id| vocabulary.shown(id).to_vec()).collect();
        assert_eq!(String::from_utf8(bytes).unwrap(), " the漢\n");
        assert_eq!((vocabulary.shown(4), vocabulary.name(4)), (&b""[..], "<|im_end|>".into()));
        assert_eq!(vocabulary.shown(7), b"<think>");
        assert_eq!(vocabulary.len(), 8);
        assert_eq!((vocabulary.shown(6), vocabulary.shown(99)), (&b""[..], &b""[..]), "padding shows nothing");
        assert!(vocabulary.is_end(4) && vocabulary.is_end(5) && !vocabulary.is_end(7));
        assert_eq!(vocabulary.special_ends(), [4, 5]);
        assert!(!vocabulary.strips_first_space());
    }

    #[test]
    fn sentencepiece_tokens_are_words_and_bytes() {
        let folder = folder(&json!({
            "model": {"vocab": [["<unk>", 0.0], ["▁the", -1.0], ["<0xE6>", -2.0], ["</s>", 0.0]]},
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ]},
            "added_tokens": [{"id": 3, "content": "</s>", "special": true}],
        }));
        let vocabulary = Vocabulary::from_folder(folder.path()).unwrap();
        assert_eq!((vocabulary.shown(1), vocabulary.shown(2)), (&b" the"[..], &b"\xE6"[..]));
        assert!(vocabulary.is_end(3) && vocabulary.strips_first_space());
    }

    #[test]
    fn decoders_that_are_not_understood_are_refused() {
        for decoder in [json!(null), json!({"type": "WordPiece"}), json!({"type": "Sequence", "decoders": []})] {
            let folder = folder(&json!({"model": {"vocab": {}}, "decoder": decoder}));
            assert!(matches!(Vocabulary::from_folder(folder.path()), Err(LoadError::Malformed { .. })), "{decoder}");
        }
    }

    #[test]
    fn the_alphabet_has_every_byte_once() {
        let alphabet = byte_level_alphabet();
        assert_eq!(alphabet.values().collect::<HashSet<_>>().len(), 256);
        assert_eq!((alphabet[&'A'], alphabet[&'Ġ'], alphabet[&'Ċ'], alphabet[&'ł']), (b'A', b' ', b'\n', 0xA0));
    }
}
