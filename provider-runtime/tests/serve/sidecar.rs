//! The engine that asks another server, against one that behaves as oddly as real ones do.

use std::time::Duration;

use lumbung_openapi::endpoint::Endpoint;
use lumbung_openapi::frame::{AnswerEnd, Frame, FrameKind, PromptCount};
use lumbung_openapi::merkle::Hash;
use lumbung_openapi::receipt::ReceiptClaims;
use serde_json::json;

use super::support::eventually;
use super::support::gateway::TestGateway;
use super::support::provider::{Provider, sidecar};
use super::support::tunnel::{Tunnel, client_bytes};
use super::support::upstream::{Reply, Upstream, events, finish, text, usage};
use super::{chunks, of_kind, request, streamed, text_of};

async fn joined(reply: Reply) -> (TestGateway, Upstream, Provider, Tunnel) {
    let gateway = TestGateway::start().await;
    let upstream = Upstream::start(reply).await;
    let provider = sidecar(&gateway.url(), &upstream.url())
        .with("--upstream-key", "secret")
        .with("--quantization", "fp8")
        .with("--upstream-supports", "max_tokens,temperature,stop,n,logprobs,top_logprobs,tools")
        .start();
    let tunnel = gateway.tunnel().await;
    (gateway, upstream, provider, tunnel)
}

fn usual() -> Vec<Vec<u8>> {
    let mut parts = events(&[text(""), text("Padi"), text(" masuk"), text(" lumbung."), finish("stop"), usage(11, 4)]);
    parts.push(b"data: [DONE]\n\n".to_vec());
    parts
}

