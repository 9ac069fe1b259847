use super::*;

fn rewritten(schema: &Value) -> Result<Value, String> {
    let raw = RawValue::from_string(schema.to_string()).expect("JSON");
    enforceable(&raw).map_err(|error| error.0)
}

#[test]
fn what_is_enforced_stays_and_annotations_go() {
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "T", "x-order": 1, "type": "object",
        "properties": {"a": {"type": ["string", "null"], "description": "d", "maxLength": 5}, "b": {"enum": [1, "x", null]}},
        "required": ["a", "b"], "minProperties": 1, "additionalProperties": false
    });
    let expected = json!({
        "type": "object", "properties": {"a": {"type": ["string", "null"], "maxLength": 5}, "b": {"enum": [1, "x", null]}},
        "required": ["a", "b"], "additionalProperties": false
    });
    assert_eq!(rewritten(&schema), Ok(expected));
}

#[test]
fn references_are_followed_within_the_schema() {
    let schema = json!({
        "type": "object", "properties": {"tree": {"$ref": "#/definitions/tree"}, "self": {"$ref": "#"}},
        "definitions": {"tree": {"type": "array", "items": {"$ref": "#/definitions/tree"}}, "unused": {"not": {}}}
    });
    let expected = json!({
        "type": "object", "properties": {"tree": {"$ref": "#/$defs/d0"}, "self": {"$ref": "#"}},
        "$defs": {"d0": {"type": "array", "items": {"$ref": "#/$defs/d0"}}}
    });
    assert_eq!(rewritten(&schema), Ok(expected));
}

#[test]
fn formats_are_patterns_beside_the_schemas_own() {
    let date = formats::pattern_of("date").expect("known");
    assert_eq!(rewritten(&json!({"type": "string", "format": "date"})), Ok(json!({"type": "string", "pattern": date})));
    let both = rewritten(&json!({"type": "string", "format": "date", "pattern": "^2"}));
    assert_eq!(both, Ok(json!({"type": "string", "pattern": "^2", "allOf": [{"pattern": date}]})));
}

#[test]
fn what_cannot_be_enforced_is_refused_with_its_place() {
    let deep = (0..60).fold(json!({"type": "string"}), |inner, _| json!({"type": "array", "items": inner}));
    let wide: Vec<Value> = (0..MAX_NODES).map(|at| json!(at)).collect();
    for (schema, part) in [
        (json!({"type": "array", "uniqueItems": true}), "'uniqueItems' cannot"),
        (json!({"not": {"type": "string"}}), "'not' cannot"),
        (json!({"properties": {"a/b": {"if": true}}}), "/properties/a~1b: 'if' cannot"),
        (json!({"type": "string", "format": "idn-email"}), "format 'idn-email'"),
        (json!({"type": "string", "format": 7}), "format ''"),
        (json!({"$ref": "https://example.com/schema"}), "only references within"),
        (json!({"$ref": "#/nowhere"}), "refers to nothing"),
        (json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}), "in a circle"),
        (json!({"x-guidance": {"lenient": true}}), "x-guidance"),
        (json!({"properties": {"a": {"x-guidance": {}}}}), "x-guidance"),
        (json!({"$id": "https://example.com/a"}), "'$id' cannot"),
        (json!({"$schema": "http://json-schema.org/draft-04/schema#"}), "drafts"),
        (json!({"type": "float"}), "JSON type"),
        (json!({"enum": []}), "array of values"),
        (json!({"enum": [1e300]}), "so large"),
        (json!({"type": "integer", "minimum": true}), "must be a number"),
        (json!({"type": "number", "multipleOf": 0.1}), "whole numbers from 1"),
        (json!({"type": "string", "maxLength": -1}), "from 0 to"),
        (json!({"type": "object", "minProperties": 1}), "'required' names"),
        (json!({"type": "array", "items": [{}]}), "prefixItems"),
        (json!({"type": "array", "contains": {}}), "'contains' cannot"),
        (json!({"type": "string", "pattern": "(?=a)"}), "cannot be enforced"),
        (json!({"patternProperties": {"(?!a)": {}}}), "cannot be enforced"),
        (json!({"dependentRequired": {}}), "'dependentRequired' cannot"),
        (json!({"unevaluatedProperties": false}), "'unevaluatedProperties' cannot"),
        (json!({"nullable": true}), "'nullable' cannot"),
        (json!({"properties": []}), "must be an object"),
        (json!({"required": [1]}), "array of names"),
        (json!({"anyOf": []}), "array of schemas"),
        (json!({"items": 7}), "an object or a boolean"),
        (deep, "deep"),
        (json!({"enum": wide}), "parts"),
        (json!({"const": "x".repeat(MAX_BYTES)}), "longer than"),
    ] {
        let refused = rewritten(&schema).expect_err(part);
        assert!(refused.contains(part), "{refused} does not say {part}");
    }
}
