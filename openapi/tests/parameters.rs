//! `PARAMETERS.md`: what becomes of each parameter of each endpoint, found out by asking the code that reads requests.
//! `make spec` writes it.

use bytes::Bytes;
use lumbung_openapi::endpoint::Endpoint;
use lumbung_openapi::parameter::Parameter;
use lumbung_openapi::responses::Storing;
use serde_json::{Value, json};

const CHECKED_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/PARAMETERS.md");

/// What becomes of a parameter that is neither refused nor a matter of what a model's engine can do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The gateway or every engine honours it.
    Honoured,
    /// It is checked, and changes nothing about the answer.
    Label,
    /// It goes to the provider as it came.
    PassedOn,
    /// It needs a gateway that keeps responses.
    Kept,
}
use Fate::{Honoured, Kept, Label, PassedOn};

/// The specification's parameters of one endpoint, each with a value that asks for something.
fn parameters(endpoint: Endpoint) -> Vec<(&'static str, Value, Fate)> {
    let tool = json!([{"type": "function", "function": {"name": "f"}}]);
    let own_tool = json!([{"type": "function", "name": "f"}]);
    let claude_tool = json!([{"name": "f", "input_schema": {"type": "object"}}]);
    let schema = json!({"type": "object"});
    match endpoint {
        Endpoint::Chat => vec![
            ("model", json!("m"), Honoured),
            ("messages", json!([{"role": "user", "content": "x"}]), Honoured),
            (
                "messages[].content: image_url",
                json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://u"}}]}]),
                Honoured,
            ),
            (
                "messages[].content: input_audio",
                json!([{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "d", "format": "wav"}}]}]),
                Honoured,
            ),
            (
                "messages[].content: file",
                json!([{"role": "user", "content": [{"type": "file", "file": {"file_data": "d"}}]}]),
                Honoured,
            ),
            ("stream", json!(true), Honoured),
            ("stream_options", json!({"include_usage": true}), Honoured),
            ("max_tokens", json!(5), Honoured),
            ("max_completion_tokens", json!(5), Honoured),
            ("n", json!(2), Honoured),
            ("temperature", json!(0.5), Honoured),
            ("top_p", json!(0.5), Honoured),
            ("seed", json!(7), Honoured),
            ("stop", json!(["x"]), Honoured),
            ("frequency_penalty", json!(0.5), Honoured),
            ("presence_penalty", json!(0.5), Honoured),
            ("logit_bias", json!({"5": 1}), Honoured),
            ("logprobs", json!(true), Honoured),
            ("top_logprobs", json!(2), Honoured),
            ("tools", tool, Honoured),
            ("tool_choice", json!("required"), Honoured),
            ("parallel_tool_calls", json!(false), Honoured),
            ("functions", json!([{"name": "f"}]), Honoured),
            ("function_call", json!({"name": "f"}), Honoured),
            ("response_format", json!({"type": "json_object"}), Honoured),
            ("reasoning_effort", json!("low"), Honoured),
            ("verbosity", json!("low"), Honoured),
            ("modalities", json!(["text", "audio"]), Honoured),
            ("audio", json!({"voice": "v", "format": "wav"}), Honoured),
            ("prediction", json!({"type": "content", "content": "x"}), Honoured),
            ("store", json!(true), Honoured),
            ("web_search_options", json!({}), Honoured),
            ("user", json!("u"), Label),
            ("metadata", json!({"k": "v"}), Label),
            ("service_tier", json!("auto"), Label),
            ("safety_identifier", json!("s"), Label),
            ("prompt_cache_key", json!("k"), Label),
            ("prompt_cache_retention", json!("24h"), Label),
            ("provider", json!({"max_price": {"prompt": 1}}), Honoured),
            ("top_k", json!(5), PassedOn),
            ("min_p", json!(0.1), PassedOn),
            ("repetition_penalty", json!(1.1), PassedOn),
        ],
        Endpoint::Completions => vec![
            ("model", json!("m"), Honoured),
            ("prompt", json!("x"), Honoured),
            ("stream", json!(true), Honoured),
            ("stream_options", json!({"include_usage": true}), Honoured),
            ("max_tokens", json!(5), Honoured),
            ("n", json!(2), Honoured),
            ("best_of", json!(3), Honoured),
            ("echo", json!(true), Honoured),
            ("suffix", json!("x"), Honoured),
            ("logprobs", json!(2), Honoured),
            ("temperature", json!(0.5), Honoured),
            ("top_p", json!(0.5), Honoured),
            ("seed", json!(7), Honoured),
            ("stop", json!(["x"]), Honoured),
            ("frequency_penalty", json!(0.5), Honoured),
            ("presence_penalty", json!(0.5), Honoured),
            ("logit_bias", json!({"5": 1}), Honoured),
            ("user", json!("u"), Label),
            ("provider", json!({"max_price": {"prompt": 1}}), Honoured),
            ("top_k", json!(5), PassedOn),
        ],
        Endpoint::Responses => vec![
            ("model", json!("m"), Honoured),
            ("input", json!("x"), Honoured),
            (
                "input[].content: input_image",
                json!([{"role": "user", "content": [{"type": "input_image", "image_url": "https://u"}]}]),
                Honoured,
            ),
            (
                "input[].content: input_file",
                json!([{"role": "user", "content": [{"type": "input_file", "file_data": "d"}]}]),
                Honoured,
            ),
            ("input[]: item_reference", json!([{"type": "item_reference", "id": "i"}]), Honoured),
            ("instructions", json!("x"), Honoured),
            ("stream", json!(true), Honoured),
            ("stream_options", json!({"include_obfuscation": true}), Label),
            ("max_output_tokens", json!(5), Honoured),
            ("max_tool_calls", json!(5), Honoured),
            ("temperature", json!(0.5), Honoured),
            ("top_p", json!(0.5), Honoured),
            ("tools", own_tool, Honoured),
            ("tools: web_search and others", json!([{"type": "web_search"}]), Honoured),
            ("tool_choice", json!("required"), Honoured),
            ("parallel_tool_calls", json!(false), Honoured),
            ("text", json!({"format": {"type": "json_schema", "name": "n", "schema": schema}}), Honoured),
            ("text.verbosity", json!({"verbosity": "low"}), Honoured),
            ("reasoning.effort", json!({"effort": "low"}), Honoured),
            ("reasoning.summary: auto", json!({"summary": "auto"}), Label),
            ("reasoning.summary: detailed", json!({"summary": "detailed"}), Honoured),
            ("include: message.output_text.logprobs", json!(["message.output_text.logprobs"]), Honoured),
            ("include: reasoning.encrypted_content", json!(["reasoning.encrypted_content"]), Label),
            ("include: others", json!(["file_search_call.results"]), Honoured),
            ("top_logprobs", json!(2), Honoured),
            ("truncation: auto", json!("auto"), Honoured),
            ("store: true", json!(true), Kept),
            ("previous_response_id", json!("resp_1"), Kept),
            ("conversation", json!("c"), Honoured),
            ("background: true", json!(true), Honoured),
            ("prompt", json!({"id": "p"}), Honoured),
            ("user", json!("u"), Label),
            ("metadata", json!({"k": "v"}), Label),
            ("service_tier", json!("auto"), Label),
            ("safety_identifier", json!("s"), Label),
            ("prompt_cache_key", json!("k"), Label),
            ("provider", json!({"max_price": {"prompt": 1}}), Honoured),
            ("top_k", json!(5), PassedOn),
        ],
        Endpoint::Messages => vec![
            ("model", json!("m"), Honoured),
            ("messages", json!([{"role": "user", "content": "x"}]), Honoured),
            (
                "messages[].content: image",
                json!([{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "https://u"}}]}]),
                Honoured,
            ),
            ("messages[].content: document", json!([{"role": "user", "content": [{"type": "document"}]}]), Honoured),
            ("max_tokens", json!(5), Honoured),
            ("system", json!("x"), Honoured),
            ("stream", json!(true), Honoured),
            ("stop_sequences", json!(["x"]), Honoured),
            ("temperature", json!(0.5), Honoured),
            ("top_p", json!(0.5), Honoured),
            ("top_k", json!(5), Honoured),
            ("tools", claude_tool, Honoured),
            ("tools: bash and others", json!([{"type": "bash_20250124", "name": "bash"}]), Honoured),
            ("tool_choice", json!({"type": "any"}), Honoured),
            (
                "tool_choice.disable_parallel_tool_use",
                json!({"type": "auto", "disable_parallel_tool_use": true}),
                Honoured,
            ),
            ("thinking", json!({"type": "enabled", "budget_tokens": 2000}), Honoured),
            ("output_config.format", json!({"format": {"type": "json_schema", "schema": schema}}), Honoured),
            ("output_config.effort", json!({"effort": "low"}), Honoured),
            ("metadata", json!({"user_id": "u"}), Label),
            ("service_tier", json!("auto"), Label),
            ("container", json!("c"), Honoured),
            ("mcp_servers", json!([{}]), Honoured),
            ("context_management", json!({}), Honoured),
            ("provider", json!({"max_price": {"prompt": 1}}), Honoured),
        ],
        Endpoint::Embeddings => vec![
            ("model", json!("m"), Honoured),
            ("input", json!("x"), Honoured),
            ("encoding_format", json!("base64"), Honoured),
            ("dimensions", json!(5), Honoured),
            ("user", json!("u"), Label),
        ],
    }
}

