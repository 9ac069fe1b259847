//! Jobs: answers streamed and whole, refusals, failures, cancellation.

use std::time::Duration;

use bytes::BytesMut;
use lumbung_openapi::frame::{self, Frame, FrameKind, PromptCount};
use lumbung_openapi::merkle::Hash;
use lumbung_openapi::receipt::{Receipt, ReceiptClaims};
use lumbung_openapi::reply::ChatCompletion;
use serde_json::Value;

use super::support::gateway::{TestGateway, now};
use super::support::provider::scripted;
use super::support::tunnel::{client_bytes, sign, usd, with};
use super::{SCRIPT, chunks, claims_of, joined, of_kind, request, streamed, text_of};

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_joins_for_this_gateway_and_says_what_it_offers() {
    let gateway = TestGateway::start().await;
    let provider = scripted(&gateway.url(), SCRIPT)
        .with("--slots", "2")
        .with("--region", "id-java")
        .with("--ask-prompt", "0.07")
        .with("--ask-completion", "1.5")
        .start();
    let mut tunnel = gateway.tunnel().await;
    let (id, claims) = gateway.state.joins.lock().unwrap()[0].clone();
    assert_eq!(claims.aud, gateway.url(), "the origin as it was dialled");
    assert_eq!(claims.challenge, "sign-me");
    assert!(claims.agent.starts_with("lumbung-provider/"), "{}", claims.agent);

    let status = provider.status_when("connected", |status| status["connected"][0] == "replica-1").await;
    assert_eq!(status["provider"], *id, "the key's thumbprint");

    let offer = tunnel.offer().await;
    assert_eq!((offer.draining, offer.region.as_str()), (false, "id-java"));
    assert!(!offer.hardware.is_empty());
    let model = &offer.models[0];
    assert_eq!((model.model.as_str(), model.slots, model.context_length), ("test/model", 2, 4096));
    assert_eq!((model.weights_digest.as_str(), model.quantization.as_str()), ("sha256:abc", "int4"));
    assert_eq!((model.ask.prompt, model.ask.completion), (usd("0.07"), usd("1.5")));
    assert!(model.supported_parameters.contains(&"stop".to_owned()));
    assert!(!model.supported_parameters.contains(&"logprobs".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_answer_comes_in_frames_with_its_receipt() {
    let (gateway, provider, mut tunnel) = joined().await;
    let request = request("a secret question", r#","stream":true,"stream_options":{"include_usage":true}"#);
    let ticket = sign(&tunnel.ticket(&request));
    let mut stream = tunnel.send(&ticket, &request).await.begun();
    let frames = stream.all().await;

    let prompt = PromptCount::from_bytes(&of_kind(&frames, FrameKind::Prompt)[0].payload).unwrap();
    assert_eq!(prompt, PromptCount { prompt_tokens: 9, cached_tokens: 4 });
    let ids: Vec<u8> = frames.iter().flat_map(|frame| frame.ids.to_vec()).collect();
    assert_eq!(ids, (0..3u32).flat_map(u32::to_be_bytes).collect::<Vec<u8>>());
    let counts: Vec<u32> = frames.iter().map(|frame| frame.tokens).collect();
    assert!(counts.is_sorted() && *counts.last().unwrap() == 3, "{counts:?}");

    let bytes = client_bytes(&frames);
    let events = chunks(&bytes);
    assert_eq!(text_of(&events), "Padi masuk lumbung.");
    assert_eq!(events[0].choices[0].delta.role.as_deref(), Some("assistant"));
    assert!(events.iter().all(|event| event.id == "chatcmpl-1" && event.model == "test/model"));
    assert_eq!(std::str::from_utf8(&bytes).unwrap().matches("\"usage\":null").count(), events.len());
    assert_eq!(events.last().unwrap().choices[0].finish_reason.as_deref(), Some("stop"));

    let [.., end, receipt] = frames.as_slice() else { panic!("{frames:?}") };
    assert_eq!((end.kind, &end.payload[..], end.tokens), (FrameKind::End, &b"stop"[..], 3));
    assert_eq!(receipt.kind, FrameKind::Receipt);
    let claims: ReceiptClaims = serde_json::from_slice(&receipt.payload).unwrap();
    assert_eq!((claims.prompt_tokens, claims.cached_tokens, claims.completion_tokens), (9, 4, 3));
    assert_eq!((claims.weights_digest.as_str(), claims.delivered_sha256), ("sha256:abc", Hash::of(&bytes)));

    let offered = gateway.receipts_of(1).await.remove(0);
    let claims = String::from_utf8(receipt.payload.to_vec()).unwrap();
    assert_eq!(offered, Receipt { ticket, claims, voucher: None });
    let status =
        provider.status_when("acknowledged", |s| s["receipts_unacknowledged"] == 0 && s["jobs"]["finished"] == 1);
    assert_eq!(status.await["completion_tokens"], 3);
    let log = provider.log();
    assert!(log.contains("job_1") && !log.contains("secret") && !log.contains("lumbung."), "ids only: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_comes_as_one_body_after_its_progress() {
    let (_gateway, _provider, mut tunnel) = joined().await;
    let mut stream = tunnel.ask(&request("briefly", r#","max_tokens":40"#)).await.begun();
    let frames = stream.all().await;
    let progress = of_kind(&frames, FrameKind::Progress);
    assert!((8..=30).contains(&progress.len()), "40 tokens in 0.8 s, every 50 ms: {}", progress.len());
    assert!(progress.iter().all(|frame| frame.payload.is_empty()));
    let ids: Vec<u8> = progress.iter().flat_map(|frame| frame.ids.to_vec()).collect();
    assert_eq!(ids, (0..40u32).flat_map(u32::to_be_bytes).collect::<Vec<u8>>());

    let bodies = of_kind(&frames, FrameKind::Body);
    assert_eq!(bodies.len(), 1);
    let whole = [&bodies[0].payload[..], br#","usage":null}"#].concat();
    let completion: ChatCompletion = serde_json::from_slice(&whole).unwrap();
    assert_eq!(completion.choices[0].message.content.as_deref(), Some(&*" padi".repeat(40)));
    assert_eq!(completion.choices[0].finish_reason, "length");
    let end = of_kind(&frames, FrameKind::End)[0];
    assert_eq!((&end.payload[..], end.tokens), (&b"length"[..], 40));
    let claims: ReceiptClaims = serde_json::from_slice(&frames.last().unwrap().payload).unwrap();
    assert_eq!(claims.delivered_sha256, Hash::of(&bodies[0].payload));
}

#[tokio::test(flavor = "multi_thread")]
async fn when_every_slot_is_taken_the_next_job_is_refused_at_once() {
    let (_gateway, provider, mut tunnel) = joined().await;
    let _first = tunnel.ask(&streamed("slowly")).await.begun();
    let second = tunnel.ask(&streamed("slowly")).await.begun();
    // At once: the others run for minutes.
    let refused = tokio::time::timeout(Duration::from_secs(5), tunnel.ask(&streamed("hello"))).await.unwrap();
    assert_eq!(refused.refused(), (503, "provider_busy".into()));
    let is_full = |status: &Value| status["models"]["test/model"]["running"] == 2 && status["jobs"]["refused"] == 1;
    provider.status_when("two run and one was refused", is_full).await;
    drop(second);
    provider.status_when("a slot is free again", |status| status["models"]["test/model"]["running"] == 1).await;
    tunnel.ask(&streamed("hello")).await.begun().all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_does_not_fit_is_refused() {
    let (_gateway, provider, mut tunnel) = joined().await;
    let request = streamed("hello");
    let good = tunnel.ticket(&request);
    let bad = [
        ("another provider's", with(&good, |t| t.provider = "someone".into())),
        ("another model's", with(&good, |t| t.model = "other/model".into())),
        ("other weights", with(&good, |t| t.digests = vec!["sha256:def".into()])),
        ("a lower prompt price", with(&good, |t| t.price.prompt = usd("0.049"))),
        ("a lower completion price", with(&good, |t| t.price.completion = usd("0.099"))),
        ("too late", with(&good, |t| t.start_by = now() - 10)),
        ("another request's", with(&good, |t| t.request_sha256 = Hash::of(b"else"))),
        ("an endless continuation", with(&good, |t| t.first_token = u32::MAX)),
    ];
    for (what, ticket) in bad {
        assert_eq!(tunnel.send(&sign(&ticket), &request).await.refused(), (400, "bad_ticket".into()), "{what}");
    }
    assert_eq!(tunnel.send("no jws", &request).await.refused(), (400, "bad_ticket".into()));
    let mut backwards = BytesMut::new();
    frame::encode(&mut backwards, FrameKind::Request, 0, 0, &[], request.as_bytes());
    frame::encode(&mut backwards, FrameKind::Ticket, 0, 0, &[], sign(&good).as_bytes());
    assert_eq!(tunnel.send_frames(backwards.freeze()).await.refused(), (400, "bad_ticket".into()));
    assert_eq!(tunnel.send_frames((&[99; 40][..]).into()).await.refused(), (400, "bad_ticket".into()));

    let fits = with(&good, |t| {
        t.digests = vec!["sha256:def".into(), "sha256:abc".into()];
        t.price.completion = usd("0.11");
    });
    tunnel.send(&sign(&fits), &request).await.begun().all().await;
    let status = provider.status_when("counted", |status| status["jobs"]["finished"] == 1).await;
    assert_eq!((&status["jobs"]["started"], &status["jobs"]["refused"]), (&1.into(), &11.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_at_fault_is_refused_and_so_is_an_engine_that_fails() {
    let (_gateway, _provider, mut tunnel) = joined().await;
    let bad = request("hello", r#","temperature":5"#);
    assert_eq!(tunnel.ask(&bad).await.refused(), (400, "invalid_value".into()));
    let unsupported = request("hello", r#","logprobs":true"#);
    assert_eq!(tunnel.ask(&unsupported).await.refused(), (400, "unsupported_parameter".into()));
    assert_eq!(tunnel.ask(&streamed("break")).await.refused(), (500, "internal_error".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_on_the_way_ends_with_an_error_and_a_receipt_for_what_was_sent() {
    let (gateway, provider, mut tunnel) = joined().await;
    for request in [streamed("fail"), request("fail", "")] {
        let frames = tunnel.ask(&request).await.begun().all().await;
        let [.., error, receipt] = frames.as_slice() else { panic!("{frames:?}") };
        assert_eq!((error.kind, receipt.kind), (FrameKind::Error, FrameKind::Receipt));
        let text = std::str::from_utf8(&error.payload).unwrap();
        assert!(text.contains("internal_error") && !text.contains("script"), "{text}");
        assert!(of_kind(&frames, FrameKind::Body).is_empty() && of_kind(&frames, FrameKind::End).is_empty());
        let claims: ReceiptClaims = serde_json::from_slice(&receipt.payload).unwrap();
        assert_eq!((claims.completion_tokens, claims.prompt_tokens), (3, 9));
        assert_eq!(claims.delivered_sha256, Hash::of(&client_bytes(&frames)));
    }
    assert_eq!(gateway.receipts_of(2).await.len(), 2);
    provider.status_when("counted", |status| status["jobs"]["failed"] == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_answer_stops_the_engine_and_keeps_its_receipt() {
    let (gateway, provider, mut tunnel) = joined().await;
    let mut stream = tunnel.ask(&streamed("slowly")).await.begun();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|frame: &Frame| frame.tokens < 20) {
        seen.push(stream.next().await.unwrap());
    }
    drop(stream);
    let status = provider.status_when("cancelled", |status| status["jobs"]["cancelled"] == 1).await;
    let made = status["completion_tokens"].as_u64().unwrap();
    assert!((20..200).contains(&made), "{made}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(provider.status().unwrap()["completion_tokens"], made, "100 tokens would have been made since");

    let claims = claims_of(&gateway.receipts_of(1).await[0]);
    assert!((20..=made).contains(&claims.completion_tokens.into()), "{claims:?}");
    assert_eq!(claims.prompt_tokens, 9);

    let frozen = tunnel.ask(&streamed("freeze")).await.begun();
    provider.status_when("runs", |status| status["models"]["test/model"]["running"] == 1).await;
    drop(frozen);
    provider.status_when("a frozen one ends too", |status| status["models"]["test/model"]["running"] == 0).await;
}
