//! Responses that are kept: what a request asks of whoever keeps them, and the items that a conversation consists of.
//!
//! The gateway puts the earlier turns before the request's own input and says outright whether the response is kept;
//! body and ticket then travel as ever, so that a provider need not know who keeps what.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::request::not_offered;
use crate::chat::json::{Members, Value};
use crate::error::InvalidRequest;
use crate::writer::{Writer, json_of};

/// What a request says about keeping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storing {
    /// Whether its response is to be kept; nothing where it does not say.
    pub store: Option<bool>,
    /// The response that it goes on from.
    pub previous: Option<String>,
}

impl Storing {
    /// Reads a body's members. Fails where they are of another type, and names them.
    pub(super) fn of(members: &Members<'_>) -> Result<Self, InvalidRequest> {
        let store = members.get("store").map(|value| value.boolean("store")).transpose()?;
        let name = "previous_response_id";
        let previous = members.get(name).map(|value| value.string(name)).transpose()?;
        Ok(Self { store, previous: previous.map(|id| id.into_owned()) })
    }

    /// Reads a body.
    pub fn read(body: &[u8]) -> Result<Self, InvalidRequest> {
        Self::of(&Members::parse(body)?)
    }

    /// Why nobody who keeps no responses can serve this, if so.
    pub fn refusal(&self) -> Option<InvalidRequest> {
        match self {
            Self { previous: Some(_), .. } => Some(not_offered("previous_response_id")),
            Self { store: Some(true), .. } => Some(not_offered("store")),
            _ => None,
        }
    }
}

/// A request's own input as items, a JSON array: a text is a message, and each has an id, which ends in `suffix` and its number
/// where the client has given none.
pub fn input_items(body: &[u8], suffix: &str) -> Result<String, InvalidRequest> {
    let members = Members::parse(body)?;
    let input = members.required("input")?;
    let mut items = Writer::array();
    if input.is_string() {
        let content = content_part(input.json(), "user");
        let mut item = Writer::object();
        item.put("id", &format!("msg_{suffix}i0")).put("type", "message").put("status", "completed");
        item.put("role", "user").raw("content", &content);
        items.item(&item.close());
        return Ok(items.close());
    }
    for (at, raw) in input.array("input")?.into_iter().enumerate() {
        let path = format!("input[{at}]");
        items.item(&input_item(&Value::new(raw).object(&path)?, &path, &format!("{suffix}i{at}"))?);
    }
    Ok(items.close())
}

fn input_item(item: &Members<'_>, path: &str, suffix: &str) -> Result<String, InvalidRequest> {
    let text = |name: &str| item.get(name).map(|value| value.string(format_args!("{path}.{name}"))).transpose();
    let kind = text("type")?.unwrap_or("message".into());
    let prefix = match &*kind {
        "function_call" => "fc",
        "function_call_output" => "fco",
        "reasoning" => "rs",
        _ => "msg",
    };
    let id = item.get("id").map_or_else(|| json_of(&format!("{prefix}_{suffix}")), |id| id.json().to_owned());
    let mut written = Writer::object();
    written.raw("id", &id).put("type", &kind);
    if item.get("status").is_none() {
        written.put("status", "completed");
    }
    for (name, value) in item.iter() {
        match name {
            "id" | "type" => {}
            "status" if item.get(name).is_none() => {} // null: said above
            "content" if value.is_string() => {
                let role = text("role")?.unwrap_or_default();
                written.raw(name, &content_part(value.json(), &role));
            }
            _ => drop(written.raw(name, value.json())),
        }
    }
    Ok(written.close())
}

/// A text, JSON already, as a message's only part.
fn content_part(text: &str, role: &str) -> String {
    let mut part = Writer::object();
    match role {
        "assistant" => {
            part.put("type", "output_text").raw("text", text).raw("annotations", "[]").raw("logprobs", "[]");
        }
        _ => {
            part.put("type", "input_text").raw("text", text);
        }
    }
    format!("[{}]", part.close())
}

/// The body with all turns, `items` in order, as its input, and with its wish about keeping said outright.
pub fn expand(body: &[u8], turns: &[&str], store: bool) -> Result<Vec<u8>, InvalidRequest> {
    let members = Members::parse(body)?;
    let mut expanded = Writer::object();
    for (name, value) in members.iter().filter(|(name, _)| !["input", "store"].contains(name)) {
        expanded.raw(name, value.json());
    }
    let mut input = Writer::array();
    for items in turns {
        let inner = items.strip_prefix('[').and_then(|items| items.strip_suffix(']')).map(str::trim);
        if let Some(inner) = inner.filter(|inner| !inner.is_empty()) {
            input.item(inner);
        }
    }
    expanded.put("store", &store).raw("input", &input.close());
    Ok(expanded.close().into_bytes())
}

/// A response object in the parts that are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptParts {
    /// The object without its output.
    pub response: String,
    /// Its output, a JSON array.
    pub output: String,
}

impl KeptParts {
    /// The whole object again.
    pub fn put_together(&self) -> String {
        let open = self.response.strip_suffix('}').unwrap_or(&self.response);
        format!("{open},\"output\":{}}}", self.output)
    }
}

