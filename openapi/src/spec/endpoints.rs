//! The endpoints beside chat: each answers what a chat does in a shape of its own.

use utoipa::ToSchema;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::path::{OperationBuilder, ParameterBuilder, ParameterIn, PathsBuilder};
use utoipa::openapi::schema::{Object, ObjectBuilder, Schema, Type};
use utoipa::openapi::{HttpMethod, PathItem, RefOr};

use super::bodies::{
    CompletionRequest, EmbeddingList, EmbeddingRequest, MessageObject, MessageRequest, ResponseObject, ResponseRequest,
    TextCompletion,
};
use super::{
    answer, body, collect, error, id, key, not_again, operation, rates, reference, wait, with_header, with_request_id,
};
use crate::endpoint::Endpoint;
use crate::messages::{MessageError, TokenCount};
use crate::responses::{InputItems, ResponseDeleted};

/// Where Anthropic's clients count.
const COUNT_PATH: &str = "/v1/messages/count_tokens";

pub(super) fn paths(paths: PathsBuilder) -> PathsBuilder {
    let post = |operation| PathItem::new(HttpMethod::Post, operation);
    paths
        .path(Endpoint::Completions.path(), post(create_completion()))
        .path(Endpoint::Responses.path(), post(create_response()))
        .path("/v1/responses/{id}", PathItem::new(HttpMethod::Get, retrieve_response()))
        .path("/v1/responses/{id}", PathItem::new(HttpMethod::Delete, delete_response()))
        .path("/v1/responses/{id}/input_items", PathItem::new(HttpMethod::Get, list_input_items()))
        .path(Endpoint::Messages.path(), post(create_message()))
        .path(COUNT_PATH, post(count_tokens()))
        .path(Endpoint::Embeddings.path(), post(create_embedding()))
}

pub(super) fn collect_schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    collect::<CompletionRequest>(schemas);
    collect::<TextCompletion>(schemas);
    collect::<ResponseRequest>(schemas);
    collect::<ResponseObject>(schemas);
    collect::<ResponseDeleted>(schemas);
    collect::<InputItems>(schemas);
    collect::<MessageRequest>(schemas);
    collect::<MessageObject>(schemas);
    collect::<MessageError>(schemas);
    collect::<TokenCount>(schemas);
    collect::<EmbeddingRequest>(schemas);
    collect::<EmbeddingList>(schemas);
}

fn create_completion() -> OperationBuilder {
    let chunks = ContentBuilder::new().schema(Some(reference::<TextCompletion>())).build();
    let answer = answer::<TextCompletion>(
        "The answers. With `stream`, server-sent events as of a chat, each a `text_completion` with what is new.",
    );
    let answer = answer.content("text/event-stream", chunks);
    like_a_chat::<CompletionRequest>("createCompletion", "Go on with a prompt", "OpenAI", answer)
}

fn create_response() -> OperationBuilder {
    let events = ContentBuilder::new().schema(Some(Object::with_type(Type::Object))).build();
    let answer = answer::<ResponseObject>(
        "The response. With `stream`, OpenAI's events, numbered from 0; the last of them (`response.completed`, \
         `response.incomplete`, `response.failed`) holds the whole response.",
    );
    let answer = answer.content("text/event-stream", events);
    like_a_chat::<ResponseRequest>("createResponse", "Create a response", "OpenAI", answer)
}

fn retrieve_response() -> OperationBuilder {
    kept("retrieveResponse", "A response that was kept")
        .response("200", with_request_id(answer::<ResponseObject>("The response, as it was answered.")))
}

fn delete_response() -> OperationBuilder {
    kept("deleteResponse", "Keep a response no longer").response(
        "200",
        with_request_id(answer::<ResponseDeleted>("It is gone, and what goes on from it cannot be gone on from.")),
    )
}

fn list_input_items() -> OperationBuilder {
    let query = |name: &str, kind: Type, description: &str| {
        let schema = ObjectBuilder::new().schema_type(kind);
        let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Query);
        parameter.description(Some(description)).schema(Some(schema))
    };
    kept("listInputItems", "What a response that was kept answers, the earlier turns included")
        .parameter(query("limit", Type::Integer, "Items at most, up to 100; 20 if absent."))
        .parameter(query("order", Type::String, "`asc`, or `desc` (the latest first), as if absent."))
        .parameter(query("after", Type::String, "The `last_id` of the page before."))
        .response("200", with_request_id(answer::<InputItems>("A page.")))
}

