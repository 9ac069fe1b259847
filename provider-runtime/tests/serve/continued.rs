//! Answers that another provider began: the client's bytes go on where that one was cut off.

use bytes::BytesMut;
use lumbung_openapi::endpoint::Endpoint;
use lumbung_openapi::frame::{self, Frame, FrameKind};
use lumbung_openapi::merkle::Hash;
use lumbung_openapi::receipt::ReceiptClaims;

use super::support::tunnel::{Answered, Tunnel, client_bytes, sign, with};
use super::{joined, of_kind, request, streamed};

/// History frames for what these frames have delivered, and how many tokens that is.
fn delivered(frames: &[Frame], choices: u8) -> (BytesMut, u32) {
    let (mut out, mut total) = (BytesMut::new(), 0);
    for choice in 0..choices {
        let of: Vec<&Frame> = frames.iter().filter(|frame| frame.choice == choice).collect();
        let ids: Vec<u32> = of.iter().flat_map(|frame| frame.token_ids()).collect();
        if !ids.is_empty() {
            total += ids.len() as u32;
            let finished = of.iter().any(|frame| frame.kind == FrameKind::Finish);
            frame::encode(
                &mut out,
                FrameKind::History,
                choice,
                total,
                &ids,
                if finished { frame::FINISHED } else { b"" },
            );
        }
    }
    (out, total)
}

async fn resume(tunnel: &mut Tunnel, request: &str, history: &[u8], tokens: u32) -> Answered {
    let ticket = with(&tunnel.ticket(request), |ticket| {
        (ticket.attempt, ticket.first_token) = (2, tokens);
        ticket.max_completion_tokens -= tokens;
        ticket.max_prompt_tokens = 0;
    });
    let mut first = BytesMut::new();
    frame::encode(&mut first, FrameKind::Ticket, 0, 0, &[], sign(&ticket).as_bytes());
    frame::encode(&mut first, FrameKind::Request, 0, 0, &[], request.as_bytes());
    first.extend_from_slice(history);
    tunnel.send_frames(first.freeze()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_byte_for_byte_wherever_it_was_cut() {
    let (_gateway, _provider, mut tunnel) = joined().await;
    let request = request("briefly", r#","stream":true,"max_tokens":6"#);
    let whole = tunnel.ask(&request).await.begun().all().await;
    let cuts = whole.iter().filter(|frame| frame.kind.is_for_client()).count();
    assert!(cuts >= 6, "token by token: {cuts} frames");
    for cut in 1..=whole.len() {
        let (before, _) = whole.split_at(cut);
        let (history, tokens) = delivered(before, 1);
        if tokens == 0 {
            continue; // nothing that could be continued
        }
        let after = resume(&mut tunnel, &request, &history, tokens).await.begun().all().await;
        assert_eq!(
            [client_bytes(before), client_bytes(&after)].concat(),
            client_bytes(&whole),
            "cut after {cut} frames"
        );
        let end = of_kind(&after, FrameKind::End)[0];
        assert_eq!((end.tokens, &*end.payload), (6 - tokens, &b"length"[..]), "it counts what it made itself");
        let claims: ReceiptClaims = serde_json::from_slice(&after.last().unwrap().payload).unwrap();
        assert_eq!((claims.completion_tokens, claims.prompt_tokens), (6 - tokens, 9));
        assert_eq!(claims.delivered_sha256, Hash::of(&client_bytes(&after)), "its own bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_was_delivered_is_not_told_again() {
    let (_gateway, provider, mut tunnel) = joined().await;
    let request = request("briefly", r#","stream":true,"max_tokens":4,"n":2"#);
    let whole = tunnel.ask(&request).await.begun().all().await;
    let ends = of_kind(&whole, FrameKind::Finish);
    assert_eq!(ends.iter().map(|frame| frame.choice).collect::<Vec<_>>(), [0, 1]);
    let first_end = whole.iter().position(|frame| frame.kind == FrameKind::Finish).unwrap();
    let (before, after) = whole.split_at(first_end + 1);
    let (history, tokens) = delivered(before, 2);
    let resumed = resume(&mut tunnel, &request, &history, tokens).await.begun().all().await;
    assert_eq!(client_bytes(&resumed), client_bytes(after));
    provider.status_when("only what is new was made", |status| status["completion_tokens"] == 8 + (8 - tokens)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_answers_are_continued_as_prompts_may_have() {
    let (_gateway, _provider, mut tunnel) = joined().await;
    tunnel.endpoint = Endpoint::Completions;
    let prompts = vec!["\"briefly\""; 20].join(",");
    let request = format!(r#"{{"model":"test/model","prompt":[{prompts}],"stream":true,"max_tokens":3}}"#);
    let whole = tunnel.ask(&request).await.begun().all().await;
    let last = whole.iter().position(|frame| frame.choice == 19 && !frame.ids.is_empty()).unwrap();
    let (before, after) = whole.split_at(last + 1);
    let (history, tokens) = delivered(before, 20);
    let resumed = resume(&mut tunnel, &request, &history, tokens).await.begun().all().await;
    assert_eq!(client_bytes(&resumed), client_bytes(after));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_is_whole_whoever_began_it() {
    let (_gateway, _provider, mut tunnel) = joined().await;
    let request = request("briefly", r#","max_tokens":20"#);
    let whole = tunnel.ask(&request).await.begun().all().await;
    let first_progress = whole.iter().position(|frame| frame.kind == FrameKind::Progress && frame.tokens > 3).unwrap();
    let (history, tokens) = delivered(&whole[..=first_progress], 1);
    let resumed = resume(&mut tunnel, &request, &history, tokens).await.begun().all().await;
    assert_eq!(of_kind(&resumed, FrameKind::Body)[0].payload, of_kind(&whole, FrameKind::Body)[0].payload);
    assert_eq!(of_kind(&resumed, FrameKind::End)[0].tokens, 20 - tokens);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_delivered_so_is_refused() {
    let (_gateway, _provider, mut tunnel) = joined().await;
    let request = streamed("hello");
    let history = |choice, tokens, ids: &[u32]| {
        let mut out = BytesMut::new();
        frame::encode(&mut out, FrameKind::History, choice, tokens, ids, b"");
        out
    };
    let bad = [
        ("more than the ticket says", history(0, 2, &[0, 1]), 1),
        ("a wrong count", history(0, 2, &[0]), 1),
        ("no tokens", history(0, 0, &[]), 1),
        ("a choice that nobody asked for", history(1, 1, &[0]), 1),
        ("a choice that nobody can have asked for", history(200, 1, &[0]), 1),
    ];
    for (what, history, tokens) in bad {
        let refused = resume(&mut tunnel, &request, &history, tokens).await.refused();
        assert_eq!(refused, (400, "bad_ticket".into()), "{what}");
    }
    let another = resume(&mut tunnel, &request, &history(0, 1, &[9]), 1).await.refused();
    assert_eq!(another, (500, "internal_error".into()), "the engine does not go on from what it would not have said");
}
