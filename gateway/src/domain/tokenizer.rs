//! A model's own tokenizer: how many tokens a prompt has, and how many an answer's text has at most.
//!
//! A text has one *canonical* tokenization, which anyone can recompute. A model may draw another one for the same text;
//! what is more than canonical is not paid for, because nobody can tell it from text spelled in smaller tokens on purpose.

use std::borrow::Cow;

use lumbung_openapi::chat::{ChatRequest, Prompt};
use sha2::{Digest, Sha256};
use tokenizers::Tokenizer;

use lumbung_openapi::template::{ChatTemplate, SpecialTokens, ToolMembers};

/// The most bytes of `tokenizer.json`, and of a template.
pub const MAX_FILE: usize = 32 << 20;
/// Tokens around reasoning that are taken out of the text: its tags and the white space beside them.
const AROUND_REASONING: usize = 6;
/// Tokens around a tool call that are taken out of the text: its tags, its keys and their punctuation.
const AROUND_TOOL_CALL: usize = 24;

/// What makes a tokenizer, as the model's author published it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenizerFiles {
    /// `tokenizer.json`
    pub tokenizer_json: String,
    /// Jinja; empty where the model has none, and then prompts are not counted.
    pub chat_template: String,
    /// What the template calls them.
    pub special_tokens: SpecialTokens,
}

/// Why files are no tokenizer.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// Larger than [`MAX_FILE`].
    #[error("{0} is larger than {MAX_FILE} bytes")]
    TooLarge(&'static str),
    /// `tokenizer.json` cannot be read.
    #[error("tokenizer.json: {0}")]
    Tokenizer(#[source] tokenizers::Error),
    /// The template cannot be read.
    #[error("chat template: {0}")]
    Template(#[source] minijinja::Error),
}

/// A tokenizer, ready to count. Large: share it.
pub struct ModelTokenizer {
    digest: String,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
}

/// One choice of an answer, as the client got it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The text.
    pub content: String,
    /// The reasoning, where a server tells it apart.
    pub reasoning: String,
    /// Names and arguments of tool calls, one after the other.
    pub calls: String,
    /// How many tool calls.
    pub call_count: usize,
    /// The longest name of a tool that a call may have been begun of; `None` where none may have.
    pub callable: Option<String>,
    /// OpenAI's `finish_reason`; `None` where the answer broke off.
    pub finish_reason: Option<String>,
}

impl TokenizerFiles {
    /// SHA-256 over all of it, `sha256:<hex>`.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        let SpecialTokens { bos, eos, unk } = &self.special_tokens;
        let special = [bos, eos, unk].map(|token| token.as_deref().unwrap_or_default());
        for part in [self.tokenizer_json.as_str(), &self.chat_template].into_iter().chain(special) {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{hex}")
    }
}

impl ModelTokenizer {
    /// Reads the files: slow for large ones, so not where requests are served.
    pub fn new(files: &TokenizerFiles) -> Result<Self, TokenizerError> {
        for (name, text) in [("tokenizer.json", &files.tokenizer_json), ("the chat template", &files.chat_template)] {
            if text.len() > MAX_FILE {
                return Err(TokenizerError::TooLarge(name));
            }
        }
        let mut tokenizer = Tokenizer::from_bytes(&files.tokenizer_json).map_err(TokenizerError::Tokenizer)?;
        // Some authors leave a limit in the file, which would cap every count.
        tokenizer.with_truncation(None).map_err(TokenizerError::Tokenizer)?;
        tokenizer.with_padding(None);
        let template = match files.chat_template.is_empty() {
            true => None,
            false => {
                let compiled = ChatTemplate::compile(&files.chat_template, files.special_tokens.clone());
                Some(compiled.map_err(TokenizerError::Template)?)
            }
        };
        Ok(Self { digest: files.digest(), tokenizer, template })
    }

    /// What names it.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Whether the template writes tools. Where it does not, what a server makes of them is its own.
    pub fn writes_tools(&self) -> bool {
        self.template.as_ref().is_some_and(|template| template.mentions("tools"))
    }

    /// The most tokens that the prompt can honestly have, template included; `None` where there is no template or it does
    /// not take these messages. Text only: whoever asks must know that the request has no images or the like.
    pub fn prompt_tokens(&self, request: &ChatRequest<'_>, now_secs: i64) -> Option<u32> {
        if let Some(prompts) = request.raw_prompts() {
            return prompts
                .iter()
                .map(|prompt| self.raw_tokens(prompt))
                .try_fold(0, |sum: u32, one| sum.checked_add(one?));
        }
        let tools = &request.tools.list;
        let is_whole = tools.iter().all(|tool| tool.description.is_some() && tool.parameters.is_some() && !tool.strict);
        let forms: &[ToolMembers] =
            if is_whole { &[ToolMembers::Given] } else { &[ToolMembers::Given, ToolMembers::All] };
        let template = self.template.as_ref()?;
        let count = |members: &ToolMembers| self.count(&template.render_with(request, *members, now_secs).ok()?);
        forms.iter().filter_map(count).max().and_then(|tokens| u32::try_from(tokens).ok())
    }

    /// Tokens of a prompt without a template: then the tokenizer's own beginning and end are added, as every server does.
    fn raw_tokens(&self, prompt: &Prompt<'_>) -> Option<u32> {
        let tokens = match prompt {
            Prompt::Text(text) => self.tokenizer.encode_fast(&**text, true).ok()?.len(),
            Prompt::Tokens(ids) => ids.len(),
        };
        u32::try_from(tokens).ok()
    }

    /// The most tokens that a choice can honestly have cost: its text's, and those that a server makes and does not show.
    /// The end of turn counts (as in vLLM's usage: it cost a step), and so does the stop sequence that ended the answer.
    pub fn completion_tokens(&self, said: &Said, stops: &[Cow<'_, str>]) -> Option<u32> {
        let ended = matches!(said.finish_reason.as_deref(), Some("stop" | "tool_calls" | "function_call"));
        let mut content = self.count(&said.content)? + usize::from(ended);
        if said.finish_reason.as_deref() != Some("length") {
            // Which of them it was, or may have been about to be, is not told.
            for stop in stops {
                content = content.max(self.count(&format!("{}{stop}", said.content))?);
            }
        }
        let reasoning = match said.reasoning.is_empty() {
            true => 0,
            false => self.count(&said.reasoning)? + AROUND_REASONING,
        };
        let calls = match said.call_count {
            0 => 0,
            calls => self.count(&said.calls)? + calls * AROUND_TOOL_CALL,
        };
        // An answer that is cut off may have begun a call, of which nothing is shown before its name is whole.
        let begun = match (&said.callable, said.finish_reason.as_deref()) {
            (Some(name), None | Some("length")) => self.count(name)? + AROUND_TOOL_CALL,
            _ => 0,
        };
        u32::try_from(content + reasoning + calls + begun).ok()
    }

    /// No special tokens are added: a template writes its own, and an answer has none.
    fn count(&self, text: &str) -> Option<usize> {
        if text.is_empty() {
            return Some(0);
        }
        self.tokenizer.encode_fast(text, false).ok().map(|encoding| encoding.len())
    }
}

#[cfg(test)]
pub(crate) mod tests;
