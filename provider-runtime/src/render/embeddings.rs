//! `POST /v1/embeddings`: a list of vectors.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::BytesMut;
use lumbung_openapi::chat::Encoding;
use lumbung_openapi::ticket::Ticket;
use lumbung_openapi::writer::{Writer, json_of};

use super::Dialect;
use crate::engine::{FinishReason, Tokens};

/// An answer, input by input.
pub struct Vectors {
    model: String,
    encoding: Encoding,
    /// Each as it will be written.
    written: Vec<String>,
    kept: usize,
}

impl Vectors {
    /// For one answer.
    pub fn new(ticket: &Ticket, encoding: Encoding) -> Self {
        Self { model: ticket.public_model.clone(), encoding, written: Vec::new(), kept: 0 }
    }

    fn write(&self, vector: &[f32]) -> String {
        match self.encoding {
            Encoding::Float => json_of(vector),
            Encoding::Base64 => {
                let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
                json_of(&BASE64_STANDARD.encode(bytes))
            }
        }
    }
}

impl Dialect for Vectors {
    fn tokens(&mut self, _: &mut BytesMut, _: Tokens) {}

    fn vector(&mut self, vector: &[f32]) {
        let mut item = Writer::object();
        item.put("object", "embedding").put("index", &self.written.len()).raw("embedding", &self.write(vector));
        let item = item.close();
        self.kept += item.len();
        self.written.push(item);
    }

    fn finish(&mut self, _: &mut BytesMut, _: u8, _: FinishReason) {}

    fn kept(&self) -> usize {
        self.kept
    }

    fn last(&self) -> Option<BytesMut> {
        let mut data = Writer::array();
        for item in &self.written {
            data.item(item);
        }
        let mut list = Writer::object();
        list.put("object", "list").raw("data", &data.close()).put("model", &self.model);
        Some(BytesMut::from(list.open().as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::render::tests::ticket;

    fn body(encoding: Encoding) -> Value {
        let mut vectors = Vectors::new(&ticket(), encoding);
        vectors.vector(&[1.0, -0.5]);
        vectors.vector(&[0.1]);
        serde_json::from_slice(&[&vectors.last().unwrap()[..], b"}"].concat()).unwrap()
    }

    #[test]
    fn vectors_are_numbers_or_little_endian_floats() {
        let floats = body(Encoding::Float);
        assert_eq!(floats["data"][0], json!({"object": "embedding", "index": 0, "embedding": [1.0, -0.5]}));
        assert_eq!(floats["data"][1], json!({"object": "embedding", "index": 1, "embedding": [0.1]}));
        assert_eq!((&floats["object"], &floats["model"]), (&json!("list"), &json!("org/modèle")));
        assert_eq!(body(Encoding::Base64)["data"][0]["embedding"], "AACAPwAAAL8=");
    }
}
