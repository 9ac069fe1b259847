//! Which JSON Schemas can be enforced to the letter, and in what words the grammar engine is told of them.
//!
//! The grammar engine passes over what it does not know, approximates some of what it knows, and lets a schema change its
//! options (`x-guidance`). Nothing of that is wanted: a schema goes to it only as rewritten here, of keywords whose meaning
//! is enforced exactly or more narrowly, and any other schema is refused. Annotations are left out.

mod formats;
mod pattern;

use std::collections::{HashMap, HashSet, VecDeque};

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

/// The longest schema, in bytes.
const MAX_BYTES: usize = 64 << 10;
/// The most subschemas, however they are nested, and values in `enum`.
const MAX_NODES: usize = 4000;
/// How deep they may be nested.
const MAX_DEPTH: usize = 48;
/// The most characters or items that can be asked for or forbidden.
const MAX_COUNT: u64 = 10_000;
/// Beyond this, a number of JSON is no longer exact everywhere.
const MAX_NUMBER: f64 = 9_007_199_254_740_992.0;
/// Nearer to zero than this, a number is not written out in digits.
const MIN_NUMBER: f64 = 1e-9;

/// Why a schema cannot be enforced, with the place: for whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unenforceable(pub String);

/// The schema in the grammar engine's words.
pub fn enforceable(schema: &RawValue) -> Result<Value, Unenforceable> {
    if schema.get().len() > MAX_BYTES {
        return Err(Unenforceable(format!("the schema is longer than {MAX_BYTES} bytes")));
    }
    let root: Value =
        serde_json::from_str(schema.get()).map_err(|_| Unenforceable("it is nested too deeply".into()))?;
    let mut rewriter = Rewriter { root: &root, nodes: 0, names: HashMap::new(), pending: VecDeque::new() };
    let mut rewritten = rewriter.schema(&root, &Place::root())?;
    let mut definitions = Map::new();
    while let Some((pointer, name)) = rewriter.pending.pop_front() {
        let target = rewriter.target(&pointer)?;
        definitions.insert(name, rewriter.schema(target, &Place { pointer, depth: 1 })?);
    }
    if !definitions.is_empty()
        && let Value::Object(members) = &mut rewritten
    {
        members.insert("$defs".into(), Value::Object(definitions));
    }
    Ok(rewritten)
}

/// Where a subschema is.
struct Place {
    /// JSON Pointer.
    pointer: String,
    depth: usize,
}

impl Place {
    fn root() -> Self {
        Self { pointer: String::new(), depth: 0 }
    }

    fn below(&self, name: &str) -> Self {
        let name = name.replace('~', "~0").replace('/', "~1");
        Self { pointer: format!("{}/{name}", self.pointer), depth: self.depth + 1 }
    }

    fn refuse<T>(&self, why: impl std::fmt::Display) -> Result<T, Unenforceable> {
        let at = if self.pointer.is_empty() { "the root" } else { &self.pointer };
        Err(Unenforceable(format!("at {at}: {why}")))
    }
}

struct Rewriter<'a> {
    root: &'a Value,
    nodes: usize,
    /// The new names of what is referred to, by JSON Pointer.
    names: HashMap<String, String>,
    /// Referred to, and not rewritten yet.
    pending: VecDeque<(String, String)>,
}