/// A request that asks for as little as can be, and for the parameter.
fn request(endpoint: Endpoint, name: &str, value: &Value) -> Value {
    let mut body = match endpoint {
        Endpoint::Chat => json!({"model": "m", "messages": [{"role": "user", "content": "x"}]}),
        Endpoint::Completions => json!({"model": "m", "prompt": "x"}),
        Endpoint::Responses | Endpoint::Embeddings => json!({"model": "m", "input": "x"}),
        Endpoint::Messages => json!({"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}),
    };
    // What a parameter makes no sense without.
    let beside = match (endpoint, member(name)) {
        (Endpoint::Chat, "stream_options") | (Endpoint::Completions, "stream_options") => json!({"stream": true}),
        (Endpoint::Chat, "top_logprobs") => json!({"logprobs": true}),
        (Endpoint::Responses, "top_logprobs") => json!({"include": ["message.output_text.logprobs"]}),
        (Endpoint::Chat, "tool_choice" | "parallel_tool_calls") => {
            json!({"tools": [{"type": "function", "function": {"name": "f"}}]})
        }
        (Endpoint::Responses, "tool_choice" | "parallel_tool_calls") => {
            json!({"tools": [{"type": "function", "name": "f"}]})
        }
        (Endpoint::Messages, "tool_choice") => json!({"tools": [{"name": "f", "input_schema": {"type": "object"}}]}),
        _ => json!({}),
    };
    let members = body.as_object_mut().expect("an object");
    members.extend(beside.as_object().expect("an object").clone());
    members.insert(member(name).to_owned(), value.clone());
    body
}

/// The member of the body: what comes after it in a name says which of its values is meant.
fn member(name: &str) -> &str {
    name.split(['.', ':', '[']).next().unwrap_or(name)
}

/// What becomes of it, in words.
fn fate(endpoint: Endpoint, name: &str, value: &Value, otherwise: Fate) -> String {
    let read = |body: Value| {
        let normalized = endpoint.normalize(&Bytes::from(body.to_string()))?;
        endpoint.parse(&normalized).map(|request| request.parameters)
    };
    let used = match read(request(endpoint, name, value)) {
        Ok(used) => used,
        Err(error) => {
            let param = error.param.unwrap_or_default();
            assert!(param.starts_with(member(name)), "{endpoint:?} {name}: the error names {param}");
            return format!("refused: 400 `{}`, `param` is `{param}`", error.code.unwrap_or("invalid_request_error"));
        }
    };
    let without = match read(request(endpoint, "model", &json!("m"))) {
        Ok(without) => without,
        Err(error) => panic!("{endpoint:?}: {error}"),
    };
    let beside = [
        ("tool_choice", Parameter::Tools),
        ("parallel_tool_calls", Parameter::Tools),
        ("top_logprobs", Parameter::Logprobs),
    ];
    let needed = used.missing_from(without);
    let needed: Vec<String> = needed
        .iter()
        .filter(|parameter| !beside.iter().any(|(given, other)| member(name) == *given && parameter == other))
        .map(|parameter| format!("`{}`", parameter.name()))
        .collect();
    if !needed.is_empty() {
        return format!("by providers that offer {}; 400 `unsupported_parameter` where none does", needed.join(", "));
    }
    // Whether anyone looks at it: a value of a kind that nothing takes is refused if so.
    let odd = [json!({"x": [[]]}), json!("\u{1}"), json!(-7.5), json!([[[]]])];
    let is_read = odd.iter().any(|odd| read(request(endpoint, name, odd)).is_err());
    assert_eq!(is_read, otherwise != PassedOn, "{endpoint:?} {name}: is it read?");
    match otherwise {
        Honoured => "honoured".to_owned(),
        Label => "accepted; changes nothing about the answer".to_owned(),
        Kept => {
            let body = request(endpoint, name, value).to_string();
            let refusal = Storing::read(body.as_bytes()).ok().and_then(|storing| storing.refusal());
            let refusal = refusal.expect("refused where nothing is kept");
            assert_eq!(refusal.param.as_deref(), Some(member(name)));
            format!("where the operator keeps responses; 400 `{}` elsewhere", refusal.code.unwrap_or_default())
        }
        PassedOn => "not of this specification: passed on to the provider as it is".to_owned(),
    }
}

fn page() -> String {
    let mut page = String::from(
        "# What becomes of each parameter\n\n\
         Made by `openapi/tests/parameters.rs` from the code that reads requests (`make spec`); a test compares it.\n\n\
         A parameter counts as used when its value asks for something: `n: 1`, `tools: []` and null ask for nothing. What a model's \
         providers offer is in `supported_parameters` of `GET /v1/models`. Members that a specification does not have are passed on \
         to the provider; our own engine passes over them.\n\n\
         `functions` and `function_call` are the form that tools had before 2024: no engine here offers them, and who still sends \
         them is told so by name. `tools` and `tool_choice` say the same.\n\n\
         `provider` is in OpenRouter's words; its `order`, `only` and `ignore` take providers' ids and names \
         ([how they are chosen](../gateway/ROUTING.md#what-a-client-can-say)). Pictures are data: URLs or addresses, which the \
         provider's server fetches; content of a kind that the model does not take is refused with its place \
         (`messages[0].content[1]`, 400 `unsupported_content`).\n",
    );
    for endpoint in Endpoint::ALL {
        page += &format!(
            "\n## `POST {}`\n\n| parameter | such as | what becomes of it |\n|---|---|---|\n",
            endpoint.path()
        );
        for (name, value, otherwise) in parameters(endpoint) {
            let fate = fate(endpoint, name, &value, otherwise);
            page += &format!("| `{name}` | `{}` | {fate} |\n", value.to_string().replace('|', "\\|"));
        }
    }
    page += "\n`POST /v1/messages/count_tokens` reads what `POST /v1/messages` reads; `max_tokens` may be left out.\n";
    page
}

#[test]
fn the_page_says_what_the_code_does() {
    let current = page();
    if std::env::var_os("LUMBUNG_WRITE_SPEC").is_some() {
        std::fs::write(CHECKED_IN, &current).expect("written");
    }
    let checked_in = std::fs::read_to_string(CHECKED_IN).unwrap_or_default();
    assert!(
        checked_in == current,
        "openapi/PARAMETERS.md is not what the code does: run `make spec` and look at the difference"
    );
}

#[test]
fn every_parameter_of_the_code_is_in_the_page() {
    let page = page();
    for parameter in Parameter::ALL {
        assert!(page.contains(&format!("`{}`", parameter.name())), "{} is not in the page", parameter.name());
    }
}
