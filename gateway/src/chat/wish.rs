//! What a request asks of each of its models: which can serve it at all, and how much that can come to.

use std::sync::Arc;

use bytes::Bytes;
use lumbung_openapi::chat::routing::{Routing, Sort, split_suffix};
use lumbung_openapi::chat::{ChatRequest, Media, Prompt};
use lumbung_openapi::endpoint::Endpoint;
use lumbung_openapi::money::{NanoUsd, TokenPrice};
use lumbung_openapi::parameter::ParameterSet;

use super::authenticate::Caller;
use super::error::ApiError;
use super::{Gateway, clock};
use crate::domain::provider::Standing;
use crate::domain::routing::cost::Work;
use crate::domain::routing::dice::Dice;
use crate::domain::routing::prefix::Prefix;
use crate::domain::routing::roster::Errand;
use crate::domain::routing::wishes;
use crate::fleet::seat::Seat;
use crate::fleet::{ModelSeats, Snapshot};

/// Tokens that a chat template may add to what the client wrote, beyond one per byte of the body.
const TEMPLATE_TOKENS: u32 = 256;
/// Bytes of a request that count as one token against a rate: OpenAI's own rule of thumb for English text ("one token is
/// about four characters"). The rate is corrected once the answer is over.
const BYTES_PER_TOKEN: u64 = 4;

/// Completion tokens of a choice that are reckoned with when providers are compared: limits are mostly set far higher than
/// answers are long.
const LIKELY_COMPLETION_TOKENS: u32 = 512;

/// A model of a request, and what is asked of it.
pub type Target = (Wish, Arc<ModelSeats>);

/// What the gateway needs to know of a request after parsing, for one of its models.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The model's name as the client wrote it.
    pub public_model: String,
    /// Whether the answer comes as server-sent events.
    pub stream: bool,
    /// Whether the stream ends with a usage chunk.
    pub include_usage: bool,
    /// The parameters that a provider must honour.
    pub parameters: ParameterSet,
    /// The most prompt tokens that it can be: no tokenizer makes more than one token of a byte.
    pub max_prompt_tokens: u32,
    /// How many prompts there are: each has the model's context to itself.
    pub prompts: u32,
    /// The most completion tokens, over all choices.
    pub max_completion_tokens: u32,
    /// Those that money is held for at first: all of them where the client has named a limit; otherwise few, and as many
    /// again whenever the answer nears the end of what is held.
    pub held_completion_tokens: u32,
    /// Prompt and completion tokens, as far as can be said beforehand.
    pub likely_tokens: u64,
    /// The most that a provider may ask: the reference price, or what the client has set below it.
    pub max_price: TokenPrice,
    /// Whether providers on probation may serve.
    pub allow_probation: bool,
    /// What the client says about providers.
    pub routing: Routing,
    /// What is asked, as far as it makes one provider cost more than another.
    pub work: Work,
    /// How the prompt begins.
    pub prefix: Prefix,
}

impl Wish {
    /// Whether a provider is what the client and its account accept.
    pub fn accepts(&self, seat: &Seat) -> bool {
        seat.ask.is_within(&self.max_price)
            && (self.allow_probation || seat.standing != Standing::Newcomer)
            && wishes::allows(&self.routing, seat)
    }

    /// The most that it may cost by what is held for at first; `None` where 64 bits do not hold it.
    pub fn ceiling(&self) -> Option<NanoUsd> {
        self.max_price.cost(self.max_prompt_tokens, self.held_completion_tokens)
    }

    /// What a provider is chosen for.
    pub fn errand<'a>(&'a self, gateway: &Gateway, now_us: i64) -> Errand<'a> {
        let Self { work, prefix, routing, .. } = self;
        Errand { work: *work, prefix: *prefix, routing, second: gateway.fleet.second(), now_us }
    }

    /// Whether another provider than the first may be asked.
    pub fn allows_another(&self) -> bool {
        self.routing.allow_fallbacks || !self.routing.order.is_empty()
    }

    /// Why nobody among `seats` serves this.
    pub fn nobody(&self, seats: &[Arc<Seat>]) -> ApiError {
        if let Some(wish) =
            wishes::nobody(&self.routing, seats.iter().map(|seat| &**seat)).filter(|_| !seats.is_empty())
        {
            return ApiError::NobodyAllowed { model: self.public_model.clone(), wish: wish.param() };
        }
        let known = |seat: &&Arc<Seat>| {
            (self.allow_probation || seat.standing != Standing::Newcomer) && wishes::allows(&self.routing, &***seat)
        };
        match (seats.iter().any(|seat| known(&seat)), seats.is_empty()) {
            (_, true) => ApiError::NoProvider(self.public_model.clone()),
            (false, _) => ApiError::OnlyNewcomers(self.public_model.clone()),
            (true, _) if !seats.iter().filter(known).any(|seat| self.accepts(seat)) => {
                ApiError::AbovePriceCap(self.public_model.clone())
            }
            (true, _) => ApiError::NoProvider(self.public_model.clone()),
        }
    }
}

