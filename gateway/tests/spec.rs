//! The published document and the route table name the same endpoints.

use std::collections::BTreeSet;

use lumbung_openapi::earnings::{EARNINGS_PATH, PAYOUT_DETAILS_PATH};
use lumbung_openapi::endpoint::Endpoint;
use lumbung_openapi::provider::{CHALLENGE_PATH, RECEIPTS_PATH, TUNNEL_PATH};

/// The paths in the source of the route table, `{*rest}` written as `{rest}`.
fn routed() -> BTreeSet<String> {
    let source = concat!(
        include_str!("../src/http/mod.rs"),
        include_str!("../src/http/chat.rs"),
        include_str!("../src/http/responses.rs"),
        include_str!("../src/http/admin/mod.rs"),
        include_str!("../src/http/account/mod.rs")
    );
    let routes = source.split(".route(").skip(1).map(|rest| rest.split(',').next().unwrap_or_default().trim());
    let routes = routes.filter(|argument| *argument != "endpoint.path()");
    let path = |argument: &str| match argument {
        "CHALLENGE_PATH" => CHALLENGE_PATH.to_owned(),
        "TUNNEL_PATH" => TUNNEL_PATH.to_owned(),
        "RECEIPTS_PATH" => RECEIPTS_PATH.to_owned(),
        "EARNINGS_PATH" => EARNINGS_PATH.to_owned(),
        "PAYOUT_DETAILS_PATH" => PAYOUT_DETAILS_PATH.to_owned(),
        literal => literal.trim_matches('"').replace("{*", "{"),
    };
    // An id may hold slashes, so one route has both.
    let under_a_model = ["/v1/models/{id}/endpoints".to_owned()];
    routes.map(path).chain(under_a_model).chain(Endpoint::ALL.map(|endpoint| endpoint.path().to_owned())).collect()
}

#[test]
fn what_is_served_is_documented_and_what_is_documented_is_served() {
    let document = serde_json::to_value(lumbung_openapi::spec::document()).expect("the document is JSON");
    let documented: BTreeSet<String> = document["paths"].as_object().expect("paths").keys().cloned().collect();
    assert!(documented.len() > 5);
    assert_eq!(routed(), documented);
}