impl<'a> Rewriter<'a> {
    fn schema(&mut self, schema: &'a Value, place: &Place) -> Result<Value, Unenforceable> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(Unenforceable(format!("the schema has more than {MAX_NODES} parts")));
        }
        if place.depth > MAX_DEPTH {
            return place.refuse(format!("it is nested more than {MAX_DEPTH} deep"));
        }
        let members = match schema {
            Value::Bool(_) => return Ok(schema.clone()),
            Value::Object(members) => members,
            _ => return place.refuse("a schema must be an object or a boolean"),
        };
        let mut rewritten = Map::new();
        for (keyword, value) in members {
            if let Some(value) = self.keyword(keyword, value, members, place)? {
                rewritten.insert(keyword.clone(), value);
            }
        }
        if let Some(format) = members.get("format") {
            add_format(&mut rewritten, format, place)?;
        }
        Ok(Value::Object(rewritten))
    }

    /// A keyword's value in the grammar engine's words; `None` where nothing is to be said.
    fn keyword(
        &mut self,
        keyword: &str,
        value: &'a Value,
        members: &'a Map<String, Value>,
        place: &Place,
    ) -> Result<Option<Value>, Unenforceable> {
        let here = place.below(keyword);
        let rewritten = match keyword {
            "title" | "description" | "default" | "examples" | "$comment" | "readOnly" | "writeOnly" | "deprecated"
            | "contentMediaType" | "contentEncoding" | "format" => return Ok(None),
            // What is referred to is looked up where it is.
            "$defs" | "definitions" => return Ok(None),
            "$schema" => return known_draft(value, &here).map(|()| None),
            "$ref" => self.reference(value, &here)?,
            "type" => type_names(value, &here)?,
            "enum" | "const" => self.values(keyword, value, &here)?,
            "anyOf" | "oneOf" | "allOf" | "prefixItems" => {
                let Some(items) = value.as_array().filter(|items| !items.is_empty()) else {
                    return here.refuse("it must be an array of schemas");
                };
                let items = items.iter().enumerate();
                items.map(|(at, item)| self.schema(item, &here.below(&at.to_string()))).collect::<Result<_, _>>()?
            }
            "items" if value.is_array() => {
                return here.refuse("an array of schemas cannot be enforced there; 'prefixItems' can");
            }
            "items" | "additionalProperties" => self.schema(value, &here)?,
            "properties" | "patternProperties" => self.properties(keyword, value, &here)?,
            "required" => match value.as_array() {
                Some(names) if names.iter().all(Value::is_string) => value.clone(),
                _ => return here.refuse("it must be an array of names"),
            },
            "minLength" | "maxLength" | "minItems" | "maxItems" | "maxProperties" => count(value, &here)?.into(),
            "minProperties" => {
                let names = members.get("required").and_then(Value::as_array).into_iter().flatten();
                let required = names.filter_map(Value::as_str).collect::<HashSet<_>>().len() as u64;
                return match count(value, &here)? {
                    count if count <= required => Ok(None),
                    _ => here.refuse("more properties than 'required' names cannot be enforced"),
                };
            }
            "pattern" => match value.as_str() {
                Some(text) => pattern::rewrite(text).or_else(|why| here.refuse(why))?.into(),
                None => return here.refuse("it must be a string"),
            },
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => number(value, &here)?,
            "multipleOf" => match value.as_u64() {
                Some(1..=1_000_000) => value.clone(),
                _ => return here.refuse("only whole numbers from 1 to 1000000 can be enforced"),
            },
            // What asks for nothing.
            "uniqueItems" if value == &Value::Bool(false) => return Ok(None),
            // The grammar engine would take its options from it.
            "x-guidance" => return place.refuse("'x-guidance' is not allowed"),
            // Nobody's validator knows these.
            extension if extension.starts_with("x-") => return Ok(None),
            other => {
                let other: String = other.chars().take(64).collect();
                return place.refuse(format!("'{other}' cannot be enforced"));
            }
        };
        Ok(Some(rewritten))
    }

    fn properties(&mut self, keyword: &str, value: &'a Value, place: &Place) -> Result<Value, Unenforceable> {
        let Some(members) = value.as_object() else { return place.refuse("it must be an object") };
        let mut rewritten = Map::new();
        for (name, schema) in members {
            let here = place.below(name);
            let schema = self.schema(schema, &here)?;
            let name = match keyword {
                "patternProperties" => pattern::rewrite(name).or_else(|why| here.refuse(why))?,
                _ => name.clone(),
            };
            if rewritten.insert(name, schema).is_some() {
                return place.refuse("two patterns are the same");
            }
        }
        Ok(Value::Object(rewritten))
    }

    fn reference(&mut self, value: &Value, place: &Place) -> Result<Value, Unenforceable> {
        let pointer = match value.as_str().and_then(|reference| reference.strip_prefix('#')) {
            Some("") => return Ok("#".into()),
            Some(pointer) if pointer.starts_with('/') && !pointer.contains('%') => pointer,
            _ => return place.refuse("only references within the schema, '#/…', can be followed"),
        };
        self.refuse_circle(pointer, place)?;
        let next = self.names.len();
        let name = self.names.entry(pointer.to_owned()).or_insert_with(|| {
            let name = format!("d{next}");
            self.pending.push_back((pointer.to_owned(), name.clone()));
            name
        });
        Ok(format!("#/$defs/{name}").into())
    }

    /// References that lead to references, and at last back, describe nothing.
    fn refuse_circle(&self, pointer: &str, place: &Place) -> Result<(), Unenforceable> {
        let mut at = pointer;
        for _ in 0..MAX_DEPTH {
            let Some(next) = self.target(at)?.get("$ref").and_then(Value::as_str) else { return Ok(()) };
            at = next.strip_prefix('#').unwrap_or_default();
        }
        place.refuse("its references go round in a circle")
    }

    fn target(&self, pointer: &str) -> Result<&'a Value, Unenforceable> {
        let target = self.root.pointer(pointer);
        target.ok_or_else(|| Unenforceable(format!("'#{pointer}' refers to nothing within the schema")))
    }

    fn values(&mut self, keyword: &str, value: &Value, place: &Place) -> Result<Value, Unenforceable> {
        let values = match (keyword, value.as_array()) {
            ("const", _) => std::slice::from_ref(value),
            (_, Some(values)) if !values.is_empty() => values.as_slice(),
            _ => return place.refuse("it must be an array of values"),
        };
        values.iter().try_for_each(|value| self.value(value, place))?;
        Ok(value.clone())
    }

    fn value(&mut self, value: &Value, place: &Place) -> Result<(), Unenforceable> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(Unenforceable(format!("the schema has more than {MAX_NODES} parts")));
        }
        match value {
            Value::Number(_) => number(value, place).map(drop),
            Value::Array(items) => items.iter().try_for_each(|item| self.value(item, place)),
            Value::Object(members) => members.values().try_for_each(|item| self.value(item, place)),
            Value::Null | Value::Bool(_) | Value::String(_) => Ok(()),
        }
    }
}

