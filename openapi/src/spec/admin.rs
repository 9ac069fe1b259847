//! The operator's part of the document.

use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::path::{OperationBuilder, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{KnownFormat, Object, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::openapi::{HttpMethod, PathItem, PathsBuilder, RefOr, Required};

use super::parts::{act, act_on, done, id, list, list_or_csv, look, moment, query, text};
use super::{answer, body, collect, error, not_again, with_request_id};
use crate::admin::{
    Account, AddCredit, AuditEntry, BooksCheck, CatalogueModel, CreateAccount, CreditMoved, LedgerEntry, ModelPrice,
    Provider, PutModel, Refund, Removed, SetPrice, SetStanding,
};
use crate::usage::{Invoice, UsageLine};

pub(super) const ACCOUNT: (&str, &str, &str) =
    ("The account's id.", "^acct_[0-9A-HJKMNP-TV-Z]{26}$", "acct_01K00000000000000000000000");
pub(super) const KEY: (&str, &str, &str) =
    ("The key's id.", "^key_[0-9A-HJKMNP-TV-Z]{26}$", "key_01K00000000000000000000000");
const MODEL: (&str, &str, &str) =
    ("The model's id; a slash in it is written `%2F`.", "^[!-~]{1,128}$", "qwen/qwen3-8b");
pub(super) const PROVIDER: (&str, &str, &str) =
    ("The provider's id.", "^[0-9A-Za-z_-]{43}$", "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");

/// Adds the operator's endpoints.
pub(super) fn paths(paths: PathsBuilder) -> PathsBuilder {
    let get = |operation| PathItem::new(HttpMethod::Get, operation);
    let post = |operation| PathItem::new(HttpMethod::Post, operation);
    paths
        .path("/admin/v1/accounts", get(list_accounts()))
        .path("/admin/v1/accounts", post(create_account()))
        .path("/admin/v1/accounts/{id}", get(retrieve_account()))
        .path("/admin/v1/accounts/{id}/close", post(close_account()))
        .path("/admin/v1/accounts/{id}/credit", post(add_credit()))
        .path("/admin/v1/accounts/{id}/refunds", post(refund()))
        .path("/admin/v1/models", get(list_models()))
        .path("/admin/v1/models/{id}", get(retrieve_model()))
        .path("/admin/v1/models/{id}", PathItem::new(HttpMethod::Put, put_model()))
        .path("/admin/v1/models/{id}", PathItem::new(HttpMethod::Delete, remove_model()))
        .path("/admin/v1/models/{id}/prices", get(list_prices()))
        .path("/admin/v1/models/{id}/prices", post(add_price()))
        .path("/admin/v1/providers", get(list_providers()))
        .path("/admin/v1/providers/{id}", get(retrieve_provider()))
        .path("/admin/v1/providers/{id}/standing", post(set_standing()))
        .path("/admin/v1/ledger/entries", get(list_entries()))
        .path("/admin/v1/ledger/check", get(check_books()))
        .path("/admin/v1/usage", get(list_usage()))
        .path("/admin/v1/accounts/{id}/invoices/{month}", get(retrieve_invoice()))
        .path("/admin/v1/audit", get(list_audit()))
}

/// Adds the schemas of the operator's types.
pub(super) fn collect_schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    collect::<Account>(schemas);
    collect::<CreateAccount>(schemas);
    collect::<AddCredit>(schemas);
    collect::<Refund>(schemas);
    collect::<CreditMoved>(schemas);
    collect::<CatalogueModel>(schemas);
    collect::<PutModel>(schemas);
    collect::<Removed>(schemas);
    collect::<ModelPrice>(schemas);
    collect::<SetPrice>(schemas);
    collect::<Provider>(schemas);
    collect::<SetStanding>(schemas);
    collect::<AuditEntry>(schemas);
    collect::<LedgerEntry>(schemas);
    collect::<BooksCheck>(schemas);
    collect::<UsageLine>(schemas);
    collect::<Invoice>(schemas);
}

fn list_accounts() -> OperationBuilder {
    list::<Account>("listAccounts", "Accounts and what they have")
}

fn create_account() -> OperationBuilder {
    act("createAccount", "Open an account without credit")
        .request_body(Some(body::<CreateAccount>()))
        .response("201", done::<Account>("The account."))
}

fn retrieve_account() -> OperationBuilder {
    look("retrieveAccount", "One account and what it has")
        .parameter(id(ACCOUNT))
        .response("200", with_request_id(answer::<Account>("The account.")))
        .response("404", error("There is no such account."))
}

fn close_account() -> OperationBuilder {
    act_on("closeAccount", "Close an account: its keys work no longer", ACCOUNT)
        .response("200", done::<Account>("The account, closed. What it has stays in the books."))
}

fn add_credit() -> OperationBuilder {
    act_on("addCredit", "Add credit to an account", ACCOUNT)
        .request_body(Some(body::<AddCredit>()))
        .response("201", done::<CreditMoved>("Added."))
        .response("409", not_again(error("A payment with this reference has been credited already.")))
}

fn refund() -> OperationBuilder {
    act_on("refundCredit", "Pay an account's credit back", ACCOUNT)
        .description(Some(
            "At most what is not set aside for gateways; what they do not need comes back within a minute or so.",
        ))
        .request_body(Some(body::<Refund>()))
        .response("201", done::<CreditMoved>("Paid back."))
        .response("409", not_again(error("More than the account's credit, or this reference was refunded already.")))
}

fn list_models() -> OperationBuilder {
    list::<CatalogueModel>("listCatalogue", "The catalogue of models")
}

fn retrieve_model() -> OperationBuilder {
    look("retrieveCatalogueModel", "One model of the catalogue")
        .parameter(id(MODEL))
        .response("200", with_request_id(answer::<CatalogueModel>("The model.")))
        .response("404", error("There is no such model."))
}

fn put_model() -> OperationBuilder {
    act_on("putModel", "Add a model to the catalogue, or change it (role admin)", MODEL)
        .request_body(Some(body::<PutModel>()))
        .response("200", done::<CatalogueModel>("The model."))
        .response("409", not_again(error("Another model has one of these names.")))
}

fn remove_model() -> OperationBuilder {
    act_on("removeModel", "Take a model out of the catalogue; its prices stay on record (role admin)", MODEL)
        .response("200", done::<Removed>("Removed. Jobs that are running go on."))
}

fn list_prices() -> OperationBuilder {
    list::<ModelPrice>("listModelPrices", "A model's reference prices: past, in force and to come")
        .parameter(id(MODEL))
        .response("404", error("There is no such model."))
}

fn add_price() -> OperationBuilder {
    act_on("setModelPrice", "Set a model's reference price, from now on or from a later moment (role admin)", MODEL)
        .description(Some(
            "The price caps what providers may ask: from that moment on, whoever asks more gets no jobs. A job is charged at what was asked when \
             it was admitted.",
        ))
        .request_body(Some(body::<SetPrice>()))
        .response("201", done::<ModelPrice>("The price."))
        .response("409", not_again(error("Another price begins at that moment.")))
}

fn list_providers() -> OperationBuilder {
    list::<Provider>("listProviders", "Providers that have joined, or were banned before they did")
}

fn retrieve_provider() -> OperationBuilder {
    look("retrieveProvider", "One provider")
        .parameter(id(PROVIDER))
        .response("200", with_request_id(answer::<Provider>("The provider.")))
        .response("404", error("There is no such provider."))
}

fn set_standing() -> OperationBuilder {
    act_on("setStanding", "Trust, ban or put on probation, before it has joined if need be (role admin)", PROVIDER)
        .request_body(Some(body::<SetStanding>()))
        .response("200", done::<Provider>("The provider."))
}

fn list_entries() -> OperationBuilder {
    list_or_csv::<LedgerEntry>("listLedgerEntries", "Movements on ledger accounts, by posting")
        .description(Some(
            "About `limit` entries, never a posting in part. A page may hold fewer, even none, and still have a next one: only so many \
             postings are looked through for each.",
        ))
        .parameter(query("account", "On this ledger account, such as `credit:acct_…` or `revenue`.", text(None)))
        .parameter(query("kind", "Of postings of this kind, such as `settle` or `refund`.", text(None)))
        .parameter(query("from_us", "From this moment on, Unix microseconds.", moment()))
        .parameter(query("until_us", "Before this moment, Unix microseconds.", moment()))
}

fn check_books() -> OperationBuilder {
    look("checkBooks", "Recompute every balance from its entries; one check at a time")
        .response("200", with_request_id(answer::<BooksCheck>("What was found.")))
}

fn list_usage() -> OperationBuilder {
    let day = || {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Date)))
            .build()
    };
    list_or_csv::<UsageLine>("listUsage", "What was used, by account, key, model, provider and day")
        .description(Some(
            "One line for each combination of what `by` names, ordered by account, key, model, provider and day; one line for all of it where \
             `by` is absent. A key is told with its account.",
        ))
        .parameter(query(
            "by",
            "Some of `account`, `key`, `model`, `provider` and `day`, with commas between.",
            text(Some("^(account|key|model|provider|day)(,(account|key|model|provider|day))*$")),
        ))
        .parameter(query("from", "From this day on, UTC.", day()))
        .parameter(query("until", "Up to this day, which is not included.", day()))
        .parameter(query("account", "Only this account's.", text(Some(ACCOUNT.1))))
        .parameter(query("key", "Only with this key.", text(Some(KEY.1))))
        .parameter(query("model", "Only of this model.", text(Some("^[!-~]{1,128}$"))))
        .parameter(query("provider", "Only at this provider.", text(Some(PROVIDER.1))))
}

