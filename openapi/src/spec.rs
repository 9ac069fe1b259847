//! The OpenAPI document: every endpoint of the gateway, made from the wire types.
//!
//! [`document`] is what the gateway serves at `/openapi.json`; `openapi.json` beside this crate is the same, checked in
//! and compared by a test. `make spec` writes it.

mod account;
mod admin;
pub mod bodies;
pub mod chat;
mod endpoints;
mod erasing;
mod keys;
mod parts;
mod payouts;
mod webhook;

use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{OperationBuilder, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::{ComponentsBuilder, Object, ObjectBuilder, Schema, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{HttpMethod, InfoBuilder, OpenApi, OpenApiBuilder, PathItem, PathsBuilder, Ref, RefOr, Required};
use utoipa::{PartialSchema, ToSchema};

use crate::earnings::{EARNINGS_PATH, EarningsStatement, PAYOUT_DETAILS_PATH, PayoutDetailsSet, SIGNED_SCHEME};
use crate::error::ErrorBody;
use crate::explain::{EXPLAIN_HEADER, Explanation};
use crate::models::{Model, ModelEndpoints, ModelList};
use crate::provider::{
    CHALLENGE_PATH, Challenge, DEMAND_PATH, Demand, JOIN_SCHEME, RECEIPTS_PATH, TUNNEL_PATH, TUNNEL_PROTOCOL,
};
use crate::receipt::{JobReceipt, ReceiptBatch, ReceiptVerdicts};
use crate::reply::{ChatCompletion, ChatCompletionChunk};
use chat::ChatCompletionRequest;

const JSON: &str = "application/json";

/// The document.
pub fn document() -> OpenApi {
    let info = InfoBuilder::new()
        .title("lumbung")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "OpenAI-compatible inference on a network of community providers, metered and billed. Every answer carries `x-request-id`; \
             every error has OpenAI's shape.",
        ))
        .license(Some(utoipa::openapi::License::new("Apache-2.0")))
        .build();
    let paths = keys::paths(admin::paths(endpoints::paths(PathsBuilder::new())));
    let paths = webhook::paths(account::paths(erasing::paths(payouts::paths(paths))))
        .path("/v1/chat/completions", PathItem::new(HttpMethod::Post, create_chat_completion()))
        .path("/v1/models", PathItem::new(HttpMethod::Get, list_models()))
        .path("/v1/models/{id}", PathItem::new(HttpMethod::Get, retrieve_model()))
        .path("/v1/models/{id}/endpoints", PathItem::new(HttpMethod::Get, list_model_endpoints()))
        .path("/v1/receipts/{id}", PathItem::new(HttpMethod::Get, retrieve_receipt()))
        .path(CHALLENGE_PATH, PathItem::new(HttpMethod::Get, get_challenge()))
        .path(TUNNEL_PATH, PathItem::new(HttpMethod::Get, open_tunnel()))
        .path(RECEIPTS_PATH, PathItem::new(HttpMethod::Post, offer_receipts()))
        .path(format!("{DEMAND_PATH}{{id}}"), PathItem::new(HttpMethod::Get, get_demand()))
        .path(EARNINGS_PATH, PathItem::new(HttpMethod::Get, get_earnings()))
        .path(PAYOUT_DETAILS_PATH, PathItem::new(HttpMethod::Put, set_payout_details()))
        .path("/.well-known/jwks.json", PathItem::new(HttpMethod::Get, get_keys()))
        .path("/health/live", PathItem::new(HttpMethod::Get, is_live()))
        .path("/health/ready", PathItem::new(HttpMethod::Get, is_ready()))
        .path("/health/balance", PathItem::new(HttpMethod::Get, is_to_be_balanced()))
        .path("/docs", PathItem::new(HttpMethod::Get, get_docs()))
        .path("/openapi.json", PathItem::new(HttpMethod::Get, get_document()));
    OpenApiBuilder::new().info(info).paths(paths).components(Some(components().build())).build()
}

