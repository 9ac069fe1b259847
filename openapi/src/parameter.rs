//! OpenAI's request parameters that an engine may or may not honour, as a set that routes requests.
//!
//! A parameter counts as used when its value asks for something: `n: 1` or `tools: []` ask for nothing.

use std::fmt;

macro_rules! parameters {
    ($($variant:ident = $name:literal),+ $(,)?) => {
        /// One parameter of a request, or a kind of content within its messages.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Parameter { $(#[doc = $name] $variant),+ }

        impl Parameter {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Its name on the wire.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

parameters! {
    MaxTokens = "max_tokens",
    Temperature = "temperature",
    TopP = "top_p",
    Seed = "seed",
    Stop = "stop",
    N = "n",
    FrequencyPenalty = "frequency_penalty",
    PresencePenalty = "presence_penalty",
    LogitBias = "logit_bias",
    Logprobs = "logprobs",
    TopLogprobs = "top_logprobs",
    Tools = "tools",
    ToolChoice = "tool_choice",
    ParallelToolCalls = "parallel_tool_calls",
    Functions = "functions",
    FunctionCall = "function_call",
    ResponseFormat = "response_format",
    ReasoningEffort = "reasoning_effort",
    Verbosity = "verbosity",
    Modalities = "modalities",
    Audio = "audio",
    Prediction = "prediction",
    Store = "store",
    WebSearchOptions = "web_search_options",
    ImageUrl = "image_url",
    InputAudio = "input_audio",
    File = "file",
    Prompt = "prompt",
    Echo = "echo",
    Suffix = "suffix",
    BestOf = "best_of",
    Input = "input",
    Dimensions = "dimensions",
}

/// A set of parameters, small enough to copy.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct ParameterSet(u64);

impl ParameterSet {
    /// Adds one.
    pub fn insert(&mut self, parameter: Parameter) {
        self.0 |= 1 << parameter as u8;
    }

    /// Whether it is in the set.
    pub fn contains(self, parameter: Parameter) -> bool {
        self.0 & (1 << parameter as u8) != 0
    }

    /// Those of `self` that `supported` lacks.
    pub fn missing_from(self, supported: Self) -> Self {
        Self(self.0 & !supported.0)
    }

    /// Those in both.
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its members, in order.
    pub fn iter(self) -> impl Iterator<Item = Parameter> {
        Parameter::ALL.iter().copied().filter(move |parameter| self.contains(*parameter))
    }

    /// From names on the wire; a name that this version does not know is left out.
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        names.into_iter().filter_map(|name| Parameter::ALL.iter().copied().find(|p| p.name() == name)).collect()
    }
}

impl FromIterator<Parameter> for ParameterSet {
    fn from_iter<I: IntoIterator<Item = Parameter>>(parameters: I) -> Self {
        let mut set = Self::default();
        parameters.into_iter().for_each(|parameter| set.insert(parameter));
        set
    }
}

impl fmt::Debug for ParameterSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(Parameter::name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_set_agree() {
        assert!(Parameter::ALL.len() <= 64);
        let all: ParameterSet = Parameter::ALL.iter().copied().collect();
        assert_eq!(ParameterSet::from_names(all.iter().map(Parameter::name)), all);
        let some = ParameterSet::from_names(["seed", "no_such_parameter"]);
        assert_eq!(some.iter().collect::<Vec<_>>(), [Parameter::Seed]);
        assert_eq!(all.missing_from(some).iter().count(), Parameter::ALL.len() - 1);
    }
}
