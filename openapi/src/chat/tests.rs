use super::*;
use crate::endpoint::Endpoint;
use crate::modality::{Modalities, Modality};
use proptest::prelude::*;

const HELLO: &str = r#""model":"m","messages":[{"role":"user","content":"Hello"}]"#;

fn refused(body: &str) -> (Option<String>, Option<&'static str>) {
    let error = ChatRequest::parse(body.as_bytes()).expect_err(body);
    (error.param, error.code)
}

#[test]
fn an_ordinary_request_is_read_as_written() {
    let body = r#"{"model":"lumbung/padi","messages":[{"role":"developer","content":"Be brief."},
        {"role":"user","content":[{"type":"text","text":"Caf\u00e9"},{"type":"text","text":"?"}]}],
        "stream":true,"stream_options":{"include_usage":true},"max_completion_tokens":92.0,"temperature":0,
        "stop":["\n","END"],"seed":-7,"logit_bias":{"50":-100},"n":1,"tools":[],"tool_choice":"auto","response_format":{"type":"text"},
        "user":"u","metadata":{"a":"b"},"made_up_by_someone":{"x":[1,2]}}"#;
    let request = ChatRequest::parse(body.as_bytes()).expect("a valid request");
    assert_eq!(request.model, "lumbung/padi");
    assert_eq!(
        request.messages.iter().map(|m| (m.role, &*m.text)).collect::<Vec<_>>(),
        [(Role::Developer, "Be brief."), (Role::User, "Café?")]
    );
    assert!(request.stream && request.include_usage);
    assert_eq!(
        (request.max_tokens, request.n, request.sampling.seed, request.sampling.temperature),
        (Some(92), 1, Some(-7), 0.0)
    );
    assert_eq!((request.stop, request.sampling.logit_bias), (vec!["\n".into(), "END".into()], vec![(50, -100.0)]));
    use Parameter::*;
    assert_eq!(request.parameters.iter().collect::<Vec<_>>(), [MaxTokens, Temperature, Seed, Stop, LogitBias]);
}

#[test]
fn strings_are_borrowed_from_the_body() {
    let body = format!("{{{HELLO}}}");
    let request = ChatRequest::parse(body.as_bytes()).expect("a valid request");
    assert!(matches!((&request.model, &request.messages[0].text), (Cow::Borrowed(_), Cow::Borrowed(_))));
}