/// The document as it is checked in.
pub fn to_json() -> String {
    document().to_pretty_json().expect("a document of strings and numbers serializes") + "\n"
}

fn create_chat_completion() -> OperationBuilder {
    let answer = ResponseBuilder::new()
        .description(
            "The answer. With `stream`, server-sent events: each `data:` is a chunk, with `stream_options.include_usage` the last of them \
             holds the usage, and `data: [DONE]` ends the stream. A failure in the middle of a stream is a chunk with a member `error`.",
        )
        .content(JSON, ContentBuilder::new().schema(Some(reference::<ChatCompletion>())).build())
        .content("text/event-stream", ContentBuilder::new().schema(Some(reference::<ChatCompletionChunk>())).build());
    let answer = rates(with_header(answer, "x-generation-id", Type::String, "The answer's id."));
    let answer = with_header(answer, EXPLAIN_HEADER, Type::String, "Where it was asked for: an `Explanation` as JSON.");
    operation("createChatCompletion", "Chat with a model", "OpenAI")
        .security(key())
        .parameter(
            header_parameter(EXPLAIN_HEADER, "1")
                .required(Required::False)
                .description(Some("`1`: say, in a header of the answer, why this provider was chosen.")),
        )
        .request_body(Some(body::<ChatCompletionRequest>()))
        .response("200", with_request_id(answer))
        .response(
            "400",
            error(
                "A parameter is wrong, the prompt is too long, or the model cannot do what is asked; `param` names it.",
            ),
        )
        .response("401", error("`invalid_api_key`, `api_key_expired`"))
        .response("403", error("`model_not_allowed`, or `insufficient_permissions`: a management key."))
        .response("404", error("`model_not_found`; `no_provider_within_price`: nobody asks as little as `provider.max_price`; `no_allowed_provider`: another wish in `provider` leaves nobody; `param` names it."))
        .response("408", not_again(error("The body did not come, or the answer was not read, in time.")))
        .response("413", error("`request_too_large`"))
        .response(
            "429",
            rates(wait(not_again(error(
                "`insufficient_quota`: the account's credit does not cover what the request may cost; `budget_exceeded`: a budget does \
                 not; `rate_limit_exceeded`: too many requests or tokens in a minute, or requests at a time.",
            )))),
        )
        .response("502", wait(error("`provider_failed`: the providers that were tried failed before they answered.")))
        .response("503", wait(error("`no_provider`, `all_busy`, or the gateway is at its limit.")))
}

fn list_models() -> OperationBuilder {
    operation("listModels", "The models that a provider serves now", "OpenAI")
        .response("200", with_request_id(answer::<ModelList>("The models.")))
}

fn retrieve_model() -> OperationBuilder {
    operation("retrieveModel", "One model of the catalogue", "OpenAI")
        .parameter(id("The model's id. It may hold a slash, as it is or as `%2F`.", "lumbung/padi"))
        .response("200", with_request_id(answer::<Model>("The model.")))
        .response("404", error("`model_not_found`"))
}

fn list_model_endpoints() -> OperationBuilder {
    operation("listModelEndpoints", "The providers that serve a model now, as OpenRouter lists them", "OpenAI")
        .parameter(id("The model's id. It may hold a slash, as it is or as `%2F`.", "lumbung/padi"))
        .response("200", with_request_id(answer::<ModelEndpoints>("The model and its providers.")))
        .response("404", error("`model_not_found`"))
}

fn retrieve_receipt() -> OperationBuilder {
    operation("retrieveReceipt", "What an answer cost, with the proofs of both sides", "Receipts")
        .description(Some(
            "Readable as soon as the answer has ended; the provider's proof comes about a second later. \
             `lumbung-gateway receipt verify` checks it offline against `/.well-known/jwks.json`.",
        ))
        .security(key())
        .parameter(id("The answer's `id`.", "chatcmpl-01K00000000000000000000000"))
        .response("200", with_request_id(answer::<JobReceipt>("The receipt.")))
        .response("401", error("`invalid_api_key`"))
        .response("404", error("No answer of this account's has this id."))
}

