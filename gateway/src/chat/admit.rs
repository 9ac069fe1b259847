//! Whether the request may go ahead: is it well formed, can anyone serve it, and is there money for what it may cost.

use std::sync::Arc;

use bytes::Bytes;
use lumbung_openapi::chat::{ChatRequest, Prompt};
use lumbung_openapi::endpoint::Endpoint;
use lumbung_openapi::merkle::Hash;
use lumbung_openapi::money::TokenPrice;
use lumbung_openapi::parameter::ParameterSet;

use super::allowance::{Hold, HoldError};
use super::authenticate::Caller;
use super::error::ApiError;
use super::limits::Grant;
use super::settle::SettlePermit;
use super::{BOOKS_PATIENCE, Gateway, Incoming, clock};
use crate::domain::ids::JobId;
use crate::domain::limits::Ask;
use crate::domain::provider::Standing;
use crate::fleet::ModelSeats;
use crate::fleet::seat::Seat;
use crate::store::StoreError;

/// Tokens that a chat template may add to what the client wrote, beyond one per byte of the body.
const TEMPLATE_TOKENS: u32 = 256;
/// Bytes of a request that count as one token against a rate: OpenAI's own rule of thumb for English text ("one token is
/// about four characters"). The rate is corrected once the answer is over.
const BYTES_PER_TOKEN: u64 = 4;

/// A request that will be served if a provider can be found.
pub struct Admitted {
    /// Where it came.
    pub endpoint: Endpoint,
    /// `x-request-id` of the answer.
    pub request_id: String,
    /// Who asks.
    pub caller: Arc<Caller>,
    /// What is asked.
    pub wish: Wish,
    /// The client's body, as it came.
    pub body: Bytes,
    /// The same as the endpoint's rules read it: a conversation's is that of a chat.
    pub normalized: Bytes,
    /// Its hash, which binds the ticket to it.
    pub body_sha256: Hash,
    /// The model and who served it when the request came.
    pub model: Arc<ModelSeats>,
    /// Money for the most it may cost; for the first part of that, where the client has named no limit.
    pub hold: Hold,
    /// What it takes of the key's and the account's limits.
    pub grant: Grant,
    /// A place in the settlement queue.
    pub permit: SettlePermit,
    /// The job.
    pub job: JobId,
    /// When it came, Unix microseconds.
    pub received_micros: i64,
}

impl Admitted {
    /// The id that the client sees.
    pub fn public_id(&self) -> String {
        let job = self.job.to_string();
        format!("{}{}", self.endpoint.id_prefix(), job.trim_start_matches("job_"))
    }

    /// The creation time that the client sees, Unix seconds.
    pub fn created_secs(&self) -> u64 {
        self.received_micros as u64 / 1_000_000
    }
}

/// What the gateway needs to know of a request after parsing.
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
}

impl Wish {
    /// Whether a provider's price and standing are what the client and its account accept.
    pub fn accepts(&self, seat: &Seat) -> bool {
        seat.ask.is_within(&self.max_price) && (self.allow_probation || seat.standing != Standing::Newcomer)
    }