/// The models that can serve the request, the first choice first; why the first one cannot, if none can.
pub(super) fn understand(
    gateway: &Gateway,
    caller: &Caller,
    endpoint: Endpoint,
    body: &Bytes,
    normalized: &Bytes,
) -> Result<Vec<Target>, ApiError> {
    let request = endpoint.parse(normalized)?;
    // Whichever is longer: no prompt has more tokens than the text that it is made of has bytes.
    let text_len = body.len().max(normalized.len()).saturating_sub(request.media_bytes());
    if let Some(promise) = request.routing.promise {
        return Err(ApiError::NobodyPromises(promise));
    }
    let snapshot = gateway.fleet.snapshot();
    let prefix = Prefix::of(&request.messages);
    let names = std::iter::once(&request.model).chain(&request.fallbacks);
    let asked = Asked { endpoint, body, request: &request, prefix, text_len };
    let (mut targets, mut first_error) = (Vec::<Target>::with_capacity(1), None);
    for name in names {
        match target(gateway, caller, &snapshot, &asked, name) {
            Ok((_, model)) if targets.iter().any(|(_, known)| Arc::ptr_eq(known, &model)) => {}
            Ok(target) => targets.push(target),
            Err(error) => drop(first_error.get_or_insert(error)),
        }
    }
    if request.routing.across_models && targets.len() > 1 {
        let now_us = clock::unix_micros();
        targets.sort_by_cached_key(|(wish, model)| {
            let errand = wish.errand(gateway, now_us);
            let best = model.seats.choose(&errand, &mut Dice::new(prefix.hash), |seat| wish.accepts(seat), |_| {});
            Cheapest(best.map_or(f64::INFINITY, |best| best.cost.total))
        });
    }
    match first_error {
        Some(error) if targets.is_empty() => Err(error),
        _ => Ok(targets),
    }
}

/// A request, before it is known which of its models can serve it.
struct Asked<'a> {
    endpoint: Endpoint,
    /// As it came.
    body: &'a Bytes,
    request: &'a ChatRequest<'a>,
    prefix: Prefix,
    /// Bytes of the body that may be text of the prompt.
    text_len: usize,
}

/// What the request asks of one of its models, if that is there, allowed, and can do it.
fn target(
    gateway: &Gateway,
    caller: &Caller,
    snapshot: &Snapshot,
    asked: &Asked<'_>,
    name: &str,
) -> Result<Target, ApiError> {
    let Asked { endpoint, body, request, prefix, text_len } = *asked;
    let (model, name, sort) = find_model(snapshot, name)?;
    let scopes = [&caller.scopes.account.limits, &caller.scopes.key.limits];
    if !scopes.iter().all(|limits| limits.allows(&model.entry.id)) {
        return Err(ApiError::ModelNotAllowed(name.to_owned()));
    }
    if model.seats.is_empty() {
        return Err(ApiError::NoProvider(name.to_owned()));
    }
    if let Some(not_taken) = endpoint.not_taken(request, &model.entry.input_modalities, body) {
        return Err(not_taken.into());
    }
    if let Some(unsupported) = endpoint.unsupported(request, model.supported) {
        return Err(unsupported.into());
    }
    let context = model.entry.context_length;
    let per_choice =
        request.max_tokens.unwrap_or(context).min(model.entry.max_completion_tokens.unwrap_or(context)).min(context);
    let held_per_choice = match request.max_tokens {
        Some(_) => per_choice,
        None => per_choice.min(gateway.default_hold_tokens),
    };
    let max_prompt_tokens = longest_prompt(request, text_len, context);
    let held_completion_tokens = request.completion_tokens(held_per_choice);
    let likely_prompt_tokens = likely_prompt(request, text_len);
    let (reference, cap) = (model.entry.reference, request.routing.max_price);
    let mut routing = request.routing.clone();
    routing.sort = sort.or(routing.sort);
    let wish = Wish {
        likely_tokens: likely_prompt_tokens + u64::from(held_completion_tokens),
        max_price: TokenPrice {
            prompt: cap.prompt.map_or(reference.prompt, |cap| cap.min(reference.prompt)),
            completion: cap.completion.map_or(reference.completion, |cap| cap.min(reference.completion)),
        },
        allow_probation: scopes.iter().all(|limits| limits.allow_probation),
        stream: request.stream,
        include_usage: request.include_usage,
        parameters: request.parameters,
        max_prompt_tokens,
        prompts: request.prompt_count(),
        max_completion_tokens: request.completion_tokens(per_choice),
        held_completion_tokens,
        work: Work {
            prompt_tokens: u32::try_from(likely_prompt_tokens).unwrap_or(u32::MAX).min(max_prompt_tokens),
            prefix_tokens: prefix.tokens,
            completion_tokens: request.completion_tokens(per_choice.min(LIKELY_COMPLETION_TOKENS)),
        },
        prefix,
        routing,
        public_model: name.to_owned(),
    };
    match model.seats.iter().any(|seat| wish.accepts(seat)) {
        true => Ok((wish, model.clone())),
        false => Err(wish.nobody(&model.seats)),
    }
}