#[test]
fn what_asks_for_a_feature_is_seen() {
    for (member, parameter) in [
        (r#""tools":[{"type":"function","function":{"name":"f"}}]"#, Parameter::Tools),
        (r#""function_call":{"name":"f"}"#, Parameter::FunctionCall),
        (r#""response_format":{"type":"json_object"}"#, Parameter::ResponseFormat),
        (r#""logprobs":true"#, Parameter::Logprobs),
        (r#""n":2"#, Parameter::N),
        (r#""reasoning_effort":"low""#, Parameter::ReasoningEffort),
        (r#""modalities":["text","audio"]"#, Parameter::Modalities),
        (r#""store":true"#, Parameter::Store),
    ] {
        let body = format!("{{{HELLO},{member}}}");
        let request = ChatRequest::parse(body.as_bytes()).expect(member);
        assert_eq!(request.parameters.iter().collect::<Vec<_>>(), [parameter], "{member}");
        assert_eq!(
            request.unsupported(ParameterSet::default()).and_then(|e| e.param).as_deref(),
            Some(parameter.name())
        );
        assert_eq!(request.unsupported(request.parameters), None);
    }
    let image =
        r#"{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:"}}]}]}"#;
    let request = ChatRequest::parse(image.as_bytes()).expect("an image is a valid part");
    assert!(request.parameters.contains(Parameter::ImageUrl));
}

#[test]
fn content_that_a_model_does_not_take_is_named_by_its_place() {
    let body = r#"{"model":"m","messages":[{"role":"system","content":[{"type":"text","text":"a"}]},{"role":"user","content":[
        {"type":"text","text":"b"},{"type":"image_url","image_url":{"url":"data:"}},{"type":"image_url","image_url":{"url":"data:"}},
        {"type":"input_audio","input_audio":{"data":"","format":"wav"}},{"type":"file","file":{"file_data":""}}]}]}"#;
    let request = ChatRequest::parse(body.as_bytes()).expect("valid parts");
    assert_eq!((request.media.len(), request.media_bytes()), (4, 7 + 7 + 2 + 2));
    let refused = |inputs: &[Modality]| {
        let refused =
            Endpoint::Chat.not_taken(&request, &Modalities::new(inputs.to_vec()).expect("some"), body.as_bytes())?;
        Some((refused.param.expect("a place"), refused.code.expect("a code")))
    };
    let at = |part: usize| Some((format!("messages[1].content[{part}]"), "unsupported_content"));
    assert_eq!(refused(&[Modality::Text]), at(1));
    assert_eq!(refused(&[Modality::Text, Modality::Image]), at(3));
    assert_eq!(refused(&[Modality::Text, Modality::Image, Modality::Audio]), at(4));
    assert_eq!(refused(&[Modality::Text, Modality::Image, Modality::Audio, Modality::File]), None);
}

#[test]
fn errors_name_the_parameter() {
    let many = vec![r#"{"role":"user","content":"x"}"#; 10_000].join(",");
    for (body, param, code) in [
        ("{".to_owned(), None, None),
        ("".to_owned(), None, None),
        ("[]".to_owned(), None, None),
        (format!("{{{HELLO}}} x"), None, None),
        (format!("{{{HELLO},\"n\":1,\"n\":2}}"), None, None),
        (r#"{"messages":[]}"#.to_owned(), Some("model"), Some("missing_required_parameter")),
        (r#"{"model":1,"messages":[]}"#.to_owned(), Some("model"), Some("invalid_type")),
        (r#"{"model":"m"}"#.to_owned(), Some("messages"), Some("missing_required_parameter")),
        (r#"{"model":"m","messages":[]}"#.to_owned(), Some("messages"), Some("empty_array")),
        (r#"{"model":"m","messages":"hello"}"#.to_owned(), Some("messages"), Some("invalid_type")),
        (format!(r#"{{"model":"m","messages":[{many}]}}"#), Some("messages"), Some("array_above_max_length")),
        (
            r#"{"model":"m","messages":[{"role":"wizard","content":"x"}]}"#.to_owned(),
            Some("messages[0].role"),
            Some("invalid_value"),
        ),
        (
            r#"{"model":"m","messages":[{"role":"user"}]}"#.to_owned(),
            Some("messages[0].content"),
            Some("missing_required_parameter"),
        ),
        (
            r#"{"model":"m","messages":[{"role":"user","content":7}]}"#.to_owned(),
            Some("messages[0].content"),
            Some("invalid_type"),
        ),
        (
            r#"{"model":"m","messages":[{"role":"user","content":[{"type":"smell"}]}]}"#.to_owned(),
            Some("messages[0].content[0].type"),
            Some("invalid_value"),
        ),
        (format!("{{{HELLO},\"temperature\":2.1}}"), Some("temperature"), Some("invalid_value")),
        (format!("{{{HELLO},\"temperature\":\"hot\"}}"), Some("temperature"), Some("invalid_type")),
        (format!("{{{HELLO},\"max_tokens\":0}}"), Some("max_tokens"), Some("invalid_value")),
        (format!("{{{HELLO},\"max_tokens\":1e300}}"), Some("max_tokens"), Some("invalid_value")),
        (format!("{{{HELLO},\"max_tokens\":1e999}}"), Some("max_tokens"), Some("invalid_value")),
        (format!("{{{HELLO},\"max_tokens\":99999999999999999999}}"), Some("max_tokens"), Some("invalid_value")),
        (format!("{{{HELLO},\"max_tokens\":1.5}}"), Some("max_tokens"), Some("invalid_value")),
        (format!("{{{HELLO},\"n\":17}}"), Some("n"), Some("invalid_value")),
        (format!("{{{HELLO},\"stream\":\"yes\"}}"), Some("stream"), Some("invalid_type")),
        (format!("{{{HELLO},\"stream_options\":{{}}}}"), Some("stream_options"), Some("invalid_value")),
        (format!("{{{HELLO},\"stop\":[1]}}"), Some("stop[0]"), Some("invalid_type")),
        (format!("{{{HELLO},\"stop\":\"\"}}"), Some("stop"), Some("invalid_value")),
        (format!("{{{HELLO},\"logit_bias\":{{\"x\":1}}}}"), Some("logit_bias.x"), Some("invalid_value")),
        (format!("{{{HELLO},\"top_logprobs\":3}}"), Some("top_logprobs"), Some("invalid_value")),
        (
            format!("{{{HELLO},\"response_format\":{{\"type\":\"xml\"}}}}"),
            Some("response_format.type"),
            Some("invalid_value"),
        ),
    ] {
        let shown: String = body.chars().take(120).collect();
        let got = refused(&body);
        assert_eq!((got.0.as_deref(), got.1), (param, code), "{shown}");
    }
    assert_eq!(ChatRequest::parse(b"{\"model\":\"\xff\"}").expect_err("not UTF-8").param, None);
}

#[test]
fn depth_and_width_have_their_limits() {
    // Passed over without recursion: whoever reads such a member must mind its depth.
    let deep = format!("{{{HELLO},\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(ChatRequest::parse(deep.as_bytes()).is_ok());
    let wide: Vec<String> = (0..5000).map(|i| format!("\"k{i}\":0")).collect();
    assert_eq!(refused(&format!("{{{HELLO},{}}}", wide.join(","))).0, None);
}

proptest! {
    #[test]
    fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = ChatRequest::parse(&body);
    }

    #[test]
    fn no_value_of_a_known_member_panics(member in proptest::sample::select(vec!["n", "stop", "seed", "tools", "logit_bias", "messages", "stream_options", "metadata", "temperature", "provider", "models"]), value in "[\\[\\]{}\":,0-9a-z.eE+-]{0,30}") {
        let _ = ChatRequest::parse(format!("{{{HELLO},\"{member}\":{value}}}").as_bytes());
    }
}

const TOOL: &str = r#""tools":[{"type":"function","function":{"name":"get_weather","description":"d","parameters":{"type":"object"},"strict":true}},{"type":"function","function":{"name":"now"}}]"#;

#[test]
fn tools_and_who_calls_them_are_read() {
    let body = |more: &str| format!("{{{HELLO},{TOOL}{more}}}");
    let text = body(r#","tool_choice":{"type":"function","function":{"name":"now"}},"parallel_tool_calls":false"#);
    let request = ChatRequest::parse(text.as_bytes()).expect("tools");
    let tools = &request.tools;
    assert_eq!(
        tools.list.iter().map(|tool| (&*tool.name, tool.strict)).collect::<Vec<_>>(),
        [("get_weather", true), ("now", false)]
    );
    assert_eq!(tools.list[0].parameters.as_ref().map(|raw| raw.get()), Some(r#"{"type":"object"}"#));
    assert_eq!((&tools.choice, tools.parallel), (&ToolChoice::Named("now".into()), false));
    assert_eq!(
        request.parameters.iter().collect::<Vec<_>>(),
        [Parameter::Tools, Parameter::ToolChoice, Parameter::ParallelToolCalls]
    );
    for (choice, may) in [("auto", true), ("none", false), ("required", true)] {
        let text = body(&format!(",\"tool_choice\":\"{choice}\""));
        let request = ChatRequest::parse(text.as_bytes()).expect(choice);
        assert_eq!(
            (request.tools.may_be_called(), request.parameters.contains(Parameter::ToolChoice)),
            (may, choice == "required")
        );
    }
}

#[test]
fn a_round_trip_of_a_tool_is_read() {
    let body = r#"{"model":"m","messages":[{"role":"user","content":"?"},
        {"role":"assistant","content":null,"reasoning_content":"hm","tool_calls":[{"id":"call_1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]},
        {"role":"tool","tool_call_id":"call_1","content":"7"}]}"#;
    let request = ChatRequest::parse(body.as_bytes()).expect("a round trip");
    let (asked, told) = (&request.messages[1], &request.messages[2]);
    assert_eq!((&*asked.text, asked.reasoning.as_deref(), asked.tool_calls.len()), ("", Some("hm"), 1));
    let call = &asked.tool_calls[0];
    assert_eq!((&*call.id, &*call.name, &*call.arguments), ("call_1", "f", r#"{"a":1}"#));
    assert_eq!((told.role, told.tool_call_id.as_deref()), (Role::Tool, Some("call_1")));
}

#[test]
fn a_round_trip_of_a_function_is_one_of_a_tool() {
    let body = r#"{"model":"m","messages":[
        {"role":"assistant","content":null,"function_call":{"name":"f","arguments":"{\"a\":1}"}},
        {"role":"function","name":"f","content":"7"}]}"#;
    let request = ChatRequest::parse(body.as_bytes()).expect("a round trip");
    let (asked, told) = (&request.messages[0], &request.messages[1]);
    let call = &asked.tool_calls[0];
    assert_eq!((&*call.id, &*call.name, &*call.arguments), ("f", "f", r#"{"a":1}"#));
    assert_eq!((told.role, told.tool_call_id.as_deref()), (Role::Tool, Some("f")));
    let cut = body.replace(r#","arguments":"{\"a\":1}""#, "");
    let refused = ChatRequest::parse(cut.as_bytes()).expect_err("half a call");
    assert_eq!(refused.param.as_deref(), Some("messages[0].function_call.arguments"));
}

#[test]
fn a_schema_an_effort_and_the_templates_options_are_read() {
    let ask = |more: &str| format!("{{{HELLO},{more}}}");
    let text = ask(
        r#""response_format":{"type":"json_schema","json_schema":{"name":"x","strict":true,"schema":{"type":"object"}}},"reasoning_effort":"minimal","continue_final_message":true,"chat_template_kwargs":{"a":1}"#,
    );
    let request = ChatRequest::parse(text.as_bytes()).expect("a request");
    let ResponseFormat::JsonSchema(schema) = &request.response_format else { panic!("{:?}", request.response_format) };
    assert_eq!((schema.get(), request.reasoning_effort), (r#"{"type":"object"}"#, Some(ReasoningEffort::Minimal)));
    assert!(request.template.continue_final_message && !request.template.add_generation_prompt);
    assert_eq!(request.template.variables.as_ref().map(|raw| raw.get()), Some(r#"{"a":1}"#));
}

#[test]
fn errors_about_tools_and_forms_name_the_parameter() {
    let call = |call: &str| format!(r#""messages":[{{"role":"assistant","tool_calls":[{call}]}}]"#);
    let format = |rest: &str| format!(r#"{HELLO},"response_format":{{"type":"json_schema"{rest}}}"#);
    for (members, param, code) in [
        (format!("{HELLO},\"tool_choice\":\"required\""), "tool_choice", "invalid_value"),
        (format!("{HELLO},{TOOL},\"tool_choice\":\"perhaps\""), "tool_choice", "invalid_value"),
        (format!("{HELLO},{TOOL},\"tool_choice\":7"), "tool_choice", "invalid_value"),
        (
            format!("{HELLO},{TOOL},\"tool_choice\":{{\"type\":\"function\",\"function\":{{\"name\":\"x\"}}}}"),
            "tool_choice.function.name",
            "invalid_value",
        ),
        (format!("{HELLO},\"tools\":[{{\"type\":\"custom\"}}]"), "tools[0].type", "invalid_value"),
        (format!("{HELLO},\"tools\":[{{\"type\":\"function\"}}]"), "tools[0].function", "missing_required_parameter"),
        (
            format!("{HELLO},\"tools\":[{{\"type\":\"function\",\"function\":{{\"name\":\"a b\"}}}}]"),
            "tools[0].function.name",
            "invalid_value",
        ),
        (
            format!(
                "{HELLO},\"tools\":[{{\"type\":\"function\",\"function\":{{\"name\":\"a\"}}}},{{\"type\":\"function\",\"function\":{{\"name\":\"a\"}}}}]"
            ),
            "tools[1].function.name",
            "invalid_value",
        ),
        (
            format!("{HELLO},\"tools\":[{{\"type\":\"function\",\"function\":{{\"name\":\"a\",\"parameters\":[]}}}}]"),
            "tools[0].function.parameters",
            "invalid_type",
        ),
        (call(r#"{"id":"x"}"#), "messages[0].tool_calls[0].function", "missing_required_parameter"),
        (
            call(r#"{"id":"x","function":{"name":"f"}}"#),
            "messages[0].tool_calls[0].function.arguments",
            "missing_required_parameter",
        ),
        (format(""), "response_format.json_schema", "missing_required_parameter"),
        (format(r#","json_schema":{}"#), "response_format.json_schema.name", "missing_required_parameter"),
        (format(r#","json_schema":{"name":"x"}"#), SCHEMA_PARAM, "missing_required_parameter"),
        (format(r#","json_schema":{"name":"x","schema":true}"#), SCHEMA_PARAM, "invalid_type"),
        (
            format(r#","json_schema":{"name":"x","schema":{},"strict":1}"#),
            "response_format.json_schema.strict",
            "invalid_type",
        ),
        (format!("{HELLO},\"reasoning_effort\":\"utmost\""), "reasoning_effort", "invalid_value"),
        (format!("{HELLO},\"chat_template_kwargs\":7"), "chat_template_kwargs", "invalid_type"),
        (
            format!("{HELLO},\"continue_final_message\":true,\"add_generation_prompt\":true"),
            "continue_final_message",
            "invalid_value",
        ),
    ] {
        let body = match members.contains("\"model\"") {
            true => format!("{{{members}}}"),
            false => format!("{{\"model\":\"m\",{members}}}"),
        };
        let got = refused(&body);
        assert_eq!((got.0.as_deref(), got.1), (Some(param), Some(code)), "{body}");
    }
}
