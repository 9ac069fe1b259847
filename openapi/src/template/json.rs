//! JSON values for templates, whose members stay in their order (minijinja's own maps are sorted), and JSON text as Python
//! writes it.

use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, Value};
use serde::Serialize;
use serde_json::Value as JsonValue;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// An array or an object.
#[derive(Debug)]
pub struct Json(JsonValue);

impl Json {
    /// As a value for templates.
    pub fn wrap(value: JsonValue) -> Value {
        match value {
            JsonValue::Array(_) | JsonValue::Object(_) => Value::from_object(Self(value)),
            scalar => Value::from_serialize(scalar),
        }
    }

    /// What it holds.
    pub fn value(&self) -> &JsonValue {
        &self.0
    }
}

impl Object for Json {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        match self.0 {
            JsonValue::Array(_) => ObjectRepr::Seq,
            _ => ObjectRepr::Map,
        }
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let found = match &self.0 {
            JsonValue::Array(items) => items.get(key.as_usize()?),
            JsonValue::Object(members) => members.get(key.as_str()?),
            _ => None,
        };
        found.cloned().map(Self::wrap)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        match &self.0 {
            JsonValue::Array(items) => Enumerator::Seq(items.len()),
            JsonValue::Object(members) => Enumerator::Values(members.keys().map(Value::from).collect()),
            _ => Enumerator::Empty,
        }
    }
}

/// As Python's `json.dumps` writes it with `ensure_ascii=False`.
pub fn write(value: &impl Serialize, indent: Option<usize>) -> Result<String, serde_json::Error> {
    let mut text = Vec::new();
    match indent {
        None => value.serialize(&mut Serializer::with_formatter(&mut text, Python))?,
        Some(width) => {
            let indent = b" ".repeat(width.min(16));
            let formatter = PrettyFormatter::with_indent(&indent);
            value.serialize(&mut Serializer::with_formatter(&mut text, formatter))?;
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// A space after `:` and `,`.
struct Python;

impl Formatter for Python {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}
