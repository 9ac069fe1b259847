//! The document that is checked in is the one that the types make, and its request is the one that the parser reads.

use std::collections::BTreeSet;

use lumbung_openapi::chat::ChatRequest;
use lumbung_openapi::parameter::Parameter;
use lumbung_openapi::spec;
use lumbung_openapi::spec::chat::{ChatCompletionRequest, Content, RequestMessage, RequestRole};
use serde_json::{Value, json};

const CHECKED_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");

#[test]
fn the_checked_in_document_is_current() {
    let current = spec::to_json();
    if std::env::var_os("LUMBUNG_WRITE_SPEC").is_some() {
        std::fs::write(CHECKED_IN, &current).expect("written");
    }
    let checked_in = std::fs::read_to_string(CHECKED_IN).unwrap_or_default();
    assert!(
        checked_in == current,
        "openapi/openapi.json is not what the types make: run `make spec` and look at the difference"
    );
}

#[test]
fn every_reference_leads_somewhere_and_every_operation_has_its_own_id() {
    let document: Value = serde_json::from_str(&spec::to_json()).expect("JSON");
    let mut references = Vec::new();
    collect(&document, "$ref", &mut references);
    assert!(references.len() > 20, "{references:?}");
    for reference in references {
        let pointer = reference.strip_prefix('#').expect("a reference within the document");
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    let mut ids = Vec::new();
    collect(&document["paths"], "operationId", &mut ids);
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{ids:?}");
}

#[test]
fn the_documented_request_is_the_one_that_is_read() {
    let document: Value = serde_json::from_str(&spec::to_json()).expect("JSON");
    let properties =
        document["components"]["schemas"]["ChatCompletionRequest"]["properties"].as_object().expect("properties");

    let parts = [
        Parameter::ImageUrl,
        Parameter::InputAudio,
        Parameter::File,
        // Those of the other endpoints.
        Parameter::Prompt,
        Parameter::Echo,
        Parameter::Suffix,
        Parameter::BestOf,
        Parameter::Input,
        Parameter::Dimensions,
    ];
    for parameter in Parameter::ALL.iter().filter(|parameter| !parts.contains(parameter)) {
        assert!(properties.contains_key(parameter.name()), "{} is not documented", parameter.name());
    }
    // The parser passes over members that it does not know. So one is read if a wrong value is refused, or noted as in use.
    for name in properties.keys() {
        let is_read = [json!([[]]), json!({"x": []}), json!("x")].into_iter().any(|value| {
            let mut request = serde_json::to_value(example()).expect("JSON");
            request[name] = value;
            match ChatRequest::parse(request.to_string().as_bytes()) {
                Ok(request) => request.parameters.iter().any(|parameter| parameter.name() == name),
                Err(error) => error.param.is_some_and(|param| param.starts_with(name.as_str())),
            }
        });
        assert!(is_read, "{name} is documented, but not read");
    }
    let body = serde_json::to_string(&example()).expect("JSON");
    assert_eq!(ChatRequest::parse(body.as_bytes()).expect("the documented shape").model, "lumbung/padi");
}

fn example() -> ChatCompletionRequest {
    let content = Some(Content::Text("Hello".into()));
    ChatCompletionRequest {
        model: "lumbung/padi".into(),
        messages: vec![RequestMessage {
            role: RequestRole::User,
            content,
            name: None,
            tool_calls: None,
            tool_call_id: None,
            reasoning_content: None,
        }],
        ..Default::default()
    }
}

/// Every string under `name`, anywhere.
fn collect(value: &Value, name: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(text)) = members.get(name) {
                found.push(text.clone());
            }
            members.values().for_each(|member| collect(member, name, found));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, name, found)),
        _ => {}
    }
}