/// The most prompt tokens that a request can have. Prompts outside the model's template have a context each.
fn longest_prompt(request: &ChatRequest<'_>, text_len: usize, context: u32) -> u32 {
    let Some(prompts) = request.raw_prompts() else {
        let text = u32::try_from(text_len).unwrap_or(u32::MAX).saturating_add(TEMPLATE_TOKENS);
        let media = request.media.iter().map(Media::most_tokens);
        return media.fold(text, u32::saturating_add).min(context);
    };
    // No tokenizer makes more than one token of a byte; some add a beginning and an end of their own.
    let most = |prompt: &Prompt<'_>| match prompt {
        Prompt::Text(text) => text.len() + 2,
        Prompt::Tokens(ids) => ids.len(),
    };
    // A suffix goes with each of them, and tokens that tell the two apart.
    let suffix = request.suffix().map_or(0, |suffix| suffix.len() + TEMPLATE_TOKENS as usize);
    let most = prompts.iter().map(|prompt| u32::try_from(most(prompt) + suffix).unwrap_or(u32::MAX).min(context));
    most.fold(0, u32::saturating_add)
}

/// What the prompt counts against a rate before it is known.
fn likely_prompt(request: &ChatRequest<'_>, text_len: usize) -> u64 {
    let ids = request.raw_prompts().unwrap_or_default().iter().map(|prompt| match prompt {
        Prompt::Tokens(ids) => Some(ids.len() as u64),
        Prompt::Text(_) => None,
    });
    let media: u64 = request.media.iter().map(|media| u64::from(media.likely_tokens())).sum();
    // Token ids are known; text is guessed at.
    ids.sum::<Option<u64>>().filter(|known| *known > 0).unwrap_or(text_len as u64 / BYTES_PER_TOKEN + media)
}

/// A model by name. A suffix that the catalogue does not know as part of a name says what matters most.
fn find_model<'s, 'n>(
    snapshot: &'s Snapshot,
    name: &'n str,
) -> Result<(&'s Arc<ModelSeats>, &'n str, Option<Sort>), ApiError> {
    let plain = snapshot.model(name).map(|model| (model, name, None));
    let found = plain.or_else(|| {
        let (name, sort) = split_suffix(name);
        snapshot.model(name).map(|model| (model, name, sort))
    });
    found.ok_or_else(|| ApiError::UnknownModel(name.to_owned()))
}

/// Orders by a cost, the lowest first.
#[derive(PartialEq)]
struct Cheapest(f64);

impl Eq for Cheapest {}

impl PartialOrd for Cheapest {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Cheapest {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The most and the likely prompt tokens of a body.
    fn tokens(endpoint: Endpoint, body: &str) -> (u32, u64) {
        let request = endpoint.parse(body.as_bytes()).expect("a request");
        let text_len = body.len() - request.media_bytes();
        (longest_prompt(&request, text_len, 32_768), likely_prompt(&request, text_len))
    }

    fn chat(parts: &[String]) -> (u32, u64) {
        let text = r#"{"type":"text","text":"What is this?"}"#.to_owned();
        let parts = [&[text], parts].concat().join(",");
        tokens(Endpoint::Chat, &format!(r#"{{"model":"m","messages":[{{"role":"user","content":[{parts}]}}]}}"#))
    }

    #[test]
    fn a_picture_is_no_text_however_long_its_url_is() {
        let image = |url: &str| format!(r#"{{"type":"image_url","image_url":{{"url":"{url}"}}}}"#);
        let long = image(&format!("data:image/png;base64,{}", "A".repeat(2_000_000)));
        let (most, likely) = chat(std::slice::from_ref(&long));
        assert_eq!((most, likely), chat(&[image("https://example.org/a.png")]));
        let (most_of_text, likely_of_text) = chat(&[]);
        assert!((16_384..17_000).contains(&(most - most_of_text)), "{most}");
        assert!((1024..1100).contains(&(likely - likely_of_text)), "{likely}");
        assert_eq!(chat(&vec![long; 3]).0, 32_768, "no more than the context");
    }

    #[test]
    fn a_suffix_is_read_with_each_prompt() {
        let of = |more: &str| tokens(Endpoint::Completions, &format!(r#"{{"model":"m","prompt":["ab","cd"]{more}}}"#));
        assert_eq!(of("").0, 8);
        assert_eq!(of(r#","suffix":"xyz""#).0, 8 + 2 * (3 + TEMPLATE_TOKENS));
    }
}
