//! The part of the document about webhooks, and an account's threshold.

use utoipa::openapi::path::OperationBuilder;
use utoipa::openapi::schema::Schema;
use utoipa::openapi::{HttpMethod, PathItem, PathsBuilder, RefOr};

use super::admin::ACCOUNT;
use super::parts::{act, act_on, done, id, list, look};
use super::{answer, body, collect, error, not_again, with_request_id};
use crate::admin::Removed;
use crate::webhook::{CreateWebhook, CreatedWebhook, LowBalance, SetLowBalance, Webhook, WebhookDelivery};

const WEBHOOK: (&str, &str, &str) =
    ("The endpoint's id.", "^whk_[0-9A-HJKMNP-TV-Z]{26}$", "whk_01K00000000000000000000000");

/// Adds the endpoints.
pub(super) fn paths(paths: PathsBuilder) -> PathsBuilder {
    paths
        .path("/admin/v1/webhooks", PathItem::new(HttpMethod::Get, list_webhooks()))
        .path("/admin/v1/webhooks", PathItem::new(HttpMethod::Post, create_webhook()))
        .path("/admin/v1/webhooks/{id}", PathItem::new(HttpMethod::Get, retrieve_webhook()))
        .path("/admin/v1/webhooks/{id}", PathItem::new(HttpMethod::Delete, remove_webhook()))
        .path("/admin/v1/webhooks/{id}/deliveries", PathItem::new(HttpMethod::Get, list_deliveries()))
        .path("/admin/v1/accounts/{id}/low-balance", PathItem::new(HttpMethod::Get, get_low_balance()))
        .path("/admin/v1/accounts/{id}/low-balance", PathItem::new(HttpMethod::Put, set_low_balance()))
}

/// Adds the schemas.
pub(super) fn collect_schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    collect::<Webhook>(schemas);
    collect::<CreateWebhook>(schemas);
    collect::<CreatedWebhook>(schemas);
    collect::<WebhookDelivery>(schemas);
    collect::<SetLowBalance>(schemas);
    collect::<LowBalance>(schemas);
}

fn list_webhooks() -> OperationBuilder {
    list::<Webhook>("listWebhooks", "Webhook endpoints")
}

fn retrieve_webhook() -> OperationBuilder {
    look("retrieveWebhook", "One webhook endpoint, without its secret")
        .parameter(id(WEBHOOK))
        .response("200", with_request_id(answer::<Webhook>("The endpoint.")))
        .response("404", error("There is no such endpoint."))
}

fn create_webhook() -> OperationBuilder {
    act("createWebhook", "Add a webhook endpoint (role admin)")
        .description(Some(
            "Told in the form of Standard Webhooks: a POST of `{\"type\", \"timestamp\", \"data\"}` with `webhook-id`, `webhook-timestamp` and \
             `webhook-signature: v1,<base64 of HMAC-SHA256 over id.timestamp.body>`. Any 2xx within ten seconds is taken for delivered; \
             otherwise it is tried ten times over about a day. The same event may come twice, and in another order: tell them apart by \
             `webhook-id`. The secret is shown once; it stays in the books, because it signs.",
        ))
        .request_body(Some(body::<CreateWebhook>()))
        .response("201", done::<CreatedWebhook>("The endpoint."))
        .response("409", not_again(error("There are 32 endpoints already.")))
}

fn remove_webhook() -> OperationBuilder {
    act_on("removeWebhook", "Remove a webhook endpoint: it is told nothing any more (role admin)", WEBHOOK)
        .response("200", done::<Removed>("Removed. Its secret is forgotten."))
}

fn list_deliveries() -> OperationBuilder {
    list::<WebhookDelivery>("listWebhookDeliveries", "What an endpoint was told, and what is still to be tried")
        .parameter(id(WEBHOOK))
        .response("404", error("There is no such endpoint."))
}

fn get_low_balance() -> OperationBuilder {
    look("getLowBalance", "Below what an account's spendable credit is low")
        .parameter(id(ACCOUNT))
        .response("200", with_request_id(answer::<LowBalance>("The threshold.")))
        .response("404", error("There is no such account."))
}

fn set_low_balance() -> OperationBuilder {
    act_on("setLowBalance", "Say below what an account's spendable credit is low", ACCOUNT)
        .description(Some(
            "`account.low_balance` is told once when it falls below, and again only after it was not below in between.",
        ))
        .request_body(Some(body::<SetLowBalance>()))
        .response("200", done::<LowBalance>("The threshold."))
}
