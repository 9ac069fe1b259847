//! The part of the document about API keys, and about what keys and accounts may do.

use utoipa::openapi::path::OperationBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::{HttpMethod, PathItem, PathsBuilder, RefOr};

use super::admin::{ACCOUNT, KEY};
use super::parts::{act_on, done, id, list, look, query, text};
use super::{answer, body, collect, error, with_request_id};
use crate::admin::{ChangeKey, CreateKey, CreatedKey, Key, Limits};

/// Adds the endpoints.
pub(super) fn paths(paths: PathsBuilder) -> PathsBuilder {
    let get = |operation| PathItem::new(HttpMethod::Get, operation);
    let post = |operation| PathItem::new(HttpMethod::Post, operation);
    let put = |operation| PathItem::new(HttpMethod::Put, operation);
    paths
        .path("/admin/v1/accounts/{id}/keys", post(create_key()))
        .path("/admin/v1/keys", get(list_keys()))
        .path("/admin/v1/keys/{id}", get(retrieve_key()))
        .path("/admin/v1/keys/{id}", PathItem::new(HttpMethod::Patch, change_key()))
        .path("/admin/v1/keys/{id}/revoke", post(revoke_key()))
        .path("/admin/v1/keys/{id}/limits", get(limits_of("getKeyLimits", "What a key may do", KEY)))
        .path("/admin/v1/keys/{id}/limits", put(set_limits("setKeyLimits", "Say what a key may do (role admin)", KEY)))
        .path(
            "/admin/v1/accounts/{id}/limits",
            get(limits_of("getAccountLimits", "What all keys of an account may do together", ACCOUNT)),
        )
        .path(
            "/admin/v1/accounts/{id}/limits",
            put(set_limits(
                "setAccountLimits",
                "Say what all keys of an account may do together (role admin)",
                ACCOUNT,
            )),
        )
}

/// Adds the schemas.
pub(super) fn collect_schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    collect::<Key>(schemas);
    collect::<CreateKey>(schemas);
    collect::<CreatedKey>(schemas);
    collect::<ChangeKey>(schemas);
    collect::<Limits>(schemas);
}

fn create_key() -> OperationBuilder {
    act_on("createKey", "Make an API key, or a management key (role admin)", ACCOUNT)
        .description(Some(
            "The key itself is shown once. A repeated call with the same `Idempotency-Key` gets `key: null`.",
        ))
        .request_body(Some(body::<CreateKey>()))
        .response("201", done::<CreatedKey>("The key."))
}

fn list_keys() -> OperationBuilder {
    let boolean = ObjectBuilder::new().schema_type(Type::Boolean).build();
    list::<Key>("listKeys", "API keys, revoked ones too")
        .parameter(query("account", "Of this account only.", text(Some(ACCOUNT.1))))
        .parameter(query("management", "Only management keys, or only the others.", boolean))
}

fn retrieve_key() -> OperationBuilder {
    look("retrieveKey", "One API key")
        .parameter(id(KEY))
        .response("200", with_request_id(answer::<Key>("The key.")))
        .response("404", error("There is no such key."))
}

fn change_key() -> OperationBuilder {
    act_on("changeKey", "Call an API key something else, or put it out of use for a while (role admin)", KEY)
        .request_body(Some(body::<ChangeKey>()))
        .response("200", done::<Key>("The key. Gateways follow within a second."))
}

fn revoke_key() -> OperationBuilder {
    act_on("revokeKey", "Revoke an API key: gateways refuse it within a second (role admin)", KEY)
        .response("200", done::<Key>("The key, revoked."))
}

fn limits_of(operation: &str, summary: &str, of: (&str, &str, &str)) -> OperationBuilder {
    look(operation, summary)
        .description(Some("A request passes the limits of its key and those of its account: the tighter one decides."))
        .parameter(id(of))
        .response("200", with_request_id(answer::<Limits>("The limits.")))
        .response("404", error("There is none with this id."))
}

fn set_limits(operation: &str, summary: &str, of: (&str, &str, &str)) -> OperationBuilder {
    act_on(operation, summary, of)
        .description(Some("All of them: what the body does not name is not limited any more."))
        .request_body(Some(body::<Limits>()))
        .response("200", done::<Limits>("The limits. Gateways follow within a second."))
}
