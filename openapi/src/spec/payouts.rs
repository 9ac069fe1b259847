//! The part of the document about what providers earn and how they are paid.

use utoipa::openapi::content::ContentBuilder;
use utoipa::openapi::path::OperationBuilder;
use utoipa::openapi::schema::{Object, ObjectBuilder, Schema, Type};
use utoipa::openapi::{HttpMethod, PathItem, PathsBuilder, RefOr};

use super::admin::PROVIDER;
use super::parts::{act, act_on, done, id, integer, list, look, moment, query, text};
use super::{answer, body, collect, error, not_again, with_header, with_request_id};
use crate::earnings::EarningsStatement;
use crate::payouts::{
    Clawback, ConfirmPayout, CreateClawback, CreatePayoutRun, DecidePromotional, HeldShares, Payout, PayoutRun,
    PayoutRunDetail, PromotionalDecision,
};

const RUN: (&str, &str, &str) = ("The run's id.", "^run_[0-9A-HJKMNP-TV-Z]{26}$", "run_01K00000000000000000000000");
const PAYOUT: (&str, &str, &str) =
    ("The payout's id.", "^pay_[0-9A-HJKMNP-TV-Z]{26}$", "pay_01K00000000000000000000000");

/// Adds the endpoints.
pub(super) fn paths(paths: PathsBuilder) -> PathsBuilder {
    let get = |operation| PathItem::new(HttpMethod::Get, operation);
    let post = |operation| PathItem::new(HttpMethod::Post, operation);
    paths
        .path("/admin/v1/providers/{id}/earnings", get(retrieve_earnings()))
        .path("/admin/v1/clawbacks", get(list_clawbacks()))
        .path("/admin/v1/clawbacks", post(claw_back()))
        .path("/admin/v1/promotional", get(list_held()))
        .path("/admin/v1/promotional/decisions", post(decide()))
        .path("/admin/v1/payout-runs", get(list_runs()))
        .path("/admin/v1/payout-runs", post(create_run()))
        .path("/admin/v1/payout-runs/{id}", get(retrieve_run()))
        .path("/admin/v1/payouts/{id}/confirm", post(confirm()))
        .path("/admin/v1/payouts/{id}/reverse", post(reverse()))
}

/// Adds the schemas of the types.
pub(super) fn collect_schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    collect::<Clawback>(schemas);
    collect::<CreateClawback>(schemas);
    collect::<HeldShares>(schemas);
    collect::<DecidePromotional>(schemas);
    collect::<PromotionalDecision>(schemas);
    collect::<CreatePayoutRun>(schemas);
    collect::<PayoutRun>(schemas);
    collect::<PayoutRunDetail>(schemas);
    collect::<Payout>(schemas);
    collect::<ConfirmPayout>(schemas);
}

fn retrieve_earnings() -> OperationBuilder {
    let response = answer::<EarningsStatement>("One page, oldest first.").content("text/csv", csv());
    let response = with_header(response, "x-next-cursor", Type::String, "With CSV: for `after`, if more follows.");
    look("retrieveEarnings", "What a provider earned, attempt by attempt, and where all of it is")
        .description(Some("The statement that the provider itself reads: times in it are Unix seconds."))
        .parameter(id(PROVIDER))
        .parameter(query("limit", "Attempts at most.", integer(1, Some(500), Some(100))))
        .parameter(query("after", "The `next_cursor` of the page before.", text(None)))
        .parameter(query("from_us", "Attempts settled from this moment on, Unix microseconds.", moment()))
        .parameter(query("format", "The same as the header `accept`, and before it.", format()))
        .response("200", with_request_id(response))
        .response("404", error("There is no such provider."))
}

fn list_clawbacks() -> OperationBuilder {
    list::<Clawback>("listClawbacks", "Earnings that were taken back").parameter(query(
        "provider",
        "From this provider only.",
        text(Some(PROVIDER.1)),
    ))
}

fn claw_back() -> OperationBuilder {
    act("clawBack", "Take back what a provider earned and cannot be paid yet (role admin)")
        .description(Some(
            "Either all of some `jobs`, which goes back to their clients, or an amount, which becomes revenue. Only of attempts whose \
             receipts have come.",
        ))
        .request_body(Some(body::<CreateClawback>()))
        .response("201", done::<Clawback>("Taken back."))
        .response("404", error("There is no such provider."))
        .response("409", not_again(error("Less than that is pending, or nothing of these jobs.")))
}

fn list_held() -> OperationBuilder {
    list::<HeldShares>("listPromotional", "Shares that promotional credit paid for and nobody has decided about")
        .parameter(query("provider", "This provider's only.", text(Some(PROVIDER.1))))
}

fn decide() -> OperationBuilder {
    act("decidePromotional", "Approve or refuse a provider's shares that promotional credit paid for (role admin)")
        .description(Some("All whose receipts have come: approved, they are payable at once."))
        .request_body(Some(body::<DecidePromotional>()))
        .response("201", done::<PromotionalDecision>("Decided."))
        .response("404", error("There is no such provider."))
        .response("409", not_again(error("Nothing of this provider's waits for a decision.")))
}

fn list_runs() -> OperationBuilder {
    list::<PayoutRun>("listPayoutRuns", "Payout runs")
}

fn create_run() -> OperationBuilder {
    act("createPayoutRun", "Send everything payable on its way")
        .description(Some(
            "To providers that are not banned, can be paid at least the minimum, and have said where to, not just now. A run with a \
             `reference` that there is already is answered, not made again.",
        ))
        .request_body(Some(body::<CreatePayoutRun>()))
        .response("201", done::<PayoutRun>("The run."))
}

fn retrieve_run() -> OperationBuilder {
    look("retrievePayoutRun", "One payout run and all of its payouts")
        .parameter(id(RUN))
        .parameter(query("format", "The same as the header `accept`, and before it.", format()))
        .response(
            "200",
            with_request_id(answer::<PayoutRunDetail>("The run; as CSV, its payouts.").content("text/csv", csv())),
        )
        .response("404", error("There is no such run."))
}

fn confirm() -> OperationBuilder {
    act_on("confirmPayout", "A payout has arrived", PAYOUT)
        .request_body(Some(body::<ConfirmPayout>()))
        .response("200", done::<Payout>("The payout, confirmed."))
        .response("409", not_again(error("It was confirmed with another reference, or reversed.")))
}

fn reverse() -> OperationBuilder {
    act_on("reversePayout", "A payout will not arrive: the money is payable again (role admin)", PAYOUT)
        .response("200", done::<Payout>("The payout, reversed."))
        .response("409", not_again(error("It has been confirmed.")))
}

fn csv() -> utoipa::openapi::Content {
    ContentBuilder::new().schema(Some(Object::with_type(Type::String))).build()
}

fn format() -> Object {
    ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["json", "csv"])).build()
}