fn get_challenge() -> OperationBuilder {
    operation("getChallenge", "A challenge to sign in order to join", "Provider protocol")
        .response("200", answer::<Challenge>("Good for half a minute and for one join."))
}

fn open_tunnel() -> OperationBuilder {
    let switching = ResponseBuilder::new().description(
        "The connection is a tunnel now: the gateway speaks HTTP/2 as the client, the provider answers on it. \
         `x-lumbung-replica` names the gateway replica at the other end.",
    );
    operation("openTunnel", "Join: open the tunnel that jobs come through", "Provider protocol")
        .description(Some(format!("An HTTP/1.1 upgrade to `{TUNNEL_PROTOCOL}`.")))
        .security(SecurityRequirement::new("join", Vec::<String>::new()))
        .parameter(header_parameter("upgrade", TUNNEL_PROTOCOL))
        .parameter(header_parameter("connection", "upgrade"))
        .response("101", switching)
        .response("401", error("The join is not signed properly, or its challenge is unknown, expired or used before."))
        .response("403", error("The join is signed for another gateway, or the operator has banned this provider."))
        .response("426", error("No upgrade to this protocol."))
        .response("503", wait(error("No more tunnels or joins at this moment.")))
}

fn offer_receipts() -> OperationBuilder {
    operation("offerReceipts", "Hand in receipts", "Provider protocol")
        .description(Some("May be repeated: a receipt settles once, and is acknowledged each time."))
        .request_body(Some(body::<ReceiptBatch>()))
        .response("200", answer::<ReceiptVerdicts>("What became of each receipt, in the batch's order."))
        .response("400", error("No batch of receipts, or too many."))
        .response("401", error("The root is not over these receipts, or not signed by the key in its header."))
        .response("413", error("`request_too_large`"))
        .response("503", wait(error("The books cannot be reached.")))
}

fn get_demand() -> OperationBuilder {
    operation("getDemand", "What whoever serves a model can expect", "Provider protocol")
        .description(Some("Open to everyone: the most that may be asked, the fee, and how many jobs run now."))
        .parameter(id("The model's id. It may hold a slash, as it is or as `%2F`.", "lumbung/padi"))
        .response("200", with_request_id(answer::<Demand>("As it is now.")))
        .response("404", error("`model_not_found`: the catalogue does not have it."))
}

fn get_earnings() -> OperationBuilder {
    let query = |name: &str, description: &str| {
        ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Query)
            .required(Required::False)
            .description(Some(description))
    };
    let number = |least: i64, most: Option<i64>| {
        let schema = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(least));
        Some(match most {
            Some(most) => schema.maximum(Some(most)).build(),
            None => schema.build(),
        })
    };
    operation("getEarnings", "What a provider earned, job by job, and where it is", "Provider protocol")
        .description(Some("Oldest jobs first. Every deduction says why. Each page needs a challenge of its own."))
        .security(SecurityRequirement::new("signed", Vec::<String>::new()))
        .parameter(query("since", "Jobs settled from then on, Unix seconds.").schema(number(0, Some(9_000_000_000))))
        .parameter(query("after", "The `next_cursor` of the page before.").schema(Some(String::schema())))
        .parameter(query("limit", "Jobs on the page; 100 if it is not said.").schema(number(1, Some(500))))
        .response("200", with_request_id(answer::<EarningsStatement>("One page.")))
        .response("400", error("A parameter is wrong; `param` names it."))
        .response("401", error("Not signed properly, or the challenge is unknown, expired or used before."))
        .response("403", error("Signed for another gateway."))
        .response("503", wait(error("The books cannot be reached, or too many challenges are being answered.")))
}