/// Text, finish reason, final count, prompt.
fn outcome(frames: &[Frame]) -> (String, String, u32, Option<PromptCount>) {
    let end = of_kind(frames, FrameKind::End);
    let [end] = end.as_slice() else { panic!("no end: {frames:?}") };
    let prompt = of_kind(frames, FrameKind::Prompt).first().and_then(|frame| PromptCount::from_bytes(&frame.payload));
    (text_of(&chunks(&client_bytes(frames))), String::from_utf8(end.payload.to_vec()).unwrap(), end.tokens, prompt)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_body_goes_on_and_the_answer_comes_back() {
    let (_gateway, upstream, _provider, mut tunnel) = joined(Reply::Parts(usual())).await;
    let model = tunnel.offer().await.models.remove(0);
    assert_eq!((model.quantization.as_str(), model.context_length, model.weights_digest.as_str()), ("fp8", 4096, ""));
    assert_eq!(
        model.supported_parameters,
        ["max_tokens", "temperature", "stop", "n", "logprobs", "top_logprobs", "tools"]
    );

    let body = request("hi", r#","stream":true,"max_tokens":50,"temperature":0.5,"top_k":40"#);
    let frames = tunnel.ask(&body).await.begun().all().await;
    let (sent, authorization) = upstream.last_request();
    assert_eq!(authorization, "Bearer secret");
    let expected = json!({
        "model": "upstream-name", "messages": [{"role": "user", "content": "hi"}], "stream": true,
        "stream_options": {"include_usage": true}, "max_tokens": 50, "temperature": 0.5, "top_k": 40
    });
    assert_eq!(sent, expected);

    // The server counts its end token: its own number stands.
    let prompt = Some(PromptCount { prompt_tokens: 11, cached_tokens: 2 });
    assert_eq!(outcome(&frames), ("Padi masuk lumbung.".into(), "stop".into(), 4, prompt));
    let claims: ReceiptClaims = serde_json::from_slice(&frames.last().unwrap().payload).unwrap();
    assert_eq!((claims.prompt_tokens, claims.completion_tokens), (11, 4));
    assert_eq!(claims.delivered_sha256, Hash::of(&client_bytes(&frames)));

    let whole = tunnel.ask(&request("hi", "")).await.begun().all().await;
    let bytes = [&client_bytes(&whole)[..], b"}"].concat();
    let completion: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(completion["choices"][0]["message"]["content"], "Padi masuk lumbung.");
    let counts = |kind| of_kind(&whole, kind).iter().map(|frame| frame.tokens).collect::<Vec<_>>();
    assert_eq!((counts(FrameKind::Body), counts(FrameKind::End)), (vec![3], vec![4]), "corrected at the end alone");
    assert_eq!(upstream.last_request().0["stream"], true, "also for an answer that is not streamed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_endpoints_are_asked_where_the_server_has_them() {
    let gateway = TestGateway::start().await;
    let parts = events(&[
        json!({"object": "text_completion", "choices": [{"index": 0, "text": "Padi", "finish_reason": null,
            "logprobs": {"tokens": ["Padi"], "token_logprobs": [-0.5], "top_logprobs": [{"Padi": -0.5, "Beras": -1.5}]}}]}),
        json!({"object": "text_completion", "choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}),
        usage(3, 1),
    ]);
    let upstream = Upstream::start(Reply::Parts(parts)).await;
    let supports = "max_tokens,logprobs,top_logprobs,prompt,input,dimensions";
    let _provider = sidecar(&gateway.url(), &upstream.url()).with("--upstream-supports", supports).start();
    let mut tunnel = gateway.tunnel().await;
    let document = |frames: &[Frame]| -> serde_json::Value {
        serde_json::from_slice(&[&client_bytes(frames)[..], b"}"].concat()).unwrap()
    };

    tunnel.endpoint = Endpoint::Completions;
    let body = r#"{"model":"test/model","prompt":[1,2,3],"logprobs":1}"#;
    let answer = document(&tunnel.ask(body).await.begun().all().await);
    assert_eq!(upstream.last_request().0["prompt"], json!([1, 2, 3]));
    assert_eq!(answer["choices"][0]["text"], "Padi");
    assert_eq!(answer["choices"][0]["logprobs"]["top_logprobs"][0], json!({"Padi": -0.5, "Beras": -1.5}));

    tunnel.endpoint = Endpoint::Embeddings;
    let body = r#"{"model":"test/model","input":["a","b"],"encoding_format":"base64","dimensions":2}"#;
    let frames = tunnel.ask(body).await.begun().all().await;
    let sent = upstream.last_request().0;
    let expected = json!({"model": "upstream-name", "input": ["a", "b"], "encoding_format": "float", "dimensions": 2});
    assert_eq!(sent, expected);
    let prompt = of_kind(&frames, FrameKind::Prompt).first().and_then(|frame| PromptCount::from_bytes(&frame.payload));
    assert_eq!(prompt, Some(PromptCount { prompt_tokens: 9, cached_tokens: 0 }));
    let data = document(&frames)["data"].take();
    assert_eq!(data[1], json!({"object": "embedding", "index": 1, "embedding": "AACAPwAAAD8="}));

    tunnel.endpoint = Endpoint::Responses;
    upstream.answer_with(Reply::Parts(usual()));
    let body = r#"{"model":"test/model","input":"hi","max_output_tokens":50}"#;
    let answer = document(&tunnel.ask(body).await.begun().all().await);
    assert_eq!(upstream.last_request().0["messages"], json!([{"role": "user", "content": "hi"}]));
    assert_eq!(answer["output"][0]["content"][0]["text"], "Padi masuk lumbung.");
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_streams_come_out_the_same() {
    let (_gateway, upstream, _provider, mut tunnel) = joined(Reply::Parts(usual())).await;
    let plain = |count| ("Padi masuk lumbung.".to_owned(), "stop".to_owned(), count, None);
    let three = [text("Padi"), text(" masuk"), text(" lumbung.")];
    let joined: Vec<u8> = usual().concat();
    let with_usage = (
        "Padi masuk lumbung.".to_owned(),
        "stop".to_owned(),
        4,
        Some(PromptCount { prompt_tokens: 11, cached_tokens: 2 }),
    );

    let crlf = String::from_utf8(joined.clone()).unwrap().replace('\n', "\r\n").into_bytes();
    let comments = [b": keep-alive\n\n".to_vec(), b"event: message\nid: 1\n".to_vec(), joined.clone()].concat();
    let mut usage_with_finish = events(&three);
    usage_with_finish.extend(events(&[json!({"choices": finish("stop")["choices"], "usage": usage(11, 4)["usage"]})]));
    let mut usage_throughout = events(&[json!({"choices": text("Padi")["choices"], "usage": usage(11, 1)["usage"]})]);
    usage_throughout.extend(events(&[text(" masuk"), text(" lumbung."), finish("eos"), usage(11, 4)]));
    let mut silent = events(&three);
    silent.extend(events(&[finish("stop")]));
    let no_usage = [silent.clone(), vec![b"data: [DONE]\n\n".to_vec()]].concat();
    let only_done = [events(&three), vec![b"data: [DONE]\n\n".to_vec()]].concat();
    let both = events(&[
        json!({"choices": [{"index": 0, "delta": {"content": "Padi masuk lumbung."}, "message": {"content": "Padi"}}]}),
        finish("stop"),
    ]);
    let nulls = events(&[
        json!({"choices": null, "usage": null}),
        json!({"choices": [{"index": 0, "delta": {"role": "assistant", "content": null}, "logprobs": null}]}),
        json!({"choices": [{"delta": {"content": "Padi masuk lumbung."}, "finish_reason": ""}]}),
        finish("stop"),
    ]);
    for (what, reply, expected) in [
        ("in one part", Reply::Parts(vec![joined.clone()]), with_usage.clone()),
        ("byte by byte", Reply::Parts(joined.chunks(7).map(<[u8]>::to_vec).collect()), with_usage.clone()),
        ("CRLF", Reply::Parts(crlf.chunks(5).map(<[u8]>::to_vec).collect()), with_usage.clone()),
        ("comments", Reply::Parts(vec![comments]), with_usage.clone()),
        ("usage with the last chunk", Reply::Parts(usage_with_finish), with_usage.clone()),
        ("usage in each chunk", Reply::Parts(usage_throughout), with_usage),
        ("no usage", Reply::Parts(no_usage), plain(3)),
        ("all of it beside the part", Reply::Parts(both), plain(1)),
        ("no [DONE]", Reply::Parts(silent.clone()), plain(3)),
        ("no [DONE] and no end", Reply::PartsThenSilence(silent), plain(3)),
        ("no finish reason", Reply::Parts(only_done), plain(3)),
        ("nulls", Reply::Parts(nulls), plain(1)),
    ] {
        upstream.answer_with(reply);
        let frames = tunnel.ask(&streamed("hi")).await.begun().all().await;
        assert_eq!(outcome(&frames), expected, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn choices_log_probabilities_and_limits_are_kept_apart() {
    let (_gateway, upstream, _provider, mut tunnel) = joined(Reply::Parts(usual())).await;
    let logprob = |token: &str| json!({"token": token, "logprob": -0.1, "bytes": null, "top_logprobs": [{"token": "x", "logprob": -2.0}]});
    upstream.answer_with(Reply::Parts(events(&[
        json!({"choices": [{"index": 1, "delta": {"content": "b"}, "logprobs": {"content": [logprob("b")]}}]}),
        json!({"choices": [{"index": 0, "delta": {"content": "aa"}, "logprobs": {"content": [logprob("a"), logprob("a")]}}]}),
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}, {"index": 1, "delta": {}, "finish_reason": "stop"}]}),
    ])));
    let body = request("hi", r#","stream":true,"n":2,"logprobs":true,"top_logprobs":1"#);
    let frames = tunnel.ask(&body).await.begun().all().await;
    let events_of: Vec<_> =
        chunks(&client_bytes(&frames)).into_iter().map(|mut chunk| chunk.choices.remove(0)).collect();
    let text_of = |index| {
        events_of.iter().filter(|c| c.index == index).filter_map(|c| c.delta.content.clone()).collect::<String>()
    };
    assert_eq!((text_of(0), text_of(1)), ("aa".into(), "b".into()));
    let logprobs: usize =
        events_of.iter().filter_map(|c| c.logprobs.as_ref()).map(|logprobs| logprobs.content.len()).sum();
    assert_eq!(logprobs, 3);
    let end = of_kind(&frames, FrameKind::End)[0];
    assert_eq!((&end.payload[..], end.tokens), (&b"length"[..], 3));

    upstream.answer_with(Reply::PartsThenSilence(events(&vec![text("x"); 50])));
    let frames = tunnel.ask(&request("hi", r#","stream":true,"max_tokens":5"#)).await.begun().all().await;
    let (said, reason, tokens, _) = outcome(&frames);
    assert_eq!(
        (said.as_str(), reason.as_str(), tokens),
        ("xxxxxxxxxx", "length", 5),
        "a server that does not heed the limit"
    );
    let mut halves = vec![text("x"); 9];
    halves.extend([finish("stop"), usage(11, 5)]);
    upstream.answer_with(Reply::Parts(events(&halves)));
    let frames = tunnel.ask(&request("hi", r#","stream":true,"max_tokens":5"#)).await.begun().all().await;
    let (text, reason, tokens, _) = outcome(&frames);
    assert_eq!((text.len(), reason.as_str(), tokens), (9, "stop", 5), "one that sends tokens in parts");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_reasoning_and_refusals_come_through_in_both_modes() {
    let (_gateway, upstream, _provider, mut tunnel) = joined(Reply::Parts(usual())).await;
    let delta = |delta: serde_json::Value| json!({"choices": [{"index": 0, "delta": delta}]});
    let details = json!({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 20, "completion_tokens_details": {"reasoning_tokens": 7}}});
    upstream.answer_with(Reply::Parts(events(&[
        delta(json!({"role": "assistant", "content": null, "reasoning": "so ", "reasoning_content": "so "})),
        delta(json!({"reasoning_content": "be it"})),
        delta(json!({"content": "I ask.", "refusal": null})),
        delta(json!({"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}]})),
        delta(json!({"tool_calls": [{"index": 0, "function": {"arguments": "{\"x\": 1}"}}]})),
        delta(json!({"tool_calls": [{"function": {"name": "g", "arguments": {"y": 2}}}]})),
        delta(json!({"refusal": "not h"})),
        finish("stop"),
        details,
    ])));
    let tools = r#","tools":[{"type":"function","function":{"name":"f"}},{"type":"function","function":{"name":"g"}}]"#;
    let whole = tunnel.ask(&request("hi", tools)).await.begun().all().await;
    let completion: serde_json::Value = serde_json::from_slice(&[&client_bytes(&whole)[..], b"}"].concat()).unwrap();
    let message = &completion["choices"][0]["message"];
    assert_eq!((&message["content"], &message["reasoning"]), (&json!("I ask."), &json!("so be it")));
    assert_eq!((&message["reasoning_content"], &message["refusal"]), (&json!("so be it"), &json!("not h")));
    let made = message["tool_calls"][1]["id"].as_str().unwrap().to_owned();
    assert!(made.starts_with("call_"), "{made}");
    let call = |id: &str, name: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    assert_eq!(message["tool_calls"], json!([call("a", "f", "{\"x\": 1}"), call(&made, "g", "{\"y\":2}")]));
    assert_eq!(completion["choices"][0]["finish_reason"], "tool_calls");
    let end = of_kind(&whole, FrameKind::End)[0];
    assert_eq!((AnswerEnd::from_bytes(&end.payload).reasoning_tokens, end.tokens), (7, 20));

    let frames = tunnel.ask(&request("hi", &format!("{tools},\"stream\":true"))).await.begun().all().await;
    let deltas: Vec<_> =
        chunks(&client_bytes(&frames)).into_iter().map(|mut chunk| chunk.choices.remove(0).delta).collect();
    assert_eq!((deltas[0].role.as_deref(), deltas[0].content.as_deref()), (Some("assistant"), None));
    let reasoning: String = deltas.iter().filter_map(|delta| delta.reasoning.clone()).collect();
    let refusal: String = deltas.iter().filter_map(|delta| delta.refusal.clone()).collect();
    assert_eq!((reasoning.as_str(), refusal.as_str()), ("so be it", "not h"));
    let calls: Vec<_> = deltas.iter().filter_map(|delta| delta.tool_calls.clone()).flatten().collect();
    let heads: Vec<_> = calls.iter().filter_map(|call| Some((call.index, call.function.name.clone()?))).collect();
    assert_eq!(heads, [(0, "f".to_owned()), (1, "g".to_owned())]);
    assert!(calls.iter().all(|call| call.id.is_some() == call.function.name.is_some()), "{calls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_told_apart() {
    let (_gateway, upstream, provider, mut tunnel) = joined(Reply::Parts(usual())).await;
    for (status, body, expected) in [
        (
            400,
            r#"{"error":{"message":"maximum context length is 9","param":"messages"}}"#,
            (400, "context_length_exceeded"),
        ),
        (422, r#"{"detail":"no"}"#, (400, "invalid_value")),
        (401, r#"{"error":"key"}"#, (500, "internal_error")),
        (404, "", (500, "internal_error")),
        (429, "", (503, "provider_busy")),
        (503, "<html>", (503, "provider_busy")),
        (500, r#"{"error":{"message":"cannot render 'a-secret'","type":"oom"}}"#, (500, "internal_error")),
        (502, "no answer to a-secret", (500, "internal_error")),
    ] {
        upstream.answer_with(Reply::Refusal(status, body));
        let (status_told, code) = tunnel.ask(&streamed("hi")).await.refused();
        assert_eq!((status_told, code.as_str()), expected, "{status} {body}");
    }
    let log = provider.log();
    assert!(log.contains("500 Internal Server Error, oom") && !log.contains("a-secret"), "{log}");
    let unsupported = tunnel.ask(&request("hi", r#","seed":1"#)).await.refused();
    assert_eq!(unsupported, (400, "unsupported_parameter".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_streams_nothing_is_streamed_for() {
    let call = |name: &str| json!({"id": name, "type": "function", "function": {"name": name, "arguments": "{}"}});
    let document = |message: serde_json::Value, reason: &str| {
        let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": reason});
        json!({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage(11, 4)["usage"]})
    };
    let spoken = document(json!({"role": "assistant", "content": "Padi masuk lumbung.", "tool_calls": null}), "stop");
    let (_gateway, upstream, _provider, mut tunnel) = joined(Reply::Document(spoken)).await;
    let prompt = Some(PromptCount { prompt_tokens: 11, cached_tokens: 2 });
    for body in [streamed("hi"), request("hi", "")] {
        let frames = tunnel.ask(&body).await.begun().all().await;
        let end = of_kind(&frames, FrameKind::End).remove(0);
        assert_eq!((end.tokens, AnswerEnd::from_bytes(&end.payload).finish_reason.as_str()), (4, "stop"));
        let told =
            of_kind(&frames, FrameKind::Prompt).first().and_then(|frame| PromptCount::from_bytes(&frame.payload));
        assert_eq!(told, prompt);
        let text = String::from_utf8_lossy(&client_bytes(&frames)).into_owned();
        assert!(text.contains("Padi masuk lumbung."), "{text}");
    }
    upstream
        .answer_with(Reply::Document(document(json!({"content": null, "tool_calls": [call("f"), call("g")]}), "stop")));
    let frames = tunnel.ask(&streamed("hi")).await.begun().all().await;
    let end = of_kind(&frames, FrameKind::End).remove(0);
    assert_eq!(AnswerEnd::from_bytes(&end.payload).finish_reason, "tool_calls");
    for broken in [json!({"error": {"message": "x"}}), json!({}), json!([])] {
        upstream.answer_with(Reply::Document(broken));
        let frames = tunnel.ask(&streamed("hi")).await.begun().all().await;
        assert!(frames.iter().any(|frame| frame.kind == FrameKind::Error));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_its_time_for_a_document_is_vouched_for() {
    let choice = json!({"index": 0, "message": {"role": "assistant", "content": "Padi."}, "finish_reason": "stop"});
    let document = json!({"object": "chat.completion", "choices": [choice], "usage": usage(11, 4)["usage"]});
    let gateway = TestGateway::start().await;
    let upstream = Upstream::start(Reply::Document(document)).await;
    let provider = sidecar(&gateway.url(), &upstream.url()).with("--upstream-supports", "max_tokens,input").start();
    let mut tunnel = gateway.tunnel().await;
    tunnel.ask(&streamed("hi")).await.begun().all().await; // by which it is known for what it is
    upstream.take(Duration::from_millis(3500));
    for (endpoint, body) in [
        (Endpoint::Chat, streamed("hi")),
        (Endpoint::Embeddings, r#"{"model":"test/model","input":["a","b"]}"#.to_owned()),
    ] {
        tunnel.endpoint = endpoint;
        let frames = tunnel.ask(&body).await.begun().all().await;
        let said = frames.iter().filter(|frame| frame.kind == FrameKind::Progress && frame.tokens == 0).count();
        assert!((1..6).contains(&said), "{endpoint:?}: {said}");
        assert_eq!(of_kind(&frames, FrameKind::End).len(), 1, "{endpoint:?}");
    }
    tunnel.endpoint = Endpoint::Chat;
    upstream.answer_with(Reply::Refusal(400, r#"{"error":{"message":"no a-secret","param":"stop"}}"#));
    let frames = tunnel.ask(&request("hi", "")).await.begun().all().await;
    let error: serde_json::Value = serde_json::from_slice(&of_kind(&frames, FrameKind::Error)[0].payload).unwrap();
    assert_eq!((&error["param"], &error["type"]), (&json!("stop"), &json!("invalid_request_error")));
    assert!(!provider.log().contains("a-secret"), "{}", provider.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_is_a_failure() {
    let (_gateway, upstream, _provider, mut tunnel) = joined(Reply::Parts(usual())).await;
    let broken = [
        ("cut off", events(&[text("Padi")])),
        ("empty", vec![]),
        ("an error inside", events(&[text("Padi"), json!({"error": {"message": "out of memory"}})])),
        ("aborted", events(&[text("Padi"), finish("abort")])),
        ("no JSON", vec![b"data: Padi\n\n".to_vec()]),
        ("a choice too many", events(&[json!({"choices": [{"index": 3, "delta": {"content": "x"}}]})])),
    ];
    for (what, parts) in broken {
        upstream.answer_with(Reply::Parts(parts));
        let frames = tunnel.ask(&streamed("hi")).await.begun().all().await;
        let kinds: Vec<FrameKind> = frames.iter().rev().take(2).map(|frame| frame.kind).collect();
        assert_eq!(kinds, [FrameKind::Receipt, FrameKind::Error], "{what}");
        let error = std::str::from_utf8(&frames[frames.len() - 2].payload).unwrap();
        assert!(!error.contains("memory"), "the server's own words stay here: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_cancels_the_servers_answer() {
    let (_gateway, upstream, _provider, mut tunnel) =
        joined(Reply::PartsThenSilence(events(&[text("Padi"), text(" masuk")]))).await;
    let mut stream = tunnel.ask(&streamed("hi")).await.begun();
    while stream.next().await.unwrap().tokens < 2 {}
    assert_eq!(upstream.cancelled(), 0);
    drop(stream);
    eventually("the server's answer is dropped", async || (upstream.cancelled() == 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_is_a_failure() {
    let gateway = TestGateway::start().await;
    let _provider = sidecar(&gateway.url(), "http://127.0.0.1:9/v1").start();
    let mut tunnel = gateway.tunnel().await;
    assert_eq!(tunnel.ask(&streamed("hi")).await.refused(), (500, "internal_error".into()));
}