fn kept(name: &str, summary: &str) -> OperationBuilder {
    operation(name, summary, "OpenAI")
        .description(Some("Where the operator keeps responses: of this account, for as long as they are kept."))
        .security(key())
        .parameter(id("The response's id.", "resp_01K00000000000000000000000"))
        .response("400", error("A parameter is wrong or not known; `param` names it."))
        .response("401", error("`invalid_api_key`, `api_key_expired`"))
        .response("403", error("`insufficient_permissions`: a management key."))
        .response("404", error("No response of this account's is kept by this id."))
        .response("503", wait(error("The books cannot be reached.")))
}

fn create_embedding() -> OperationBuilder {
    let answer = answer::<EmbeddingList>("The vectors.");
    like_a_chat::<EmbeddingRequest>("createEmbedding", "Make vectors of texts", "OpenAI", answer)
}

fn like_a_chat<T: ToSchema>(
    id: &str,
    summary: &str,
    tag: &str,
    answer: utoipa::openapi::ResponseBuilder,
) -> OperationBuilder {
    let answer = rates(with_header(answer, "x-generation-id", Type::String, "The answer's id."));
    operation(id, summary, tag)
        .description(Some("Metered, limited, charged and proved by receipts like a chat; errors mean the same."))
        .security(key())
        .request_body(Some(body::<T>()))
        .response("200", with_request_id(answer))
        .response("400", error("A parameter is wrong or not offered; `param` names it."))
        .response("401", error("`invalid_api_key`, `api_key_expired`"))
        .response("403", error("`model_not_allowed`, or `insufficient_permissions`: a management key."))
        .response("404", error("`model_not_found`, or `no_provider_within_price`"))
        .response("408", not_again(error("The body did not come, or the answer was not read, in time.")))
        .response("413", error("`request_too_large`"))
        .response(
            "429",
            rates(wait(not_again(error("`insufficient_quota`, `budget_exceeded`, `rate_limit_exceeded`")))),
        )
        .response("502", wait(error("`provider_failed`: the providers that were tried failed before they answered.")))
        .response("503", wait(error("`no_provider`, `all_busy`, or the gateway is at its limit.")))
}

fn create_message() -> OperationBuilder {
    let events = ContentBuilder::new().schema(Some(Object::with_type(Type::Object))).build();
    let answer = answer::<MessageObject>("The message. With `stream`, Anthropic's events.");
    let answer = rates(with_header(
        answer.content("text/event-stream", events),
        "x-generation-id",
        Type::String,
        "The answer's id.",
    ));
    let refused = |description: &str| with_request_id(super::answer::<MessageError>(description));
    operation("createMessage", "Chat with a model in Anthropic's shape", "Anthropic")
        .description(Some(
            "The key comes as `x-api-key` or as a bearer token. Metered, limited, charged and proved by receipts like a chat.",
        ))
        .security(key())
        .request_body(Some(body::<MessageRequest>()))
        .response("200", with_request_id(answer))
        .response("400", refused("`invalid_request_error`: a parameter is wrong or not offered; the message names it."))
        .response("401", refused("`authentication_error`"))
        .response("403", refused("`permission_error`"))
        .response("404", refused("`not_found_error`: no such model."))
        .response("408", not_again(refused("`timeout_error`")))
        .response("413", refused("`request_too_large`"))
        .response("429", rates(wait(not_again(refused("`rate_limit_error`: credit, a budget or a rate.")))))
        .response("502", wait(refused("`api_error`: the providers that were tried failed before they answered.")))
        .response("503", wait(refused("`overloaded_error`: nobody serves the model, or everyone is busy.")))
}

fn count_tokens() -> OperationBuilder {
    let refused = |description: &str| with_request_id(answer::<MessageError>(description));
    operation("countTokens", "How many tokens a message would cost", "Anthropic")
        .description(Some(
            "By the model's own tokenizer and template, where the operator has given them; charges nothing. `max_tokens` is not needed.",
        ))
        .security(key())
        .request_body(Some(body::<MessageRequest>()))
        .response("200", with_request_id(answer::<TokenCount>("The count.")))
        .response("400", refused("`invalid_request_error`; code `tokenizer_not_known` where there is no tokenizer."))
        .response("401", refused("`authentication_error`"))
        .response("403", refused("`permission_error`"))
        .response("404", refused("`not_found_error`: no such model."))
        .response("408", not_again(refused("`timeout_error`")))
        .response("413", refused("`request_too_large`"))
        .response("429", rates(wait(not_again(refused("`rate_limit_error`")))))
        .response("503", wait(refused("`overloaded_error`")))
}
