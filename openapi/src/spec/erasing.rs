//! The part of the document about erasing.

use utoipa::openapi::path::OperationBuilder;
use utoipa::openapi::schema::Schema;
use utoipa::openapi::{HttpMethod, PathItem, PathsBuilder, RefOr};

use super::admin::{ACCOUNT, PROVIDER};
use super::parts::{act_on, done};
use super::{body, collect, error, not_again};
use crate::admin::{EraseAccount, Erased};

/// Adds the endpoints.
pub(super) fn paths(paths: PathsBuilder) -> PathsBuilder {
    let post = |operation| PathItem::new(HttpMethod::Post, operation);
    paths
        .path("/admin/v1/accounts/{id}/erase", post(erase_account()))
        .path("/admin/v1/providers/{id}/erase", post(erase_provider()))
}

/// Adds the schemas of the types.
pub(super) fn collect_schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    collect::<EraseAccount>(schemas);
    collect::<Erased>(schemas);
}

fn erase_account() -> OperationBuilder {
    act_on("eraseAccount", "Erase what is personal of an account, for good (role admin)", ACCOUNT)
        .description(Some(
            "Closes the account, and takes its name, its keys (with labels and hashes), limits, kept responses, the texts of payments' references \
             and of idempotency keys. Ledger, usage in figures and receipts' proofs stay, under the account's id. Doing it again takes what has \
             come since.",
        ))
        .request_body(Some(body::<EraseAccount>()))
        .response("200", done::<Erased>("Erased."))
        .response("409", not_again(error("Credit is left, or requests may be running: the message says which, and what to do.")))
}

fn erase_provider() -> OperationBuilder {
    act_on("eraseProvider", "Erase what is personal of a provider, for good (role admin)", PROVIDER)
        .description(Some(
            "Takes where it was paid, the texts of payouts' references, and what was written about it. Its id, its standing and its earnings in \
             figures stay. Doing it again takes what has come since.",
        ))
        .response("200", done::<Erased>("Erased."))
        .response("409", not_again(error("It is owed money, or a payout is on its way: the message says which.")))
}
