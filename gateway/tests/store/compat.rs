//! What the release before says, to other gateways, to providers and in Redis, word for word (`compat.json`): this one
//! understands it, and still says at least as much. While an upgrade goes on, both are at work side by side.
//!
//! A release adds to the file what it says that is new, and takes out what the release before the last said. What is in it is
//! never changed to make a test pass: the other side is out there.

use bytes::{Bytes, BytesMut};
use lumbung_gateway::store::registry::{FleetEvent, Presence};
use lumbung_openapi::frame::{FrameReader, encode};
use lumbung_openapi::provider::{JoinClaims, Offer};
use lumbung_openapi::receipt::{ReceiptBatch, ReceiptClaims, ReceiptVerdicts, RootClaims};
use lumbung_openapi::ticket::Ticket;
use lumbung_openapi::voucher::Voucher;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// What is missing or other in `now`, by its path; nothing where it says all that was said before.
fn lost(before: &Value, now: &Value, path: &str) -> Vec<String> {
    match (before, now) {
        (Value::Object(before), Value::Object(now)) => {
            let parts = before.iter().map(|(name, part)| match now.get(name) {
                Some(there) => lost(part, there, &format!("{path}/{name}")),
                None => vec![format!("{path}/{name} is not said any more")],
            });
            parts.flatten().collect()
        }
        (Value::Array(before), Value::Array(now)) if before.len() == now.len() => {
            let parts = before.iter().zip(now).enumerate();
            parts.flat_map(|(at, (before, now))| lost(before, now, &format!("{path}/{at}"))).collect()
        }
        (before, now) if before == now => Vec::new(),
        (before, now) => vec![format!("{path}: {now} in the place of {before}")],
    }
}

fn is_said_still<T: Serialize + DeserializeOwned>(said: &str, before: &Value) {
    let understood: T =
        serde_json::from_value(before.clone()).unwrap_or_else(|error| panic!("{said} is not understood: {error}"));
    let now = serde_json::to_value(&understood).expect("JSON");
    assert_eq!(lost(before, &now, ""), Vec::<String>::new(), "{said}");
}

#[test]
fn what_the_release_before_says_is_understood_and_still_said() {
    let said: Value = serde_json::from_str(include_str!("compat.json")).expect("JSON");
    let said = said.as_object().expect("an object");
    for (name, before) in said {
        match name.split(" of ").next().unwrap_or_default() {
            "redis: beat" | "redis: changed" | "redis: running" | "redis: left" => {
                is_said_still::<FleetEvent>(name, before)
            }
            "redis: presence" => is_said_still::<Presence>(name, before),
            "tunnel: join" => is_said_still::<JoinClaims>(name, before),
            "tunnel: offer" => is_said_still::<Offer>(name, before),
            "tunnel: ticket" => is_said_still::<Ticket>(name, before),
            "tunnel: voucher" => is_said_still::<Voucher>(name, before),
            "tunnel: receipt's claims" => is_said_still::<ReceiptClaims>(name, before),
            "receipts: batch" => is_said_still::<ReceiptBatch>(name, before),
            "receipts: verdicts" => is_said_still::<ReceiptVerdicts>(name, before),
            "receipts: root" => is_said_still::<RootClaims>(name, before),
            "frames" => frames(before),
            unknown => panic!("nothing reads {unknown}"),
        }
    }
    assert!(said.len() >= 15, "{}", said.len());
}

fn frames(before: &Value) {
    let mut kinds = Vec::new();
    for (name, frame) in before.as_object().expect("an object") {
        let hex = frame["hex"].as_str().expect("hex digits");
        let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("two digits"));
        let bytes: Bytes = bytes.collect();
        let (mut reader, mut read) = (FrameReader::default(), Vec::new());
        reader.push(bytes.clone(), |frame| read.push(frame)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let [one] = read.as_slice() else { panic!("{name}: {} frames", read.len()) };
        let ids: Vec<u32> = one.token_ids().collect();
        let now = json!({"hex": hex, "kind": one.kind as u8, "choice": one.choice, "tokens": one.tokens, "ids": ids,
                         "payload": one.payload.to_vec()});
        assert_eq!(&now, frame, "{name}");
        let mut written = BytesMut::new();
        encode(&mut written, one.kind, one.choice, one.tokens, &ids, &one.payload);
        assert_eq!(written.freeze(), bytes, "{name}");
        kinds.push(one.kind as u8);
    }
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds.len(), 12, "one of each kind");
}

#[test]
fn what_is_lost_is_found() {
    let before = json!({"a": 1, "b": [{"c": "x"}, null]});
    assert_eq!(lost(&before, &json!({"a": 1, "b": [{"c": "x", "new": 2}, null], "more": true}), ""), [""; 0]);
    let now = json!({"a": "1", "b": [{"d": "x"}, null]});
    assert_eq!(lost(&before, &now, ""), ["/a: \"1\" in the place of 1", "/b/0/c is not said any more"]);
}
