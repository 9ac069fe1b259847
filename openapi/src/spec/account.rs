//! The account's own endpoints in the document.

use utoipa::openapi::path::{OperationBuilder, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::openapi::{HttpMethod, PathItem, PathsBuilder, RefOr, Required};

use super::{answer, body, collect, error, id, key, operation, wait, with_request_id};
use crate::account::{
    AccountBalance, AccountUsage, ApiKeyAnswer, ApiKeyChange, ApiKeyList, CreditsAnswer, GenerationAnswer, KeyDeleted,
    NewApiKey, NewApiKeyAnswer, OwnKeyAnswer,
};

const TAG: &str = "Account";

/// Adds the account's paths.
pub(super) fn paths(paths: PathsBuilder) -> PathsBuilder {
    let get = |operation| PathItem::new(HttpMethod::Get, operation);
    paths
        .path("/v1/credits", get(get_credits()))
        .path("/v1/balance", get(get_balance()))
        .path("/v1/key", get(get_own_key()))
        .path("/v1/generation", get(get_generation()))
        .path("/v1/usage", get(get_usage()))
        .path("/v1/keys", get(list_own_keys()))
        .path("/v1/keys", PathItem::new(HttpMethod::Post, create_own_key()))
        .path("/v1/keys/{id}", get(retrieve_own_key()))
        .path("/v1/keys/{id}", PathItem::new(HttpMethod::Patch, change_own_key()))
        .path("/v1/keys/{id}", PathItem::new(HttpMethod::Delete, delete_own_key()))
}

/// Adds the schemas that they use.
pub(super) fn collect_schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    collect::<CreditsAnswer>(schemas);
    collect::<AccountBalance>(schemas);
    collect::<OwnKeyAnswer>(schemas);
    collect::<GenerationAnswer>(schemas);
    collect::<AccountUsage>(schemas);
    collect::<ApiKeyList>(schemas);
    collect::<ApiKeyAnswer>(schemas);
    collect::<NewApiKeyAnswer>(schemas);
    collect::<NewApiKey>(schemas);
    collect::<ApiKeyChange>(schemas);
    collect::<KeyDeleted>(schemas);
}

fn get_credits() -> OperationBuilder {
    asked("getCredits", "What was credited and what was spent, in OpenRouter's shape")
        .response("200", with_request_id(answer::<CreditsAnswer>("Dollars, as numbers.")))
}

fn get_balance() -> OperationBuilder {
    asked("getBalance", "What the account can spend")
        .response("200", with_request_id(answer::<AccountBalance>("Dollars, as decimal strings.")))
}

fn get_own_key() -> OperationBuilder {
    asked("getOwnKey", "The key that is shown: its limits, and what was spent with it")
        .response("200", with_request_id(answer::<OwnKeyAnswer>("The key.")))
}

fn get_generation() -> OperationBuilder {
    asked("getGeneration", "One answer, afterwards: its cost and its tokens")
        .parameter(
            query("id", Type::String, "The answer's `id`, also in its header `x-generation-id`.")
                .required(Required::True),
        )
        .response("200", with_request_id(answer::<GenerationAnswer>("The answer, as soon as it has ended.")))
        .response("400", error("`id` is missing, or another parameter is not known."))
        .response("404", error("No answer of this account's has this id."))
}

fn get_usage() -> OperationBuilder {
    asked("getUsage", "What the account has used")
        .parameter(day("from", "From this day on (UTC)."))
        .parameter(day("to", "Up to this day (UTC), which is included."))
        .parameter(query(
            "group_by",
            Type::String,
            "Some of `day`, `model` and `key`, with commas between; `day` if absent.",
        ))
        .parameter(query("key", Type::String, "Only with this key (`key_…`)."))
        .parameter(query("model", Type::String, "Only of this model."))
        .parameter(page_limit(1000))
        .parameter(query("after", Type::String, "The `next_cursor` of the page before."))
        .response("200", with_request_id(answer::<AccountUsage>("A page.")))
        .response("400", error("A parameter is wrong; `param` names it."))
        .response("404", error("No key of this account's has this id."))
}

fn list_own_keys() -> OperationBuilder {
    managed("listOwnKeys", "The account's keys")
        .parameter(page_limit(50))
        .parameter(query("after", Type::String, "The `next_cursor` of the page before."))
        .response("200", with_request_id(answer::<ApiKeyList>("A page.")))
        .response("400", error("A parameter is wrong; `param` names it."))
}

fn create_own_key() -> OperationBuilder {
    changed(managed("createOwnKey", "Make a key"))
        .request_body(Some(body::<NewApiKey>()))
        .response("201", with_request_id(answer::<NewApiKeyAnswer>("The key, shown this once.")))
        .response("404", error("The account has been closed."))
}

fn retrieve_own_key() -> OperationBuilder {
    one(managed("retrieveOwnKey", "One of the account's keys"))
        .response("200", with_request_id(answer::<ApiKeyAnswer>("The key.")))
}

fn change_own_key() -> OperationBuilder {
    changed(one(managed("changeOwnKey", "Change a key"))).request_body(Some(body::<ApiKeyChange>())).response(
        "200",
        with_request_id(answer::<ApiKeyAnswer>("The key as it is now; gateways follow within a second.")),
    )
}

fn delete_own_key() -> OperationBuilder {
    one(managed("deleteOwnKey", "Revoke a key, for good"))
        .response("200", with_request_id(answer::<KeyDeleted>("It is revoked; gateways follow within a second.")))
}

fn asked(id: &str, summary: &str) -> OperationBuilder {
    operation(id, summary, TAG)
        .security(key())
        .response("401", error("`invalid_api_key`, `api_key_expired`"))
        .response("503", wait(error("The books cannot be reached.")))
}

/// With a management key only.
fn managed(id: &str, summary: &str) -> OperationBuilder {
    asked(id, summary).response("403", error("`insufficient_permissions`: this needs a management key."))
}

fn changed(operation: OperationBuilder) -> OperationBuilder {
    operation
        .response("400", error("A parameter is wrong or not known; `param` names it."))
        .response("408", error("The body did not come in time."))
        .response("413", error("`request_too_large`"))
}

fn one(operation: OperationBuilder) -> OperationBuilder {
    operation
        .parameter(id("The key's id or hash.", "key_01K00000000000000000000000"))
        .response("404", error("No key of this account's has this id or hash."))
}

fn query(name: &str, kind: Type, description: &str) -> ParameterBuilder {
    parameter(name, description).schema(Some(ObjectBuilder::new().schema_type(kind)))
}

fn day(name: &str, description: &str) -> ParameterBuilder {
    let schema =
        ObjectBuilder::new().schema_type(Type::String).format(Some(SchemaFormat::KnownFormat(KnownFormat::Date)));
    parameter(name, description).schema(Some(schema))
}

fn page_limit(most: u32) -> ParameterBuilder {
    let schema = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)).maximum(Some(most));
    parameter("limit", "Lines at most.").schema(Some(schema))
}

fn parameter(name: &str, description: &str) -> ParameterBuilder {
    ParameterBuilder::new().name(name).parameter_in(ParameterIn::Query).description(Some(description))
}