fn retrieve_invoice() -> OperationBuilder {
    let csv = ContentBuilder::new().schema(Some(Object::with_type(Type::String))).build();
    let format = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["json", "csv"])).build();
    let month = ParameterBuilder::new()
        .name("month")
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some("The month, UTC."))
        .schema(Some(text(Some("^20[0-9]{2}-(0[1-9]|1[0-2])$"))))
        .example(Some("2026-11".into()))
        .build();
    look("retrieveInvoice", "An account's month: what it had, what came in, what it used, what is left")
        .description(Some("Adds up to the nano-dollar. A month that is over (`is_final`) does not change any more."))
        .parameter(id(ACCOUNT))
        .parameter(month)
        .parameter(query("format", "The same as the header `accept`, and before it.", format))
        .response("200", with_request_id(answer::<Invoice>("The invoice.").content("text/csv", csv)))
        .response("404", error("There is no such account."))
}

fn list_audit() -> OperationBuilder {
    list_or_csv::<AuditEntry>("listAudit", "What operators changed, or tried to")
        .parameter(query("subject", "By this operator.", text(None)))
        .parameter(query("resource", "On this account, key, provider or model.", text(None)))
        .parameter(query("from_us", "From this moment on, Unix microseconds.", moment()))
        .parameter(query("until_us", "Before this moment, Unix microseconds.", moment()))
}
