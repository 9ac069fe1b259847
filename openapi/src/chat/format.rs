//! What form an answer must have.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::Used;
use super::json::Members;
use super::tools::parse_name;
use crate::error::InvalidRequest;
use crate::parameter::Parameter;

/// Where a schema is, for errors.
pub const SCHEMA_PARAM: &str = "response_format.json_schema.schema";

/// What form an answer must have.
#[derive(Clone, Debug, Default)]
pub enum ResponseFormat<'a> {
    /// Any.
    #[default]
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON that matches a schema.
    JsonSchema(Cow<'a, RawValue>),
}

impl<'a> ResponseFormat<'a> {
    pub(super) fn parse(members: &Members<'a>, used: &mut Used) -> Result<Self, InvalidRequest> {
        let Some(value) = members.get("response_format") else { return Ok(Self::Text) };
        let format = value.object("response_format")?;
        let format = match &*format.required_at("response_format", "type")?.string("response_format.type")? {
            "text" => return Ok(Self::Text),
            "json_object" => Self::JsonObject,
            "json_schema" => {
                let path = "response_format.json_schema";
                let named = format.required_at("response_format", "json_schema")?.object(path)?;
                parse_name(named.required_at(path, "name")?, "response_format.json_schema.name")?;
                for (name, is_text) in [("description", true), ("strict", false)] {
                    let (value, path) = (named.get(name), format!("{path}.{name}"));
                    match is_text {
                        true => drop(value.map(|value| value.string(&path)).transpose()?),
                        false => drop(value.map(|value| value.boolean(&path)).transpose()?),
                    }
                }
                let schema = named.required_at(path, "schema")?;
                schema.object(SCHEMA_PARAM)?;
                Self::JsonSchema(Cow::Borrowed(schema.raw()))
            }
            _ => {
                return Err(InvalidRequest::value(
                    "response_format.type",
                    "'response_format.type' must be 'text', 'json_object' or 'json_schema'.",
                ));
            }
        };
        used.when(Parameter::ResponseFormat, true);
        Ok(format)
    }
}
