//! The least that can answer a chat, for nginx to stand in front of: the answers of the scripted provider, byte for byte
//! about as long, and at the same pace.

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

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Tokens of a streamed answer.
pub const ANSWER_TOKENS: u32 = 200;
/// From token to token.
pub const MS_PER_TOKEN: u32 = 20;

const COMPLETION: &str = r#"{"id":"chatcmpl-01K00000000000000000000000","object":"chat.completion","created":1700000000,"model":"lumbung/scripted","choices":[{"index":0,"message":{"role":"assistant","content":"Here is a word: padi.","refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":12,"completion_tokens":5,"total_tokens":17,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}"#;

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
    let body = request.into_body().collect().await?.to_bytes();
    let is_streamed = memchr::memmem::find(&body, br#""stream":true"#).is_some();
    let (kind, body) = match is_streamed {
        true => ("text/event-stream", Either::Left(StreamBody::new(stream()))),
        false => ("application/json", Either::Right(Full::from(COMPLETION))),
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    Ok(response)
}

fn stream() -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> {
    let (sender, receiver) = mpsc::channel(32);
    tokio::spawn(async move {
        let mut pace = interval(Duration::from_millis(MS_PER_TOKEN.into()));
        pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let role = chunk(
            r#"[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]"#,
            "null",
        );
        let piece = chunk(r#"[{"index":0,"delta":{"content":" padi"},"logprobs":null,"finish_reason":null}]"#, "null");
        let end = chunk(r#"[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]"#, "null");
        let usage = chunk("[]", r#"{"prompt_tokens":12,"completion_tokens":200,"total_tokens":212}"#);
        let tail = Bytes::from([usage, "data: [DONE]\n\n".into()].concat());
        let pieces = std::iter::repeat_n(Bytes::from(piece), ANSWER_TOKENS as usize);
        for event in [role.into()].into_iter().chain(pieces).chain([end.into(), tail]) {
            pace.tick().await;
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