fn set_payout_details() -> OperationBuilder {
    operation("setPayoutDetails", "Say where a provider wants to be paid", "Provider protocol")
        .description(Some(
            "The details are in the signed claims (`details`, one line of 512 bytes at most): an IBAN, a wallet. After a \
             change nothing is paid out for a while; `used_from` says until when.",
        ))
        .security(SecurityRequirement::new("signed", Vec::<String>::new()))
        .response("200", with_request_id(answer::<PayoutDetailsSet>("They are set.")))
        .response("400", error("The details are empty, too long, or not one line."))
        .response("401", error("Not signed properly, or the challenge is unknown, expired or used before."))
        .response("403", error("Signed for another gateway."))
        .response("404", error("This provider has never joined."))
        .response("409", error("They were changed less than a minute ago."))
        .response("503", wait(error("The books cannot be reached, or too many challenges are being answered.")))
}

fn get_keys() -> OperationBuilder {
    operation("getKeys", "The gateway's public keys, retired ones included", "Receipts").response(
        "200",
        ResponseBuilder::new().description("A JSON Web Key Set (RFC 7517) of Ed25519 keys.").content(
            "application/jwk-set+json",
            ContentBuilder::new().schema(Some(Object::with_type(Type::Object))).build(),
        ),
    )
}

fn is_live() -> OperationBuilder {
    operation("isLive", "Whether the process runs", "Operations").response("200", text("Yes."))
}

fn is_ready() -> OperationBuilder {
    operation("isReady", "Whether requests are served", "Operations")
        .response("200", text("Yes."))
        .response("503", text("Not now: the gateway stops, or has no lease on the books."))
}

fn is_to_be_balanced() -> OperationBuilder {
    operation("isToBeBalanced", "Whether a balancer should send requests here", "Operations")
        .response("200", text("Yes."))
        .response("404", text("Nothing new: the gateway finishes what it has, and stops."))
        .response("503", text("No: the gateway has no lease on the books."))
}

fn get_docs() -> OperationBuilder {
    let page = ContentBuilder::new().schema(Some(String::schema())).build();
    let page =
        ResponseBuilder::new().description("A page that needs nothing from elsewhere.").content("text/html", page);
    operation("getDocs", "This document, to browse", "Operations").response("200", page)
}

fn get_document() -> OperationBuilder {
    operation("getDocument", "This document", "Operations").response(
        "200",
        ResponseBuilder::new()
            .description("OpenAPI 3.1.")
            .content(JSON, ContentBuilder::new().schema(Some(Object::with_type(Type::Object))).build()),
    )
}

fn components() -> ComponentsBuilder {
    let join = format!(
        "`{JOIN_SCHEME} <JWS>`: the challenge and the gateway's origin, signed with the provider's Ed25519 key, \
         the public key in the header."
    );
    let join = ApiKey::Header(ApiKeyValue::with_description("authorization", &join));
    let signed = format!(
        "`{SIGNED_SCHEME} <JWS>`: the gateway's origin (`aud`) and a fresh `challenge`, signed with the provider's Ed25519 \
         key, the public key in the header; `typ` is `lumbung-statement` or `lumbung-payout-details`."
    );
    let signed = ApiKey::Header(ApiKeyValue::with_description("authorization", &signed));
    let bearer = Http::builder().scheme(HttpAuthScheme::Bearer).description(Some("An API key.")).build();
    let mut schemas = Vec::new();
    collect::<ErrorBody>(&mut schemas);
    collect::<ChatCompletionRequest>(&mut schemas);
    collect::<ChatCompletion>(&mut schemas);
    collect::<ChatCompletionChunk>(&mut schemas);
    collect::<Explanation>(&mut schemas);
    collect::<ModelList>(&mut schemas);
    collect::<ModelEndpoints>(&mut schemas);
    collect::<JobReceipt>(&mut schemas);
    collect::<EarningsStatement>(&mut schemas);
    collect::<PayoutDetailsSet>(&mut schemas);
    collect::<Challenge>(&mut schemas);
    collect::<Demand>(&mut schemas);
    collect::<ReceiptBatch>(&mut schemas);
    collect::<ReceiptVerdicts>(&mut schemas);
    endpoints::collect_schemas(&mut schemas);
    account::collect_schemas(&mut schemas);
    admin::collect_schemas(&mut schemas);
    keys::collect_schemas(&mut schemas);
    payouts::collect_schemas(&mut schemas);
    erasing::collect_schemas(&mut schemas);
    webhook::collect_schemas(&mut schemas);
    let operator = "An operator's token (JWT): made by `lumbung-gateway admin token`, or by the configured issuer.";
    let operator = Http::builder().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").description(Some(operator));
    ComponentsBuilder::new()
        .schemas_from_iter(schemas)
        .security_scheme("operator", SecurityScheme::Http(operator.build()))
        .security_scheme("key", SecurityScheme::Http(bearer))
        .security_scheme("join", SecurityScheme::ApiKey(join))
        .security_scheme("signed", SecurityScheme::ApiKey(signed))
}

