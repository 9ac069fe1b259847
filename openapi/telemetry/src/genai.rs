//! The names of OpenTelemetry's GenAI conventions (semantic conventions 1.37 and later), and the metrics that they define.

use std::sync::OnceLock;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Histogram, Meter};

/// `chat`, `text_completion` or `embeddings`.
pub const OPERATION: &str = "gen_ai.operation.name";
/// Who offers the model.
pub const PROVIDER: &str = "gen_ai.provider.name";
/// The model that was asked for.
pub const REQUEST_MODEL: &str = "gen_ai.request.model";
/// The most tokens that were asked for.
pub const MAX_TOKENS: &str = "gen_ai.request.max_tokens";
/// The model that answered.
pub const RESPONSE_MODEL: &str = "gen_ai.response.model";
/// The answer's id.
pub const RESPONSE_ID: &str = "gen_ai.response.id";
/// Why it ended, choice by choice.
pub const FINISH_REASONS: &str = "gen_ai.response.finish_reasons";
/// Tokens of the prompt.
pub const INPUT_TOKENS: &str = "gen_ai.usage.input_tokens";
/// Tokens of the answer.
pub const OUTPUT_TOKENS: &str = "gen_ai.usage.output_tokens";
/// `input` or `output`.
pub const TOKEN_TYPE: &str = "gen_ai.token.type";
/// Why it failed: a short name.
pub const ERROR_TYPE: &str = "error.type";
/// What [`PROVIDER`] says here.
pub const LUMBUNG: &str = "lumbung";

/// Bounds that the conventions give for whole requests, in microseconds.
pub static DURATION_US: [u64; 14] = [
    10_000, 20_000, 40_000, 80_000, 160_000, 320_000, 640_000, 1_280_000, 2_560_000, 5_120_000, 10_240_000, 20_480_000,
    40_960_000, 81_920_000,
];
/// … for the time to the first token.
pub static FIRST_TOKEN_US: [u64; 16] = [
    1_000, 5_000, 10_000, 20_000, 40_000, 60_000, 80_000, 100_000, 250_000, 500_000, 750_000, 1_000_000, 2_500_000,
    5_000_000, 7_500_000, 10_000_000,
];
/// … for the time of each token after the first.
pub static PER_TOKEN_US: [u64; 13] = [
    10_000, 25_000, 50_000, 75_000, 100_000, 150_000, 200_000, 300_000, 400_000, 500_000, 750_000, 1_000_000, 2_500_000,
];
/// … for tokens.
const TOKENS: [f64; 14] = [
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

static INSTRUMENTS: OnceLock<Instruments> = OnceLock::new();

struct Instruments {
    tokens: Histogram<u64>,
    duration: Histogram<f64>,
    first_token: Histogram<f64>,
    per_token: Histogram<f64>,
}

/// An answer that is over, in the conventions' words.
#[derive(Clone, Debug)]
pub struct Answered {
    /// `chat`, `text_completion` or `embeddings`.
    pub operation: &'static str,
    /// The catalogue's id.
    pub model: String,
    /// Why it failed, if it did.
    pub error: Option<&'static str>,
    /// Tokens of the prompt.
    pub input_tokens: u32,
    /// Tokens of the answer.
    pub output_tokens: u32,
    /// From request to end.
    pub duration_us: u64,
    /// To the first token.
    pub first_token_us: Option<u64>,
    /// Of each token after the first.
    pub per_token_us: Option<u64>,
}

/// Makes the conventions' instruments, for the whole process.
pub(crate) fn install(meter: &Meter) {
    let times = |name: &'static str, what: &'static str, bounds: &[u64]| {
        let bounds = bounds.iter().map(|us| *us as f64 / 1e6).collect();
        meter.f64_histogram(name).with_unit("s").with_description(what).with_boundaries(bounds).build()
    };
    let tokens = meter.u64_histogram("gen_ai.client.token.usage").with_unit("{token}");
    let tokens = tokens.with_description("Number of input and output tokens used.");
    let instruments = Instruments {
        tokens: tokens.with_boundaries(TOKENS.to_vec()).build(),
        duration: times("gen_ai.server.request.duration", "Generative AI server request duration.", &DURATION_US),
        first_token: times("gen_ai.server.time_to_first_token", "Time to generate first token.", &FIRST_TOKEN_US),
        per_token: times(
            "gen_ai.server.time_per_output_token",
            "Time per output token generated after the first token.",
            &PER_TOKEN_US,
        ),
    };
    drop(INSTRUMENTS.set(instruments)); // once: whoever came first stays
}

/// Whether anybody wants [`record`].
pub fn is_wanted() -> bool {
    INSTRUMENTS.get().is_some()
}

/// Records an answer. Takes locks: not for the way of a request.
pub fn record(answered: &Answered) {
    let Some(instruments) = INSTRUMENTS.get() else { return };
    let mut common = vec![
        KeyValue::new(OPERATION, answered.operation),
        KeyValue::new(PROVIDER, LUMBUNG),
        KeyValue::new(REQUEST_MODEL, answered.model.clone()),
    ];
    let secs = |us: u64| us as f64 / 1e6;
    answered.first_token_us.into_iter().for_each(|us| instruments.first_token.record(secs(us), &common));
    answered.per_token_us.into_iter().for_each(|us| instruments.per_token.record(secs(us), &common));
    for (kind, tokens) in [("input", answered.input_tokens), ("output", answered.output_tokens)] {
        common.push(KeyValue::new(TOKEN_TYPE, kind));
        instruments.tokens.record(u64::from(tokens), &common);
        common.pop();
    }
    common.extend(answered.error.map(|error| KeyValue::new(ERROR_TYPE, error)));
    instruments.duration.record(secs(answered.duration_us), &common);
}