    /// Why nobody among `seats` serves this.
    pub fn nobody(&self, seats: &[Arc<Seat>]) -> ApiError {
        let known = |seat: &&Arc<Seat>| self.allow_probation || seat.standing != Standing::Newcomer;
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

/// Admits a request, or says why not. No database stands in the way of an ordinary one.
pub async fn admit(gateway: &Gateway, caller: Arc<Caller>, request: Incoming) -> Result<Admitted, ApiError> {
    let Incoming { endpoint, request_id, body, .. } = request;
    if !gateway.is_admitting() {
        return Err(gateway.why_not_admitting());
    }
    if caller.is_management {
        return Err(ApiError::Forbidden("A management key manages keys: it cannot ask for completions."));
    }
    let normalized = endpoint.normalize(&body)?;
    // Whichever is longer: no prompt has more tokens than the text that it is made of has bytes.
    let body_len = body.len().max(normalized.len());
    let (wish, model) = understand(gateway, &caller, endpoint, &normalized, body_len)?;
    let ceiling = wish.max_price.cost(wish.max_prompt_tokens, wish.held_completion_tokens);
    let ceiling = ceiling.ok_or(ApiError::InsufficientQuota)?; // more than 64 bits of nano-dollars
    let permit = gateway.settler.permit().ok_or(ApiError::Overloaded)?;
    let grant = caller.scopes.admit(Ask { tokens: wish.likely_tokens, ceiling }).await?;
    let holding = tokio::time::timeout(BOOKS_PATIENCE, gateway.allowances.hold(&caller.allowance, ceiling));
    let hold = holding.await.unwrap_or(Err(HoldError::Store(StoreError::Silent))).map_err(|error| match error {
        HoldError::InsufficientCredit => ApiError::InsufficientQuota,
        HoldError::Store(error) => {
            tracing::error!(%error, "reservation failed");
            ApiError::BooksUnavailable
        }
    })?;
    let body_sha256 = Hash::of(&body);
    let received_micros = clock::unix_micros();
    Ok(Admitted {
        endpoint,
        request_id,
        caller,
        wish,
        body,
        normalized,
        body_sha256,
        model,
        hold,
        grant,
        permit,
        job: JobId::fresh(),
        received_micros,
    })
}

fn understand(
    gateway: &Gateway,
    caller: &Caller,
    endpoint: Endpoint,
    normalized: &Bytes,
    body_len: usize,
) -> Result<(Wish, Arc<ModelSeats>), ApiError> {
    let request = endpoint.parse(normalized)?;
    let snapshot = gateway.fleet.snapshot();
    let model =
        snapshot.model(&request.model).ok_or_else(|| ApiError::UnknownModel(request.model.clone().into_owned()))?;
    let scopes = [&caller.scopes.account.limits, &caller.scopes.key.limits];
    if !scopes.iter().all(|limits| limits.allows(&model.entry.id)) {
        return Err(ApiError::ModelNotAllowed(request.model.into_owned()));
    }
    if model.seats.is_empty() {
        return Err(ApiError::NoProvider(request.model.into_owned()));
    }
    if let Some(not_taken) = request.not_taken(&model.entry.input_modalities) {
        return Err(endpoint.named(not_taken).into());
    }
    if let Some(unsupported) = endpoint.unsupported(&request, model.supported) {
        return Err(unsupported.into());
    }
    let context = model.entry.context_length;
    let per_choice =
        request.max_tokens.unwrap_or(context).min(model.entry.max_completion_tokens.unwrap_or(context)).min(context);
    let held_per_choice = match request.max_tokens {
        Some(_) => per_choice,
        None => per_choice.min(gateway.default_hold_tokens),
    };
    let max_prompt_tokens = longest_prompt(&request, body_len, context);
    let held_completion_tokens = request.completion_tokens(held_per_choice);
    let (reference, cap) = (model.entry.reference, request.max_price);
    let wish = Wish {
        likely_tokens: likely_prompt(&request, body_len) + u64::from(held_completion_tokens),
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
        public_model: request.model.into_owned(),
    };
    match model.seats.iter().any(|seat| wish.accepts(seat)) {
        true => Ok((wish, model.clone())),
        false => Err(wish.nobody(&model.seats)),
    }
}

/// The most prompt tokens that a request can have. Prompts outside the model's template have a context each.
fn longest_prompt(request: &ChatRequest<'_>, body_len: usize, context: u32) -> u32 {
    let Some(prompts) = request.raw_prompts() else {
        return u32::try_from(body_len).unwrap_or(u32::MAX).saturating_add(TEMPLATE_TOKENS).min(context);
    };
    // No tokenizer makes more than one token of a byte; some add a beginning and an end of their own.
    let most = |prompt: &Prompt<'_>| match prompt {
        Prompt::Text(text) => text.len() + 2,
        Prompt::Tokens(ids) => ids.len(),
    };
    let most = prompts.iter().map(|prompt| u32::try_from(most(prompt)).unwrap_or(u32::MAX).min(context));
    most.fold(0, u32::saturating_add)
}

/// What the prompt counts against a rate before it is known.
fn likely_prompt(request: &ChatRequest<'_>, body_len: usize) -> u64 {
    let ids = request.raw_prompts().unwrap_or_default().iter().map(|prompt| match prompt {
        Prompt::Tokens(ids) => Some(ids.len() as u64),
        Prompt::Text(_) => None,
    });
    // Token ids are known; text is guessed at.
    ids.sum::<Option<u64>>().filter(|known| *known > 0).unwrap_or(body_len as u64 / BYTES_PER_TOKEN)
}
