//! What a server's refusal means. Servers agree on the status more than on the body.

use http::StatusCode;
use lumbung_openapi::error::InvalidRequest;
use reqwest::Response;
use serde_json::Value;

use crate::engine::EngineError;

/// Of a body, so much is read.
const MAX_BODY: usize = 64 << 10;
/// Of a message, so many characters are passed on.
const MAX_MESSAGE: usize = 300;

/// Reads a refusal.
pub async fn read(mut response: Response) -> EngineError {
    let status = response.status();
    let mut body = Vec::new();
    while body.len() < MAX_BODY
        && let Ok(Some(part)) = response.chunk().await
    {
        body.extend_from_slice(&part);
    }
    meaning(status, &body)
}

fn meaning(status: StatusCode, body: &[u8]) -> EngineError {
    match status {
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
            invalid(body).into()
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => EngineError::Busy,
        // 401, 403 and 404 are this provider's own doing: a wrong key, a wrong model name.
        _ => EngineError::Failed(format!("the server answered {status}{}", kind_of(body))),
    }
}

fn invalid(body: &[u8]) -> InvalidRequest {
    let (message, param) = message_of(body);
    let lower = message.to_lowercase();
    let is_context = ["context length", "context size", "context window", "maximum context"];
    // Always one that a gateway knows: without, it would take the refusal for a failure of this provider.
    let code = match is_context.iter().any(|words| lower.contains(words)) {
        true => "context_length_exceeded",
        false => "invalid_value",
    };
    InvalidRequest { message, param, code: Some(code) }
}

/// The message, and the parameter at fault if named.
fn message_of(body: &[u8]) -> (String, Option<String>) {
    let text = String::from_utf8_lossy(body);
    let json: Value = serde_json::from_str(&text).unwrap_or_default();
    let error = match &json["error"] {
        Value::Object(_) => &json["error"],
        _ => &json,
    };
    let message = [&error["message"], &json["error"], &json["detail"], &json["detail"][0]["msg"]]
        .into_iter()
        .find_map(|value| value.as_str().filter(|text| !text.is_empty()));
    let message = match message {
        Some(message) => message,
        // A proxy's page helps nobody.
        None if text.trim().is_empty() || text.trim_start().starts_with(['<', '{', '[']) => "The request was refused.",
        None => text.trim(),
    };
    let param = error["param"].as_str().filter(|param| !param.is_empty()).map(|param| cut(param, 64));
    (cut(message, MAX_MESSAGE), param)
}

/// What kind of error it was, in words that quote no prompt: this goes to a log.
fn kind_of(body: &[u8]) -> String {
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = if json["error"].is_object() { &json["error"] } else { &json };
    let is_name = |text: &&str| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
    };
    let names = ["type", "code"].map(|member| error[member].as_str().filter(is_name));
    names.into_iter().flatten().map(|name| format!(", {name}")).collect()
}

fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, body: &str) -> EngineError {
        meaning(StatusCode::from_u16(status).unwrap(), body.as_bytes())
    }

    #[test]
    fn a_request_at_fault_is_told_to_the_client_whatever_the_body_looks_like() {
        let long = format!(r#"{{"error":{{"message":"{}"}}}}"#, "é".repeat(1000));
        let shortened = format!("{}…", "é".repeat(300));
        for (body, message, param) in [
            (r#"{"error":{"message":"bad top_p","type":"x","param":"top_p","code":400}}"#, "bad top_p", Some("top_p")),
            (r#"{"object":"error","message":"bad n","param":null,"code":400}"#, "bad n", None),
            (r#"{"error":"model is loading"}"#, "model is loading", None),
            (r#"{"detail":"not so"}"#, "not so", None),
            (r#"{"detail":[{"loc":["body","n"],"msg":"not an int"}]}"#, "not an int", None),
            ("plain words", "plain words", None),
            ("<html>nginx</html>", "The request was refused.", None),
            ("{}", "The request was refused.", None),
            ("", "The request was refused.", None),
            (&long, &shortened, None),
        ] {
            let EngineError::Invalid(invalid) = refused(400, body) else { panic!("{body}") };
            assert_eq!((invalid.message.as_str(), invalid.param.as_deref()), (message, param), "{body}");
            assert_eq!(invalid.code, Some("invalid_value"), "{body}");
        }
    }

    #[test]
    fn a_prompt_too_long_has_openais_code() {
        for message in
            ["This model's maximum context length is 8 tokens.", "the request exceeds the available context size"]
        {
            let EngineError::Invalid(invalid) = refused(400, &format!(r#"{{"error":{{"message":"{message}"}}}}"#))
            else {
                panic!("{message}")
            };
            assert_eq!(invalid.code, Some("context_length_exceeded"));
        }
    }

    #[test]
    fn what_is_not_the_clients_fault_is_not_told_as_such() {
        assert!(matches!(refused(429, ""), EngineError::Busy));
        assert!(matches!(refused(503, "loading"), EngineError::Busy));
        for status in [401, 403, 404, 500, 502] {
            let EngineError::Failed(why) = refused(status, r#"{"error":{"message":"why"}}"#) else {
                panic!("{status}")
            };
            assert!(!why.contains("why") && why.contains(&status.to_string()));
        }
    }

    #[test]
    fn what_a_server_says_of_its_failure_is_told_by_name_alone() {
        for (body, told) in [
            (
                r#"{"error":{"message":"cannot read 'a secret'","type":"server_error","code":"oom"}}"#,
                ", server_error, oom",
            ),
            (r#"{"type":"InternalServerError","message":"a secret","code":500}"#, ", InternalServerError"),
            (r#"{"error":{"type":"a secret was asked","code":null}}"#, ""),
            (r#"{"error":"a-secret"}"#, ""),
            ("a secret", ""),
        ] {
            let EngineError::Failed(why) = refused(500, body) else { panic!("{body}") };
            assert_eq!(why, format!("the server answered 500 Internal Server Error{told}"));
        }
    }
}
