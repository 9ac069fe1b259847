//! Answers that must have a form: JSON, schemas, tool calls, reasoning.

use std::path::Path;

use lumbung_openapi::parameter::Parameter;
use lumbung_provider::engine::{Engine, FinishReason};
use serde_json::{Value, json};

use crate::support::{
    Choice, ENDLESS, ask, bundled, forced_logprobs, greedy, load, padi, prompt_ids, refusal, request,
};

fn schema(schema: Value) -> Value {
    json!({"response_format": {"type": "json_schema", "json_schema": {"name": "s", "strict": true, "schema": schema}}})
}

fn with(mut one: Value, other: Value) -> Value {
    one.as_object_mut().unwrap().extend(other.as_object().unwrap().clone());
    one
}

fn weather() -> Value {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": false});
    let get =
        json!({"name": "get_weather", "description": "Get the weather", "parameters": parameters, "strict": true});
    json!({"tools": [{"type": "function", "function": get}]})
}

fn person() -> Value {
    json!({
        "type": "object", "additionalProperties": false, "required": ["name", "age", "tags"],
        "properties": {
            "name": {"type": "string", "pattern": "^[A-Z][a-z]{1,6}$"},
            "age": {"type": "integer", "minimum": 18, "maximum": 99},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 2}
        }
    })
}

fn is_person(text: &str) -> bool {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    let tags = value["tags"].as_array().map_or(0, Vec::len);
    serde_json::to_string(&value).unwrap() == text
        && value["name"].as_str().is_some_and(|name| (2..=7).contains(&name.len()))
        && value["age"].as_u64().is_some_and(|age| (18..=99).contains(&age))
        && (1..=2).contains(&tags)
}

#[tokio::test]
async fn a_schema_holds_at_any_temperature_and_the_seed_repeats_elsewhere() {
    let (engine, other) = (padi(1).await, padi(1).await);
    for seed in 0..12 {
        let more = with(schema(person()), json!({"temperature": 2, "seed": seed, "max_tokens": 120}));
        let asked = request("Tell me about rice.", more);
        let answer = ask(&engine, &asked).await.only();
        assert_eq!(answer.reason, Some(FinishReason::Stop), "{}", answer.text);
        assert!(is_person(&answer.text), "{}", answer.text);
        assert_eq!(ask(&other, &asked).await.only().ids, answer.ids, "another provider with the same weights");
    }
}

#[tokio::test]
async fn bias_and_penalties_choose_among_what_the_form_allows() {
    let engine = padi(1).await;
    let colours = schema(json!({"enum": ["red", "blue"]}));
    let first = ask(&engine, &greedy("?", colours.clone())).await.only();
    assert!(["\"red\"", "\"blue\""].contains(&first.text.as_str()), "{}", first.text);
    // Banned as far as can be, and wanted as far as can be: the form stands.
    let ids =
        |choice: &Choice| choice.ids.iter().map(|id| (id.to_string(), json!(-100))).collect::<serde_json::Map<_, _>>();
    let banned = with(colours.clone(), json!({"logit_bias": ids(&first)}));
    let second = ask(&engine, &greedy("?", banned)).await.only();
    assert!(second.text != first.text && ["\"red\"", "\"blue\""].contains(&second.text.as_str()), "{}", second.text);
    let wild =
        with(schema(person()), json!({"logit_bias": {"300": 100}, "frequency_penalty": 2, "presence_penalty": 2}));
    let answer = ask(&engine, &greedy("?", wild)).await.only();
    assert!(is_person(&answer.text), "{}", answer.text);
}

#[tokio::test]
async fn log_probabilities_stay_the_models_own() {
    let engine = padi(1).await;
    let more = with(schema(person()), json!({"temperature": 1, "seed": 4, "logprobs": true, "top_logprobs": 2}));
    let answer = ask(&engine, &request("Tell me about rice.", more)).await.only();
    assert_eq!(answer.logprobs.len(), answer.ids.len());
    let prompt = prompt_ids(&engine, "Tell me about rice.").await;
    let rows = forced_logprobs(&engine, [prompt.clone(), answer.ids.clone()].concat()).await;
    for (at, (id, told)) in answer.ids.iter().zip(&answer.logprobs).enumerate() {
        let forced = rows[prompt.len() + at - 1][*id as usize];
        assert!((told.logprob - forced).abs() < 1e-3, "token {at}: {} {forced}", told.logprob);
    }
}

#[tokio::test]
async fn a_limit_or_a_stop_sequence_ends_a_form_early() {
    let engine = padi(1).await;
    let whole = ask(&engine, &greedy("?", schema(person()))).await.only();
    for limit in 1..whole.count {
        let cut = ask(&engine, &greedy("?", with(schema(person()), json!({"max_tokens": limit})))).await.only();
        assert_eq!((cut.count, cut.reason), (limit, Some(FinishReason::Length)));
        assert!(whole.text.starts_with(&cut.text), "{} {}", whole.text, cut.text);
    }
    let exact = ask(&engine, &greedy("?", with(schema(person()), json!({"max_tokens": whole.count})))).await.only();
    assert_eq!((exact.text, exact.reason), (whole.text.clone(), Some(FinishReason::Stop)));
    let stopped = ask(&engine, &greedy("?", with(schema(person()), json!({"stop": "age"})))).await.only();
    assert_eq!(stopped.text, whole.text[..whole.text.find("age").unwrap()]);
}

