//! How a model writes what is not plain text: its reasoning and its tool calls. Nothing tells but its chat template.

use lumbung_openapi::template::ChatTemplate;

/// How a model writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Convention {
    /// Its calls; `None` where the template knows no tools, or in a form that is not known here.
    pub calls: Option<CallStyle>,
    /// Its reasoning; `None` where it does not think aloud.
    pub reasoning: Option<Tags>,
}

/// What comes before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tags {
    /// Before.
    pub open: &'static str,
    /// After.
    pub close: &'static str,
}

/// How calls are written. Each is `{"name": …, "arguments": …}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallStyle {
    /// Hermes, Qwen: each call between tags.
    Tagged(Tags),
    /// Mistral: a list of calls after this.
    List(&'static str),
    /// Llama and others: the answer begins with a call, whose arguments go by this name.
    Bare(&'static str),
}

/// With which a call begins where nothing comes before it.
pub const BARE_OPEN: &str = "{\"name\"";
const THINK: Tags = Tags { open: "<think>", close: "</think>" };
const TOOL_CALL: Tags = Tags { open: "<tool_call>", close: "</tool_call>" };
const TOOL_CALLS: &str = "[TOOL_CALLS]";

impl Convention {
    /// Of a template.
    pub fn of(template: &ChatTemplate) -> Self {
        let reasoning = template.mentions(THINK.close).then_some(THINK);
        Self { calls: CallStyle::of(template), reasoning }
    }

    /// The tags, which may be control tokens that would show nothing.
    pub fn markers(&self) -> Vec<&'static str> {
        let of_calls = match self.calls {
            Some(CallStyle::Tagged(tags)) => vec![tags.open, tags.close],
            Some(CallStyle::List(open)) => vec![open],
            Some(CallStyle::Bare(_)) | None => Vec::new(),
        };
        self.reasoning.into_iter().flat_map(|tags| [tags.open, tags.close]).chain(of_calls).collect()
    }
}

impl CallStyle {
    fn of(template: &ChatTemplate) -> Option<Self> {
        let has = |text| template.mentions(text);
        if !has("tools") {
            return None;
        }
        if has(TOOL_CALL.open) {
            // Qwen's coders write XML between the same tags.
            return (!has("<function=") && has(TOOL_CALL.close)).then_some(Self::Tagged(TOOL_CALL));
        }
        if has(TOOL_CALLS) {
            // The newer form: `[TOOL_CALLS]name[ARGS]{…}`.
            return (!has("[ARGS]") && !has("[CALL_ID]")).then_some(Self::List(TOOL_CALLS));
        }
        let is_named = has("tool_calls") && has("\"name\":");
        if is_named && has("\"parameters\":") {
            return Some(Self::Bare("parameters"));
        }
        (is_named && has("\"arguments\":")).then_some(Self::Bare("arguments"))
    }

    /// What shows that a call begins.
    pub fn open(self) -> &'static str {
        match self {
            Self::Tagged(tags) => tags.open,
            Self::List(open) => open,
            Self::Bare(_) => BARE_OPEN,
        }
    }

    /// What the arguments are called.
    pub fn arguments(self) -> &'static str {
        match self {
            Self::Bare(name) => name,
            Self::Tagged(_) | Self::List(_) => "arguments",
        }
    }
}

#[cfg(test)]
mod tests {
    use lumbung_openapi::template::SpecialTokens;

    use super::*;

    fn convention(source: &str) -> Convention {
        let source = format!("{{# {source} #}}");
        Convention::of(&ChatTemplate::compile(&source, SpecialTokens::default()).unwrap())
    }

    #[test]
    fn templates_tell_how_calls_and_reasoning_are_written() {
        let calls = |source: &str| convention(source).calls;
        assert_eq!(calls("tools <tool_call> {\"name\": } </tool_call>"), Some(CallStyle::Tagged(TOOL_CALL)));
        assert_eq!(calls("tools <tool_call><function=x></tool_call>"), None);
        assert_eq!(calls("tools [TOOL_CALLS] {\"name\": "), Some(CallStyle::List(TOOL_CALLS)));
        assert_eq!(calls("tools [TOOL_CALLS]x[ARGS]"), None);
        assert_eq!(calls("tools tool_calls {\"name\": , \"parameters\": "), Some(CallStyle::Bare("parameters")));
        assert_eq!(calls("tools tool_calls {\"name\": , \"arguments\": "), Some(CallStyle::Bare("arguments")));
        assert_eq!(calls("messages"), None);
        assert_eq!(convention("<think> </think>").reasoning, Some(THINK));
        assert_eq!(convention("tools").reasoning, None);
        assert_eq!(convention("tools <tool_call></tool_call></think>").markers().len(), 4);
    }
}