/// A type's schema and those of the types within it.
fn collect<T: ToSchema>(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    schemas.push((T::name().into(), T::schema()));
    T::schemas(schemas);
}

fn operation(id: &str, summary: &str, tag: &str) -> OperationBuilder {
    OperationBuilder::new().operation_id(Some(id)).summary(Some(summary)).tag(tag)
}

fn key() -> SecurityRequirement {
    SecurityRequirement::new("key", Vec::<String>::new())
}

fn reference<T: ToSchema>() -> Ref {
    Ref::from_schema_name(T::name())
}

fn body<T: ToSchema>() -> utoipa::openapi::request_body::RequestBody {
    RequestBodyBuilder::new()
        .required(Some(Required::True))
        .content(JSON, ContentBuilder::new().schema(Some(reference::<T>())).build())
        .build()
}

fn answer<T: ToSchema>(description: &str) -> ResponseBuilder {
    ResponseBuilder::new()
        .description(description)
        .content(JSON, ContentBuilder::new().schema(Some(reference::<T>())).build())
}

fn error(description: &str) -> ResponseBuilder {
    with_request_id(answer::<ErrorBody>(description))
}

fn with_request_id(response: ResponseBuilder) -> ResponseBuilder {
    with_header(response, "x-request-id", Type::String, "Names this request in the operator's log.")
}

/// An error after which trying again, later, makes sense.
fn wait(response: ResponseBuilder) -> ResponseBuilder {
    with_header(response, "retry-after", Type::Integer, "Seconds to wait.")
}

/// Where the caller's rates per minute stand; only those that are limited.
fn rates(response: ResponseBuilder) -> ResponseBuilder {
    ["requests", "tokens"].into_iter().fold(response, |response, unit| {
        let name = |what: &str| format!("x-ratelimit-{what}-{unit}");
        let response = with_header(response, &name("limit"), Type::Integer, "In a minute, where that is limited.");
        let response = with_header(response, &name("remaining"), Type::Integer, "What is left of that now.");
        with_header(response, &name("reset"), Type::String, "Until all of it is, such as `6m0s` or `20ms`.")
    })
}

/// An error that the SDKs would retry by its status.
fn not_again(response: ResponseBuilder) -> ResponseBuilder {
    with_header(response, "x-should-retry", Type::String, "`false`: trying again cannot help.")
}

fn text(description: &str) -> ResponseBuilder {
    ResponseBuilder::new()
        .description(description)
        .content("text/plain", ContentBuilder::new().schema(Some(String::schema())).build())
}

fn with_header(response: ResponseBuilder, name: &str, kind: Type, description: &str) -> ResponseBuilder {
    response
        .header(name, HeaderBuilder::new().schema(Some(Object::with_type(kind))).description(Some(description)).build())
}

fn id(description: &str, example: &str) -> ParameterBuilder {
    ParameterBuilder::new()
        .name("id")
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(description))
        .schema(Some(String::schema()))
        .example(Some(example.into()))
}

fn header_parameter(name: &str, example: &str) -> ParameterBuilder {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::True)
        .schema(Some(String::schema()))
        .example(Some(example.into()))
}