#[tokio::test]
async fn what_cannot_be_enforced_is_refused() {
    let engine = padi(1).await;
    for impossible in [
        json!({"type": "array", "uniqueItems": true}),
        json!({"type": "integer", "minimum": 9, "maximum": 1}),
        json!({"type": "object", "required": ["a"], "additionalProperties": false}),
        json!({"oneOf": [{"type": "number"}, {"type": "integer"}]}),
        json!({"anyOf": [{"$ref": "#"}]}),
    ] {
        let refusal = refusal(&engine, &request("?", schema(impossible.clone()))).await;
        assert_eq!(refusal.param.as_deref(), Some("response_format.json_schema.schema"), "{impossible}");
    }
    let tool = |strict: bool| json!({"type": "function", "function": {"name": "f", "strict": strict, "parameters": {"type": "object", "minProperties": 3}}});
    let refused = refusal(&engine, &request("?", json!({"tools": [tool(true)]}))).await;
    assert_eq!(refused.param.as_deref(), Some("tools[0].function.parameters"));
    let both = with(weather(), json!({"response_format": {"type": "json_object"}}));
    assert_eq!(refusal(&engine, &request("?", both)).await.param.as_deref(), Some("response_format"));
    assert_eq!(engine.generated_tokens(), 0);
    let loose =
        json!({"tools": [tool(false)], "tool_choice": "required", "parallel_tool_calls": false, "max_tokens": 200});
    let answer = ask(&engine, &greedy("?", loose)).await.only();
    assert_eq!(answer.calls.len(), 1);
}

#[tokio::test]
async fn the_model_calls_a_tool_and_reads_its_result() {
    let engine = padi(1).await;
    let asked = greedy("What is the weather in Paris?", weather());
    let answer = ask(&engine, &asked).await.only();
    assert_eq!(answer.calls, [("get_weather".to_owned(), "{\"city\":\"Paris\"}".to_owned())]);
    assert_eq!((answer.text.as_str(), answer.reason), ("", Some(FinishReason::ToolCalls)));
    assert_eq!(answer.call_ids, ask(&engine, &asked).await.only().call_ids, "the same job has the same ids");

    let mut told = asked.clone();
    let call = json!({"id": answer.call_ids[0], "type": "function", "function": {"name": "get_weather", "arguments": answer.calls[0].1}});
    told["messages"].as_array_mut().unwrap().extend([
        json!({"role": "assistant", "content": null, "tool_calls": [call]}),
        json!({"role": "tool", "tool_call_id": answer.call_ids[0], "content": "{\"temperature\": 21}"}),
    ]);
    let answer = ask(&engine, &told).await.only();
    // So small a model mixes up digits.
    let is_told = answer.text.starts_with("It is ") && answer.text.ends_with(" degrees in Paris.");
    assert!(is_told && answer.reason == Some(FinishReason::Stop), "{}", answer.text);

    // Text stays text, with tools at hand and without.
    let talk = ask(&engine, &greedy("What is SSE?", json!({}))).await.only();
    assert!(talk.calls.is_empty() && !talk.text.is_empty());
    let none = with(weather(), json!({"tool_choice": "none", "max_tokens": 40}));
    assert!(ask(&engine, &greedy("What is the weather in Paris?", none)).await.only().calls.is_empty());
}

#[tokio::test]
async fn calls_that_must_come_are_valid_at_any_temperature() {
    let engine = padi(1).await;
    let add = json!({"type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["a"], "additionalProperties": false});
    let mut tools = weather();
    tools["tools"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "function", "function": {"name": "add", "parameters": add, "strict": true}}));
    let mut names = std::collections::HashSet::new();
    for seed in 0..12 {
        let named = json!({"type": "function", "function": {"name": "add"}});
        let choice = if seed % 3 == 0 { named } else { json!("required") };
        let more = json!({"tool_choice": choice, "temperature": 2, "seed": seed, "max_tokens": 150, "parallel_tool_calls": seed % 2 == 0});
        let answer = ask(&engine, &request("Tell me about rice.", with(tools.clone(), more))).await.only();
        assert!(answer.text.is_empty() && !answer.calls.is_empty(), "{answer:?}");
        assert!(seed % 2 == 0 || answer.calls.len() == 1);
        check_calls(&answer);
        names.extend(answer.calls.into_iter().map(|(name, _)| name));
    }
    assert_eq!(names.len(), 2, "{names:?}");

    // Where the answer must not end, one call follows another, unless there may be only one.
    let banned: serde_json::Map<String, Value> =
        ENDLESS.iter().map(|(id, bias)| ((*id).to_owned(), json!(bias))).collect();
    let endless = |parallel: bool| json!({"tool_choice": "required", "logit_bias": banned, "max_tokens": 150, "parallel_tool_calls": parallel});
    let several =
        ask(&engine, &greedy("What is the weather in Paris?", with(tools.clone(), endless(true)))).await.only();
    assert!(several.calls.len() > 1 && several.reason == Some(FinishReason::Length), "{several:?}");
    check_calls(&several);
    let one = ask(&engine, &greedy("What is the weather in Paris?", with(tools, endless(false)))).await.only();
    assert_eq!((one.calls.len(), one.reason), (1, Some(FinishReason::ToolCalls)));
}

