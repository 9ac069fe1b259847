//! The least that can answer a chat, for other servers to stand in front of: the answers of the scripted provider, byte for
//! byte about as long, and at the same pace.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use futures_util::stream::{Stream, unfold};
use http_body_util::{BodyExt, Either, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use crate::network::STORY;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Tokens of a streamed answer.
pub const ANSWER_TOKENS: u32 = 200;
/// From token to token.
pub const MS_PER_TOKEN: u32 = 20;

/// Tokens of a streamed answer that comes at once.
const QUICK_TOKENS: u32 = 5;

const COMPLETION: &str = r#"{"id":"chatcmpl-01K00000000000000000000000","object":"chat.completion","created":1700000000,"model":"lumbung/scripted","choices":[{"index":0,"message":{"role":"assistant","content":"Here is a word: padi.","refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":12,"completion_tokens":5,"total_tokens":17,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}"#;
const MODELS: &str = r#"{"object":"list","data":[{"id":"lumbung/scripted","object":"model","created":1700000000,"owned_by":"lumbung","max_model_len":8192}]}"#;

/// Where to listen.
#[derive(Args, Clone, Debug)]
pub struct UpstreamArgs {
    /// Address and port.
    #[arg(long)]
    listen: SocketAddr,
}

/// Answers at the address that is asked for, until the process ends.
pub async fn run(args: &UpstreamArgs) -> anyhow::Result<()> {
    serve(TcpListener::bind(args.listen).await?).await
}

/// Answers until the process ends.
pub async fn serve(listener: TcpListener) -> anyhow::Result<()> {
    loop {
        let (connection, _) = listener.accept().await?;
        connection.set_nodelay(true)?;
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(connection), service_fn(answer)));
    }
}

async fn answer(
    request: Request<Incoming>,
) -> Result<Response<impl Body<Data = Bytes, Error = BoxError>>, hyper::Error> {
    let kind = match request.uri().path() {
        path if path.ends_with("/models") => Kind::Models,
        path if path.ends_with("/traces") => Kind::Traces,
        _ => Kind::Chat,
    };
    let body = request.into_body().collect().await?.to_bytes();
    let has = |part: &str| memchr::memmem::find(&body, part.as_bytes()).is_some();
    // Routers write what they have read anew, with or without a space.
    let is_streamed = has(r#""stream":true"#) || has(r#""stream": true"#);
    let (content_type, body) = match kind {
        Kind::Models => ("application/json", Either::Right(Full::from(MODELS))),
        Kind::Traces => ("application/x-protobuf", Either::Right(Full::default())),
        Kind::Chat if is_streamed => ("text/event-stream", Either::Left(StreamBody::new(stream(has(STORY.trim()))))),
        Kind::Chat => ("application/json", Either::Right(Full::from(COMPLETION))),
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    Ok(response)
}

/// What is asked for; whoever asks after its health gets an answer, too.
enum Kind {
    Models,
    /// Spans of a gateway, which are thrown away.
    Traces,
    Chat,
}

/// The long answer at its pace, or the short one at once.
fn stream(is_long: bool) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> {
    let (sender, receiver) = mpsc::channel(32);
    tokio::spawn(async move {
        let mut pace = interval(Duration::from_millis(MS_PER_TOKEN.into()));
        pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let tokens = if is_long { ANSWER_TOKENS } else { QUICK_TOKENS };
        let role = chunk(
            r#"[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]"#,
            "null",
        );
        // Not always the same: some take that for a model that has lost its way.
        let pieces = [" padi", " sawi"].map(|word| {
            let choices = r#"[{"index":0,"delta":{"content":"WORD"},"logprobs":null,"finish_reason":null}]"#;
            Bytes::from(chunk(&choices.replace("WORD", word), "null"))
        });
        let end = chunk(r#"[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]"#, "null");
        let used = format!(r#"{{"prompt_tokens":12,"completion_tokens":{tokens},"total_tokens":{}}}"#, 12 + tokens);
        let tail = Bytes::from([chunk("[]", &used), "data: [DONE]\n\n".into()].concat());
        let pieces = pieces.into_iter().cycle().take(tokens as usize);
        for event in [role.into()].into_iter().chain(pieces).chain([end.into(), tail]) {
            if is_long {
                pace.tick().await;
            }
            if sender.send(event).await.is_err() {
                return; // the client has gone
            }
        }
    });
    unfold(receiver, async |mut receiver| Some((Ok(Frame::data(receiver.recv().await?)), receiver)))
}

fn chunk(choices: &str, usage: &str) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-01K00000000000000000000000\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\
         \"model\":\"lumbung/scripted\",\"choices\":{choices},\"usage\":{usage}}}\n\n"
    )
}