fn known_draft(value: &Value, place: &Place) -> Result<(), Unenforceable> {
    let known = ["/2020-12/schema", "/2019-09/schema", "/draft-07/schema", "/draft-06/schema"];
    let name = value.as_str().unwrap_or_default().trim_end_matches('#');
    match known.iter().any(|known| name.starts_with("http") && name.ends_with(known)) {
        true => Ok(()),
        false => place.refuse("only the drafts 2020-12, 2019-09, 07 and 06 of JSON Schema are known"),
    }
}

fn type_names(value: &Value, place: &Place) -> Result<Value, Unenforceable> {
    const TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];
    let is_type = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
    let is_known = match value.as_array() {
        Some(names) => !names.is_empty() && names.iter().all(is_type),
        None => is_type(value),
    };
    match is_known {
        true => Ok(value.clone()),
        false => place.refuse("it must be the name of a JSON type, or several"),
    }
}

fn count(value: &Value, place: &Place) -> Result<u64, Unenforceable> {
    match value.as_u64() {
        Some(count) if count <= MAX_COUNT => Ok(count),
        _ => place.refuse(format!("it must be a whole number from 0 to {MAX_COUNT}")),
    }
}

fn number(value: &Value, place: &Place) -> Result<Value, Unenforceable> {
    let size = value.as_f64().map(f64::abs);
    match size {
        Some(size) if size == 0.0 || (MIN_NUMBER..=MAX_NUMBER).contains(&size) => Ok(value.clone()),
        Some(_) => place.refuse("numbers so large or so small cannot be enforced"),
        None => place.refuse("it must be a number"),
    }
}

/// A format becomes a pattern, beside the one that may be there.
fn add_format(rewritten: &mut Map<String, Value>, format: &Value, place: &Place) -> Result<(), Unenforceable> {
    let name = format.as_str().unwrap_or_default();
    let Some(pattern) = formats::pattern_of(name) else {
        return place.refuse(format!("the format '{}' cannot be enforced", name.chars().take(64).collect::<String>()));
    };
    match (rewritten.contains_key("pattern"), rewritten.get_mut("allOf")) {
        (false, _) => drop(rewritten.insert("pattern".into(), pattern.into())),
        (true, Some(Value::Array(all))) => all.push(json!({"pattern": pattern})),
        (true, _) => drop(rewritten.insert("allOf".into(), json!([{"pattern": pattern}]))),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
