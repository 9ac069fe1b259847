//! JSON objects written member by member, so that what is passed on keeps its own text: the order of a schema's members,
//! the digits of a number.

use serde::Serialize;

/// An object or an array in the making.
pub struct Writer {
    text: String,
    close: char,
}

impl Writer {
    /// An empty object.
    pub fn object() -> Self {
        Self { text: "{".into(), close: '}' }
    }

    /// An empty array.
    pub fn array() -> Self {
        Self { text: "[".into(), close: ']' }
    }

    /// Adds a member whose value is JSON already. It comes to stand on one line, whatever it was: SSE ends at line ends.
    pub fn raw(&mut self, name: &str, json: &str) -> &mut Self {
        self.separate();
        self.text.push_str(&json_of(name));
        self.text.push(':');
        self.push_line(json);
        self
    }

    /// Adds a member.
    pub fn put<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> &mut Self {
        self.raw(name, &json_of(value))
    }

    /// Adds an item that is JSON already.
    pub fn item(&mut self, json: &str) -> &mut Self {
        self.separate();
        self.push_line(json);
        self
    }

    /// A line end is white space here: none stands within a JSON string.
    fn push_line(&mut self, json: &str) {
        let mut lines = json.split(['\n', '\r']);
        self.text.push_str(lines.next().unwrap_or_default());
        for line in lines {
            self.text.push(' ');
            self.text.push_str(line);
        }
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.text.len() == 1
    }

    /// The text without what closes it, for whoever has more to add.
    pub fn open(self) -> String {
        self.text
    }

    /// The whole text.
    pub fn close(mut self) -> String {
        self.text.push(self.close);
        self.text
    }

    fn separate(&mut self) {
        if !self.is_empty() {
            self.text.push(',');
        }
    }
}

/// A value as JSON. Only for types whose serialization cannot fail: strings, numbers, and structs of them.
pub fn json_of<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("strings and numbers serialize")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_json_and_keeps_its_text() {
        let mut inner = Writer::array();
        inner.item("1.10").item("\"a\"");
        let mut object = Writer::object();
        object.put("na\"me", "vä\nlue").raw("list", &inner.close());
        assert_eq!(object.close(), "{\"na\\\"me\":\"vä\\nlue\",\"list\":[1.10,\"a\"]}");
        assert_eq!(Writer::object().raw("a", "{\r\n\"b\":\n1.0}").text, "{\"a\":{  \"b\": 1.0}");
        assert_eq!(Writer::object().close(), "{}");
        assert!(Writer::array().is_empty());
    }
}