/// Calls that came to their end match their tools' schemas.
fn check_calls(answer: &Choice) {
    let finished = answer.calls.len() - usize::from(answer.reason != Some(FinishReason::ToolCalls));
    for (name, arguments) in &answer.calls[..finished] {
        let arguments: Value = serde_json::from_str(arguments).unwrap();
        let is_valid = match name.as_str() {
            "add" => arguments["a"].as_u64().is_some_and(|a| a < 10),
            _ => arguments["city"].is_string(),
        };
        assert!(is_valid && arguments.as_object().unwrap().len() == 1, "{name} {arguments}");
    }
}

/// A copy of the bundled model whose template is another.
async fn with_template(folder: &Path, template: &str) -> lumbung_provider::engine::mistral::MistralEngine {
    for name in ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(bundled("padi").join(name), folder.join(name)).unwrap();
    }
    let config = json!({"eos_token": "<|im_end|>", "chat_template": template});
    std::fs::write(folder.join("tokenizer_config.json"), config.to_string()).unwrap();
    load(folder.to_owned(), 1).await
}

#[tokio::test]
async fn a_model_that_thinks_has_its_reasoning_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n\
                    {% if enable_thinking %}<think>\n{% else %}{# </think> #}{% endif %}";
    let engine = with_template(folder.path(), template).await;
    assert!(engine.describe().supported.contains(Parameter::ReasoningEffort));
    assert!(!engine.describe().supported.contains(Parameter::Tools), "its template knows none");

    let thought = ask(&engine, &greedy("What is SSE?", json!({"max_tokens": 12}))).await.only();
    assert!(!thought.reasoning.is_empty() && thought.text.is_empty(), "{thought:?}");
    assert_eq!(thought.reasoning_count, thought.count);
    // What must have a form cannot end while it is only thought about.
    let forced = with(schema(person()), json!({"max_tokens": 60}));
    let forced = ask(&engine, &greedy("What is SSE?", forced)).await.only();
    assert_eq!((forced.reason, forced.text.as_str()), (Some(FinishReason::Length), ""));

    let plain = ask(&padi(1).await, &greedy("What is SSE?", json!({}))).await.only();
    for quick in [json!({"reasoning_effort": "none"}), json!({"chat_template_kwargs": {"enable_thinking": false}})] {
        let answer = ask(&engine, &greedy("What is SSE?", quick)).await.only();
        assert_eq!((answer.text.as_str(), answer.reasoning_count), (plain.text.as_str(), 0));
    }
    let unknown = refusal(&engine, &request("?", json!({"chat_template_kwargs": {"mood": 1}}))).await;
    assert_eq!(
        (unknown.param.as_deref(), unknown.code),
        (Some("chat_template_kwargs.mood"), Some("unsupported_parameter"))
    );
    let unheeded = refusal(&padi(1).await, &request("?", json!({"reasoning_effort": "low"}))).await;
    assert_eq!(unheeded.param.as_deref(), Some("reasoning_effort"));
}

#[tokio::test]
async fn hermes_calls_are_recognised_by_their_tag() {
    let folder = tempfile::tempdir().unwrap();
    let template = "{% if tools %}{# <tool_call></tool_call> #}{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n{{ start }}";
    let engine = with_template(folder.path(), template).await;
    // Begun by the prompt's own hand, a tag is no call; forced, there is one between tags.
    let forced = with(weather(), json!({"tool_choice": "required", "parallel_tool_calls": false, "max_tokens": 120}));
    let answer = ask(&engine, &greedy("What is the weather in Paris?", forced)).await.only();
    assert_eq!((answer.calls.len(), answer.text.as_str()), (1, ""));
    let both = with(weather(), schema(person()));
    let answer =
        ask(&engine, &request("?", with(both, json!({"temperature": 1, "seed": 1, "max_tokens": 120})))).await.only();
    assert!(!answer.calls.is_empty() || is_person(&answer.text), "{answer:?}");
}

#[tokio::test]
async fn the_final_message_is_gone_on_with() {
    let engine = padi(1).await;
    let whole = ask(&engine, &greedy("What is SSE?", json!({}))).await.only().text;
    let (begun, rest) = whole.split_at(whole.find(' ').unwrap());
    let mut asked = greedy("What is SSE?", json!({"continue_final_message": true}));
    asked["messages"].as_array_mut().unwrap().push(json!({"role": "assistant", "content": begun}));
    assert_eq!(ask(&engine, &asked).await.only().text, rest);
    let nothing = refusal(&engine, &greedy("What is SSE?", json!({"continue_final_message": true}))).await;
    assert_eq!(nothing.param.as_deref(), Some("continue_final_message"));
}
