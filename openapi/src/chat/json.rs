//! JSON read member by member, so that an error can name the member. Nothing here knows what a member means.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;

use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::InvalidRequest;
use crate::money::NanoUsd;

/// The members of a JSON object, in order; a name given twice is refused.
pub struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Reads a whole body, which must be one JSON object.
    pub fn parse(body: &'a [u8]) -> Result<Self, InvalidRequest> {
        let text = std::str::from_utf8(body).map_err(|_| malformed("it is not UTF-8"))?;
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let members = deserializer.deserialize_map(MembersVisitor).map_err(|error| match error.is_data() {
            true => malformed(&error.to_string()),
            false => malformed(&format!("it is not valid JSON at line {} column {}", error.line(), error.column())),
        })?;
        deserializer.end().map_err(|_| malformed("something follows the JSON object"))?;
        Ok(members)
    }

    /// A member that is there and not null.
    pub fn get(&self, name: &str) -> Option<Value<'a>> {
        let (_, raw) = self.0.iter().find(|(n, _)| n == name)?;
        (raw.get() != "null").then_some(Value(raw))
    }

    /// Whether a member is there, if only as null.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(n, _)| n == name)
    }

    /// A member that must be there.
    pub fn required(&self, name: &str) -> Result<Value<'a>, InvalidRequest> {
        self.get(name).ok_or_else(|| InvalidRequest::missing(name))
    }

    /// The same, of the object at `path`.
    pub fn required_at(&self, path: impl fmt::Display, name: &str) -> Result<Value<'a>, InvalidRequest> {
        self.get(name).ok_or_else(|| InvalidRequest::missing(format!("{path}.{name}")))
    }

    /// All members.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Value<'a>)> {
        self.0.iter().map(|(name, raw)| (&**name, Value(raw)))
    }
}

struct MembersVisitor;

impl<'a> Visitor<'a> for MembersVisitor {
    type Value = Members<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Members<'a>, A::Error> {
        let mut members: Vec<(Cow<'a, str>, &'a RawValue)> = Vec::with_capacity(8);
        while let Some(CowStr(name)) = map.next_key()? {
            // Sixty-four members of OpenAI's or anyone's: beyond that the search below would be a way to burn time.
            if members.len() >= 4096 {
                return Err(serde::de::Error::custom("too many members"));
            }
            if members.len() < 64 && members.iter().any(|(n, _)| *n == name) {
                return Err(serde::de::Error::custom("a member is given twice"));
            }
            members.push((name, map.next_value()?));
        }
        if members.len() > 64 {
            let mut names: Vec<&str> = members.iter().map(|(name, _)| &**name).collect();
            names.sort_unstable();
            if names.windows(2).any(|pair| pair[0] == pair[1]) {
                return Err(serde::de::Error::custom("a member is given twice"));
            }
        }
        Ok(Members(members))
    }
}

/// `Cow<str>` that borrows where it can; serde's own always copies.
#[derive(serde::Deserialize)]
struct CowStr<'a>(#[serde(borrow)] Cow<'a, str>);

/// One JSON value, not read yet.
#[derive(Clone, Copy)]
pub struct Value<'a>(&'a RawValue);

impl<'a> Value<'a> {
    /// From its text.
    pub fn new(raw: &'a RawValue) -> Self {
        Self(raw)
    }

    /// Its text.
    pub fn raw(self) -> &'a RawValue {
        self.0
    }

    /// The same, to be written elsewhere.
    pub fn json(self) -> &'a str {
        self.0.get()
    }

    /// Whether it is a JSON string.
    pub fn is_string(self) -> bool {
        self.0.get().starts_with('"')
    }

    /// Whether it is a JSON number, however large.
    pub fn is_number(self) -> bool {
        self.0.get().starts_with(|c: char| c == '-' || c.is_ascii_digit())
    }

    /// A string, borrowed where it has no escapes. The parameter's name is put together only where an error tells it.
    pub fn string(self, param: impl fmt::Display) -> Result<Cow<'a, str>, InvalidRequest> {
        serde_json::from_str::<CowStr<'a>>(self.0.get())
            .map(|s| s.0)
            .map_err(|_| InvalidRequest::wrong_type(param.to_string(), "a string"))
    }

    /// `true` or `false`.
    pub fn boolean(self, param: &str) -> Result<bool, InvalidRequest> {
        serde_json::from_str(self.0.get()).map_err(|_| InvalidRequest::wrong_type(param, "a boolean"))
    }

    /// A whole number within a range. `92.0` is one, as JSON Schema has it.
    pub fn integer(self, param: &str, range: RangeInclusive<i64>) -> Result<i64, InvalidRequest> {
        let text = self.0.get();
        let number = text.parse::<i64>().ok().or_else(|| {
            let number = serde_json::from_str::<f64>(text).ok()?;
            // 2^53: beyond it a float no longer tells neighbouring integers apart.
            (number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0).then_some(number as i64)
        });
        match number {
            Some(number) if range.contains(&number) => Ok(number),
            None if !self.is_number() => Err(InvalidRequest::wrong_type(param, "an integer")),
            _ => Err(InvalidRequest::value(
                param,
                format!("'{param}' must be an integer from {} to {}.", range.start(), range.end()),
            )),
        }
    }

    /// A finite number within a range.
    pub fn number(self, param: &str, range: RangeInclusive<f64>) -> Result<f64, InvalidRequest> {
        match serde_json::from_str::<f64>(self.0.get()) {
            Ok(number) if range.contains(&number) => Ok(number),
            Err(_) if !self.is_number() => Err(InvalidRequest::wrong_type(param, "a number")),
            _ => Err(InvalidRequest::value(
                param,
                format!("'{param}' must be a number from {} to {}.", range.start(), range.end()),
            )),
        }
    }

    /// Dollars, zero or more, as a number or as a string; exact, what is finer than a nano-dollar rounded down.
    pub fn dollars(self, param: &str) -> Result<NanoUsd, InvalidRequest> {
        let text = match self.is_string() {
            true => self.string(param)?,
            false if self.is_number() => Cow::Borrowed(self.0.get()),
            false => {
                return Err(InvalidRequest::wrong_type(param, "an amount of dollars: a number, or a string with one"));
            }
        };
        match NanoUsd::from_json_number(&text) {
            Ok(amount) if amount >= NanoUsd::ZERO => Ok(amount),
            _ => Err(InvalidRequest::value(param, format!("'{param}' must be an amount of dollars, zero or more."))),
        }
    }

    /// The items of an array, not read yet.
    pub fn array(self, param: impl fmt::Display) -> Result<Vec<&'a RawValue>, InvalidRequest> {
        serde_json::from_str(self.0.get()).map_err(|_| InvalidRequest::wrong_type(param.to_string(), "an array"))
    }

    /// The members of an object, not read yet.
    pub fn object(self, param: impl fmt::Display) -> Result<Members<'a>, InvalidRequest> {
        serde_json::Deserializer::from_str(self.0.get())
            .deserialize_map(MembersVisitor)
            .map_err(|_| InvalidRequest::wrong_type(param.to_string(), "an object without repeated members"))
    }
}

fn malformed(why: &str) -> InvalidRequest {
    InvalidRequest {
        message: format!("We could not parse the JSON body of your request: {why}."),
        param: None,
        code: None,
    }
}