/// Takes an answer's last bytes apart: a response object, or a stream's last event with one in it, and `[DONE]`. `None` where
/// there is no such object.
pub fn take_apart(end: &[u8]) -> Option<KeptParts> {
    #[derive(Deserialize)]
    struct Event<'a> {
        #[serde(borrow)]
        response: &'a RawValue,
    }
    let text = std::str::from_utf8(end).ok()?;
    let object = match text.starts_with('{') {
        true => text,
        false => {
            let data = text.lines().find_map(|line| line.strip_prefix("data: "))?;
            serde_json::from_str::<Event<'_>>(data).ok()?.response.get()
        }
    };
    let members = Members::parse(object.as_bytes()).ok()?;
    let mut response = Writer::object();
    for (name, value) in members.iter().filter(|(name, _)| *name != "output") {
        response.raw(name, value.json());
    }
    Some(KeptParts { response: response.close(), output: members.get("output")?.json().to_owned() })
}

/// The items of JSON arrays, in order, each with its id.
pub fn items_of(turns: &[&str]) -> Result<Vec<(String, Box<RawValue>)>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Named {
        id: String,
    }
    let mut items = Vec::new();
    for turn in turns {
        for item in serde_json::from_str::<Vec<Box<RawValue>>>(turn)? {
            items.push((serde_json::from_str::<Named>(item.get())?.id, item));
        }
    }
    Ok(items)
}

/// `GET /v1/responses/{id}/input_items`: a page of what a response answers, the earlier turns included.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct InputItems {
    /// Always `list`.
    pub object: &'static str,
    /// Items: messages, `function_call`, `function_call_output`, `reasoning`.
    #[schema(value_type = Vec<Object>)]
    pub data: Vec<Box<RawValue>>,
    /// The first item's id.
    pub first_id: Option<String>,
    /// The last one's, for `after`.
    pub last_id: Option<String>,
    /// Whether there are more.
    pub has_more: bool,
}

/// A response that is kept no longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct ResponseDeleted {
    /// Which.
    pub id: String,
    /// Always `response`.
    pub object: &'static str,
    /// Always true.
    pub deleted: bool,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(text: &str) -> Value {
        serde_json::from_str(text).expect("JSON")
    }

    #[test]
    fn without_anyone_who_keeps_responses_wishes_are_refused_by_name() {
        for (more, param) in [
            (json!({}), None),
            (json!({"store": false, "previous_response_id": null}), None),
            (json!({"store": true}), Some("store")),
            (json!({"previous_response_id": "resp_1", "store": false}), Some("previous_response_id")),
        ] {
            let storing = Storing::read(more.to_string().as_bytes()).expect("a wish");
            assert_eq!(storing.refusal().and_then(|refusal| refusal.param).as_deref(), param, "{more}");
        }
        assert!(Storing::read(br#"{"store": 1}"#).is_err());
    }

    #[test]
    fn input_becomes_items_with_ids() {
        assert_eq!(
            read(&input_items(br#"{"input": "hi \u00e9"}"#, "x").expect("items")),
            json!([{"id": "msg_xi0", "type": "message", "status": "completed", "role": "user",
                    "content": [{"type": "input_text", "text": "hi é"}]}])
        );
        let body = json!({"input": [
            {"role": "assistant", "content": "so"},
            {"type": "function_call", "id": "fc_own", "status": null, "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "1"},
        ]});
        let items = read(&input_items(body.to_string().as_bytes(), "x").expect("items"));
        assert_eq!(items[0]["content"][0]["type"], "output_text");
        let ids = [&items[0]["id"], &items[1]["id"], &items[2]["id"]];
        assert_eq!(ids, ["msg_xi0", "fc_own", "fco_xi2"]);
        assert_eq!((&items[1]["status"], &items[2]["output"]), (&json!("completed"), &json!("1")));
    }

    #[test]
    fn earlier_turns_come_before_the_input() {
        let body = br#"{"model":"m","store":null,"input":"b","temperature":0.50,"previous_response_id":"resp_1"}"#;
        let expanded = expand(body, &["[1]", "[]", "[ 2, 3 ]"], true).expect("a body");
        assert_eq!(
            String::from_utf8(expanded).expect("text"),
            r#"{"model":"m","temperature":0.50,"previous_response_id":"resp_1","store":true,"input":[1,2, 3]}"#
        );
    }

    #[test]
    fn an_answer_is_taken_apart_and_put_together() {
        let object = r#"{"id":"r","output":[{"id":"m"}],"usage":null}"#;
        let stream = format!(
            "event: response.completed\ndata: {{\"type\":\"response.completed\",\"sequence_number\":4,\"response\":{object}}}\n\ndata: [DONE]\n\n"
        );
        let kept = take_apart(stream.as_bytes()).expect("a response");
        assert_eq!(Some(&kept), take_apart(object.as_bytes()).as_ref());
        assert_eq!((kept.response.as_str(), kept.output.as_str()), (r#"{"id":"r","usage":null}"#, r#"[{"id":"m"}]"#));
        assert_eq!(read(&kept.put_together()), read(object));
        assert_eq!(take_apart(b"data: [DONE]\n\n"), None);
        let items = items_of(&["[]", &kept.output]).expect("items");
        assert_eq!(items[0].0, "m");
        assert!(items_of(&["[{}]"]).is_err());
    }
}
