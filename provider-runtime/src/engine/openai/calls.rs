//! Tool calls as servers stream them, put in order: some leave out ids or indexes, or send a call in one piece.

use super::chunk::UpstreamCall;
use crate::engine::calls::CallIds;
use crate::engine::{CallDelta, CallHead};

/// More calls than any answer has.
const MAX_CALLS: usize = 1024;

/// The calls of one choice.
pub struct UpstreamCalls {
    ids: CallIds,
    /// Index and id of each as the server has them.
    begun: Vec<(Option<u32>, Option<String>)>,
}

impl UpstreamCalls {
    /// For one choice.
    pub fn new(ids: CallIds) -> Self {
        Self { ids, begun: Vec::new() }
    }

    /// Whether any has begun.
    pub fn has_any(&self) -> bool {
        !self.begun.is_empty()
    }

    /// Takes a part of a call; `None` if it says nothing.
    pub fn take(&mut self, part: UpstreamCall) -> Option<CallDelta> {
        let function = part.function.unwrap_or_default();
        let arguments = function.arguments_text();
        let id = part.id.filter(|id| !id.is_empty());
        let name = function.name.filter(|name| !name.is_empty());
        let known = self.begun.iter().rposition(|(index, known)| match (part.index, &id) {
            // Some give every call the same index, and an id of its own.
            (Some(at), id) => *index == Some(at) && (id.is_none() || known == id),
            (None, Some(_)) => *known == id,
            // With neither, what has a name begins a call.
            (None, None) => name.is_none(),
        });
        if let Some(at) = known {
            let delta = CallDelta { call: at as u32, head: None, arguments };
            return (!delta.arguments.is_empty()).then_some(delta);
        }
        let name = name.filter(|_| self.begun.len() < MAX_CALLS)?;
        let call = self.begun.len() as u32;
        self.begun.push((part.index, id.clone()));
        let id = id.unwrap_or_else(|| self.ids.of(call));
        Some(CallDelta { call, head: Some(CallHead { id, name }), arguments })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Call, id and name, and arguments of a delta.
    type Read = (u32, Option<(String, String)>, String);

    /// What parts come to.
    fn read(parts: Value) -> Vec<Read> {
        let mut calls = UpstreamCalls::new(CallIds { job: "j".into(), choice: 0, short: false });
        let parts: Vec<UpstreamCall> = serde_json::from_value(parts).unwrap();
        let deltas = parts.into_iter().filter_map(|part| calls.take(part));
        deltas.map(|delta| (delta.call, delta.head.map(|head| (head.id, head.name)), delta.arguments)).collect()
    }

    fn head(id: &str, name: &str) -> Option<(String, String)> {
        Some((id.to_owned(), name.to_owned()))
    }

    #[test]
    fn calls_are_told_apart_whatever_a_server_leaves_out() {
        let usual = json!([
            {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}},
            {"index": 0, "function": {"arguments": "{\"x\":"}},
            {"index": 0, "function": {"arguments": "1}"}},
            {"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}},
        ]);
        let expected = vec![
            (0, head("a", "f"), String::new()),
            (0, None, "{\"x\":".into()),
            (0, None, "1}".into()),
            (1, head("b", "g"), "{}".into()),
        ];
        assert_eq!(read(usual), expected);

        let made = |call| CallIds { job: "j".into(), choice: 0, short: false }.of(call);
        let bare = json!([
            {"function": {"name": "f", "arguments": {"x": 1}}},
            {"function": {"name": "g"}},
            {"function": {"arguments": "{}"}},
        ]);
        let expected = vec![
            (0, head(&made(0), "f"), "{\"x\":1}".into()),
            (1, head(&made(1), "g"), String::new()),
            (1, None, "{}".into()),
        ];
        assert_eq!(read(bare), expected);

        let same_index = json!([
            {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}},
            {"index": 0, "id": "b", "function": {"name": "f", "arguments": "{}"}},
        ]);
        assert_eq!(read(same_index), vec![(0, head("a", "f"), "{}".into()), (1, head("b", "f"), "{}".into())]);

        let repeated_name = json!([
            {"index": 0, "id": "a", "function": {"name": "f", "arguments": "{"}},
            {"index": 0, "id": "a", "function": {"name": "f", "arguments": "}"}},
            {"index": 0}, {"index": 7, "function": {"arguments": "lost"}}, {},
        ]);
        assert_eq!(read(repeated_name), vec![(0, head("a", "f"), "{".into()), (0, None, "}".into())]);
    }
}
