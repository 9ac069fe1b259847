//! What a model takes and gives, in OpenRouter's terms.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A kind of content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Modality {
    /// Text.
    Text,
    /// Pictures.
    Image,
    /// Sound.
    Audio,
    /// Moving pictures.
    Video,
    /// Files, such as PDF.
    File,
    /// Vectors: only given, never taken.
    Embeddings,
}

impl Modality {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Text, Self::Image, Self::Audio, Self::Video, Self::File, Self::Embeddings];

    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Image => "image",
            Self::Audio => "audio",
            Self::Video => "video",
            Self::File => "file",
            Self::Embeddings => "embeddings",
        }
    }
}

impl std::fmt::Display for Modality {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// No modality's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not one of text, image, audio, video, file and embeddings")]
pub struct UnknownModality;

impl std::str::FromStr for Modality {
    type Err = UnknownModality;

    fn from_str(name: &str) -> Result<Self, UnknownModality> {
        Self::ALL.into_iter().find(|modality| modality.name() == name).ok_or(UnknownModality)
    }
}

/// Kinds of content: at least one, each once, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Modalities(Vec<Modality>);

impl Modalities {
    /// Those named; `None` if there is none.
    pub fn new(mut named: Vec<Modality>) -> Option<Self> {
        named.sort_unstable();
        named.dedup();
        (!named.is_empty()).then_some(Self(named))
    }

    /// Whether this kind is among them.
    pub fn contains(&self, modality: Modality) -> bool {
        self.0.contains(&modality)
    }

    /// All of them.
    pub fn as_slice(&self) -> &[Modality] {
        &self.0
    }

    /// Their names with `separator` between.
    pub fn join(&self, separator: &str) -> String {
        self.0.iter().map(|modality| modality.name()).collect::<Vec<_>>().join(separator)
    }
}

/// Text alone.
impl Default for Modalities {
    fn default() -> Self {
        Self(vec![Modality::Text])
    }
}

/// What a model takes and gives, in the list of models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Architecture {
    /// Both in one line, such as `text+image->text`.
    pub modality: String,
    /// What it takes.
    pub input_modalities: Vec<Modality>,
    /// What it gives.
    pub output_modalities: Vec<Modality>,
    /// The digest of the tokenizer by which providers' counts are checked (`sha256:…`); null where there is none.
    pub tokenizer: Option<String>,
}

impl Architecture {
    /// Of a model that takes and gives these.
    pub fn new(input: &Modalities, output: &Modalities, tokenizer: Option<String>) -> Self {
        Self {
            modality: format!("{}->{}", input.join("+"), output.join("+")),
            input_modalities: input.0.clone(),
            output_modalities: output.0.clone(),
            tokenizer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_wire_and_each_counts_once() {
        for modality in Modality::ALL {
            assert_eq!(serde_json::to_value(modality).ok(), Some(modality.name().into()));
            assert_eq!(modality.name().parse(), Ok(modality));
        }
        assert_eq!("smell".parse::<Modality>(), Err(UnknownModality));
        assert_eq!(Modalities::new(vec![]), None);
        let both = Modalities::new(vec![Modality::Image, Modality::Text, Modality::Image]).expect("some");
        assert_eq!(Architecture::new(&both, &Modalities::default(), None).modality, "text+image->text");
    }
}
