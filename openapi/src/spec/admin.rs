//! The operator's part of the document.

use utoipa::ToSchema;
use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{OperationBuilder, ParameterBuilder, ParameterIn};
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::schema::{
    ArrayBuilder, KnownFormat, Object, ObjectBuilder, Schema, SchemaFormat, SchemaType, Type,
};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{HttpMethod, PathItem, PathsBuilder, RefOr, Required};

use super::{JSON, answer, body, collect, error, not_again, operation, reference, wait, with_header, with_request_id};
use crate::admin::{
    Account, AddCredit, AuditEntry, BooksCheck, CatalogueModel, CreateAccount, CreateKey, CreatedKey, CreditMoved, Key,
    LedgerEntry, ModelPrice, Provider, PutModel, Refund, Removed, SetPrice, SetStanding,
};
use crate::usage::{Invoice, UsageLine};

const TAG: &str = "Operator";
pub(super) const ACCOUNT: (&str, &str, &str) =
    ("The account's id.", "^acct_[0-9A-HJKMNP-TV-Z]{26}$", "acct_01K00000000000000000000000");
const KEY: (&str, &str, &str) = ("The key's id.", "^key_[0-9A-HJKMNP-TV-Z]{26}$", "key_01K00000000000000000000000");
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
        .path("/admin/v1/accounts/{id}/keys", post(create_key()))
        .path("/admin/v1/keys", get(list_keys()))
        .path("/admin/v1/keys/{id}/revoke", post(revoke_key()))
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
    collect::<Key>(schemas);
    collect::<CreateKey>(schemas);
    collect::<CreatedKey>(schemas);
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

fn create_key() -> OperationBuilder {
    act_on("createKey", "Make an API key (role admin)", ACCOUNT)
        .description(Some(
            "The key itself is shown once. A repeated call with the same `Idempotency-Key` gets `key: null`.",
        ))
        .request_body(Some(body::<CreateKey>()))
        .response("201", done::<CreatedKey>("The key."))
}

fn list_keys() -> OperationBuilder {
    list::<Key>("listKeys", "API keys, revoked ones too").parameter(query(
        "account",
        "Of this account only.",
        text(Some(ACCOUNT.1)),
    ))
}

fn revoke_key() -> OperationBuilder {
    act_on("revokeKey", "Revoke an API key: gateways refuse it within a second (role admin)", KEY)
        .response("200", done::<Key>("The key, revoked."))
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

/// What any operator may look at.
pub(super) fn look(id: &str, summary: &str) -> OperationBuilder {
    operation(id, summary, TAG)
        .security(SecurityRequirement::new("operator", Vec::<String>::new()))
        .response("400", error("A parameter is wrong; `param` names it."))
        .response("401", unauthenticated())
        .response("403", error("The token's role does not allow this."))
        .response("503", wait(error("The books cannot be reached, or are busy.")))
}

/// A list as JSON.
pub(super) fn list<T: ToSchema>(id: &str, summary: &str) -> OperationBuilder {
    look(id, summary)
        .parameter(query("limit", "Items at most.", integer(1, Some(1000), Some(100))))
        .parameter(query("after", "The `next_cursor` of the page before.", text(None)))
        .response("200", with_request_id(page::<T>()))
}

/// A list as JSON or CSV.
pub(super) fn list_or_csv<T: ToSchema>(id: &str, summary: &str) -> OperationBuilder {
    let csv = ContentBuilder::new().schema(Some(Object::with_type(Type::String))).build();
    let format = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["json", "csv"])).build();
    let response = page::<T>().content("text/csv", csv);
    let response = with_header(response, "x-next-cursor", Type::String, "With CSV: for `after`, if more follows.");
    list::<T>(id, summary)
        .parameter(query("format", "The same as the header `accept`, and before it.", format))
        .response("200", with_request_id(response))
}

/// A call that changes something.
pub(super) fn act(id: &str, summary: &str) -> OperationBuilder {
    let key = ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(
            "1 to 255 visible characters. For 30 days a repeated call with the same key acts no second time, and is answered as the first \
             one was, with the header `idempotent-replayed: true`.",
        ))
        .schema(Some(
            ObjectBuilder::new().schema_type(Type::String).max_length(Some(255)).pattern(Some("^[!-~]+$")).build(),
        ))
        .build();
    look(id, summary)
        .parameter(key)
        .response("408", not_again(error("The body did not come in time.")))
        .response("413", error("`request_too_large`"))
        .response("422", error("`idempotency_key_reused`: the key was used for another request."))
}

/// A call that changes one thing.
pub(super) fn act_on(operation: &str, summary: &str, of: (&str, &str, &str)) -> OperationBuilder {
    act(operation, summary).parameter(id(of)).response("404", error("There is none with this id, or it is closed."))
}

/// What a call that changes something answers.
pub(super) fn done<T: ToSchema>(description: &str) -> ResponseBuilder {
    let replayed = "`true` where this is the answer to an earlier call with the same `Idempotency-Key`.";
    with_header(with_request_id(answer::<T>(description)), "idempotent-replayed", Type::String, replayed)
}

/// A query parameter that may be left out.
pub(super) fn query(name: &str, description: &str, schema: Object) -> ParameterBuilder {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Query)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(schema))
}

/// Text, perhaps of a pattern.
pub(super) fn text(pattern: Option<&str>) -> Object {
    let text = ObjectBuilder::new().schema_type(Type::String).max_length(Some(512)).pattern(Some(r"^[^\x00]*$"));
    match pattern {
        Some(pattern) => ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern)).build(),
        None => text.build(),
    }
}

/// A whole number.
pub(super) fn integer(least: i64, most: Option<i64>, default: Option<i64>) -> Object {
    ObjectBuilder::new()
        .schema_type(SchemaType::Type(Type::Integer))
        .minimum(Some(least))
        .maximum(most)
        .default(default.map(Into::into))
        .build()
}

/// Unix microseconds.
pub(super) fn moment() -> Object {
    integer(0, Some(i64::MAX / 2), None)
}

/// The id in the path.
pub(super) fn id((description, pattern, example): (&str, &str, &str)) -> ParameterBuilder {
    ParameterBuilder::new()
        .name("id")
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(description))
        .schema(Some(text(Some(pattern))))
        .example(Some(example.into()))
}

fn page<T: ToSchema>() -> ResponseBuilder {
    let list = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["list"])).build();
    let cursor = ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::String, Type::Null]))
        .description(Some("For `after`, to get the next page."))
        .build();
    let schema = ObjectBuilder::new()
        .property("object", list)
        .property("data", ArrayBuilder::new().items(reference::<T>()).build())
        .property("has_more", Object::with_type(Type::Boolean))
        .property("next_cursor", cursor)
        .required("object")
        .required("data")
        .required("has_more")
        .required("next_cursor")
        .build();
    let content = ContentBuilder::new().schema(Some(schema)).build();
    ResponseBuilder::new().description("A page, oldest first.").content(JSON, content)
}

fn unauthenticated() -> ResponseBuilder {
    error("No token, or one that is not taken.").header(
        "www-authenticate",
        HeaderBuilder::new().schema(Some(Object::with_type(Type::String))).description(Some("`Bearer`.")).build(),
    )
}
