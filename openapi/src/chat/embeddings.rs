//! `POST /v1/embeddings`: texts as vectors.

use super::completions::{Prompt, parse_prompts};
use super::json::Members;
use super::{ChatRequest, Used, parse_labels, parse_model};
use crate::error::InvalidRequest;
use crate::parameter::Parameter;

/// The most inputs of one request, as at OpenAI.
pub const MAX_INPUTS: usize = 2048;

/// What `POST /v1/embeddings` asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddingWish<'a> {
    /// At least one; their vectors come in the same order.
    pub inputs: Vec<Prompt<'a>>,
    /// How many of a vector's numbers are wanted, from the first; all of them if absent.
    pub dimensions: Option<u32>,
    /// How a vector is written.
    pub encoding: Encoding,
}

/// How a vector is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// A JSON array of numbers.
    Float,
    /// Base64 of little-endian 32-bit floats, which OpenAI's Python SDK asks for.
    Base64,
}

impl<'a> ChatRequest<'a> {
    /// Reads a body of `POST /v1/embeddings`.
    pub fn parse_embedding(body: &'a [u8]) -> Result<Self, InvalidRequest> {
        let members = Members::parse(body)?;
        let mut used = Used::default();
        let mut request = Self::of_model(parse_model(&members)?);
        parse_labels(&members)?;
        request.parse_routing(&members)?;
        let inputs = parse_prompts(members.required("input")?, "input", MAX_INPUTS)?;
        let encoding = match members.get("encoding_format").map(|v| v.string("encoding_format")).transpose()?.as_deref()
        {
            None | Some("float") => Encoding::Float,
            Some("base64") => Encoding::Base64,
            Some(_) => {
                return Err(InvalidRequest::value("encoding_format", "'encoding_format' must be 'float' or 'base64'."));
            }
        };
        let dimensions = members.get("dimensions").map(|v| v.integer("dimensions", 1..=65_536)).transpose()?;
        used.when(Parameter::Dimensions, dimensions.is_some());
        used.when(Parameter::Input, true);
        request.embedding = Some(EmbeddingWish { inputs, dimensions: dimensions.map(|count| count as u32), encoding });
        request.parameters = used.0;
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &str) -> Result<(usize, Option<u32>, Encoding), Option<String>> {
        let body = format!(r#"{{"model":"m",{more}}}"#).into_bytes();
        let request = ChatRequest::parse_embedding(&body).map_err(|error| error.param)?;
        let wish = request.embedding.expect("a wish");
        Ok((wish.inputs.len(), wish.dimensions, wish.encoding))
    }

    #[test]
    fn inputs_encodings_and_dimensions_are_read() {
        assert_eq!(parse(r#""input":"a""#), Ok((1, None, Encoding::Float)));
        assert_eq!(parse(r#""input":["a","b"],"encoding_format":"base64""#), Ok((2, None, Encoding::Base64)));
        assert_eq!(parse(r#""input":[1,2,3],"dimensions":8.0"#), Ok((1, Some(8), Encoding::Float)));
        assert_eq!(parse(r#""input":[[1],[2,3]],"encoding_format":null"#), Ok((2, None, Encoding::Float)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let many = format!(r#""input":[{}]"#, vec!["\"a\""; MAX_INPUTS + 1].join(","));
        for (more, param) in [
            (r#""x":1"#, "input"),
            (r#""input":"""#, "input"),
            (r#""input":[]"#, "input"),
            (r#""input":["a",{}]"#, "input[1]"),
            (r#""input":[[1],[-1]]"#, "input[1][0]"),
            (r#""input":"a","encoding_format":"int8""#, "encoding_format"),
            (r#""input":"a","dimensions":0"#, "dimensions"),
            (&many, "input"),
            (r#""input":"a","provider":{"only":7}"#, "provider.only"),
            (r#""input":"a","models":"x""#, "models"),
        ] {
            assert_eq!(parse(more), Err(Some(param.to_owned())), "{more}");
        }
    }
}
