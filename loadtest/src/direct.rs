//! A provider asked without anybody between: how much of an answer's time is its own, and not the gateway's in front of it.
//!
//! This process is the least gateway ([`crate::door`]). A job goes down the tunnel as the gateway sends it, one at a time,
//! and the last voucher follows its answer, so that the provider does the same work. Nothing that the gateway does for a
//! request is timed: a job is signed before its time begins; its answer is checked, and vouched for, after that has ended.
//! What is timed at this end, a write and a wake-up on the one thread of the load, is what it takes at the end of any other
//! load, too, but for HTTP/2 and frames in the place of HTTP/1.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::{Bytes, BytesMut};
use clap::Args;
use h2::RecvStream;
use h2::client::SendRequest;
use hyper::header::HeaderValue;
use hyper::{Method, Request, StatusCode};
use lumbung_link::{Patience, gather};
use lumbung_openapi::endpoint::Endpoint;
use lumbung_openapi::frame::{self, Frame, FrameKind, FrameReader};
use lumbung_openapi::jws::HmacKey;
use lumbung_openapi::merkle::Hash;
use lumbung_openapi::money::TokenPrice;
use lumbung_openapi::provider::{OFFER_PATH, Offer, REPLICAS_HEADER};
use lumbung_openapi::ticket::{TICKET_TYP, Ticket};
use lumbung_openapi::voucher::{VOUCHER_TYP, Voucher};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::answered::check;
use crate::ask::{Ask, Wording};
use crate::door::Door;
use crate::network::{MODEL, Network, Setup};
use crate::report::Latency;
use crate::stub::now_secs;
use crate::tally::histogram;

/// What this gateway is called.
pub const REPLICA: &str = "replica_01K00000000000000000000000";
/// The gateway's own settings of a tunnel (`gateway/src/fleet/tunnel.rs`).
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 30;
/// What signs tickets and vouchers. A provider hands them back and cannot verify them.
const SECRET: [u8; 32] = [7; 32];
/// Seconds that a ticket is good for, until the answer begins and until its receipt comes.
const START_WITHIN: u64 = 60;
const CLAIM_WITHIN: u64 = 600;
/// From an answer to the next job. Behind a gateway its way to the client and the next request's way back lie between, and
/// the provider has dealt with the last voucher by then.
const PAUSE: Duration = Duration::from_micros(200);
/// A provider keeps 50,000 receipts that it could not hand over yet, and hands over a thousand a second.
const MOST_ANSWERS: u64 = 40_000;
/// How long a provider may take to join, and to say anything.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How long to ask a provider directly.
#[derive(Args, Clone, Debug)]
pub struct DirectArgs {
    /// How long each kind of answer counts.
    #[arg(long, default_value_t = 8.0)]
    seconds: f64,
    /// Folder of the binaries; this program's own by default.
    #[arg(long)]
    bin: Option<PathBuf>,
}

/// The times of one kind of answer.
#[derive(Clone, Debug)]
pub struct Direct {
    /// Answers that were whole, warm-up included.
    pub answers: u64,
    /// From the job to the first token's frame; to the end of an answer that is not streamed.
    pub first_token_ms: Latency,
    /// From the job to the end of the answer.
    pub total_ms: Latency,
}

/// What is asked over one connection: an answer in one piece, and one that is streamed at once.
pub fn asks() -> [Ask; 2] {
    let wording = Wording { stream_cue: String::new(), ..Network::wording() };
    [wording.ask(false, 1024), wording.ask(true, 200)]
}

/// Measures and prints.
pub async fn run(args: &DirectArgs) -> anyhow::Result<()> {
    let setup = Setup::new(args.bin.as_deref())?;
    for (ask, kind) in asks().iter().zip(["in one piece", "streamed at once"]) {
        let length = Duration::try_from_secs_f64(args.seconds)?;
        let Direct { answers, first_token_ms, total_ms } = measure(&setup, ask, Duration::from_secs(2), length).await?;
        println!("{kind}: {answers} answers, all whole");
        for (what, times) in [("first token", first_token_ms), ("total", total_ms)] {
            println!("  {what:<12} p50 {:.0}  p99 {:.0} µs", times.p50 * 1000.0, times.p99 * 1000.0);
        }
    }
    Ok(())
}

/// Starts a provider with scripted answers, and asks it for so long. It ends with this, and its receipts with it: what it
/// would still have to offer would be in the way of the next load.
///
/// # Errors
/// The provider does not join, does not answer in time, or has given one answer that is not whole.
pub async fn measure(setup: &Setup, ask: &Ask, warm_up: Duration, length: Duration) -> anyhow::Result<Direct> {
    let (folder, mut door) = (tempfile::tempdir()?, Door::open().await?);
    let provider = setup.start_provider(&format!("http://127.0.0.1:{}", door.port()), folder.path(), "provider")?;
    let asked = async {
        let direct = time(&door.tunnel(TIMEOUT).await?, ask, warm_up, length).await?;
        door.receipts()?;
        anyhow::Ok(direct)
    };
    asked.await.with_context(|| format!("the provider asked directly; its log:\n{}", provider.log()))
}

/// One job after another: `warm_up` untimed, then `length`.
///
/// # Errors
/// As of [`measure`].
pub async fn time(tunnel: &Tunnel, ask: &Ask, warm_up: Duration, length: Duration) -> anyhow::Result<Direct> {
    let asked = tokio::time::timeout(warm_up + length + TIMEOUT, one_after_another(tunnel, ask, warm_up, length));
    asked.await.context("a job was not answered in time")?
}

async fn one_after_another(tunnel: &Tunnel, ask: &Ask, warm_up: Duration, length: Duration) -> anyhow::Result<Direct> {
    let price = tunnel.price().await?;
    let (mut first_token, mut total, mut answers) = (histogram()?, histogram()?, 0);
    let begun = Instant::now();
    // However slow the machine is, one answer is timed.
    while answers < MOST_ANSWERS && (total.is_empty() || begun.elapsed() < warm_up + length) {
        let is_timed = begun.elapsed() >= warm_up;
        let answer = tunnel.ask(&tunnel.job(answers, ask, price)).await?;
        check(&answer.frames, ask.streams).context("an answer is not whole")?;
        answers += 1;
        if is_timed {
            first_token.saturating_record(answer.first_token.unwrap_or(answer.total).as_micros() as u64);
            total.saturating_record(answer.total.as_micros() as u64);
        }
        // Timers are coarser than this.
        let answered = Instant::now();
        while answered.elapsed() < PAUSE {
            tokio::task::yield_now().await;
        }
    }
    ensure!(!total.is_empty(), "so many answers came before any was to be timed: {answers}");
    Ok(Direct { answers, first_token_ms: Latency::of(&first_token), total_ms: Latency::of(&total) })
}

/// The gateway's end of a tunnel.
pub struct Tunnel {
    sender: SendRequest<Bytes>,
    provider: String,
    key: HmacKey,
}

/// A job that is ready to be sent.
struct Job {
    ticket: Ticket,
    frames: Bytes,
}

/// An answer as it came.
struct Answer {
    frames: Vec<Frame>,
    first_token: Option<Duration>,
    total: Duration,
}

impl Tunnel {
    /// On a connection that a provider has dialled, and what drives it to its end.
    pub(crate) async fn open<IO>(
        io: IO,
        provider: String,
    ) -> anyhow::Result<(Self, impl Future<Output = Result<(), h2::Error>>)>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (io, writer) = gather(io, Patience::None);
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW).enable_push(false);
        let (sender, connection) = builder.handshake(io).await?;
        Ok((Self { sender, provider, key: HmacKey::from_secret(&SECRET) }, writer.drive(connection)))
    }

    /// What the provider asks for the model that is wanted.
    async fn price(&self) -> anyhow::Result<TokenPrice> {
        let mut request = request(Method::GET, OFFER_PATH)?;
        request.headers_mut().insert(REPLICAS_HEADER, HeaderValue::from_static("1"));
        let (response, _) = self.sender.clone().ready().await?.send_request(request, true)?;
        let mut body = response.await?.into_body();
        let mut offer = Vec::new();
        while let Some(part) = next(&mut body).await? {
            offer.extend_from_slice(&part);
        }
        let offer: Offer = serde_json::from_slice(&offer).context("that is no offer")?;
        let model = offer.models.iter().find(|offered| offered.model == MODEL);
        Ok(model.with_context(|| format!("the provider does not offer {MODEL}"))?.ask)
    }

    /// A job with this number, signed.
    fn job(&self, number: u64, ask: &Ask, price: TokenPrice) -> Job {
        let now = now_secs();
        let ticket = Ticket {
            replica: REPLICA.into(),
            allowance: "allow_01K00000000000000000000000".into(),
            job: format!("job_{number:026}"),
            attempt: 1,
            first_token: 0,
            provider: self.provider.clone(),
            model: MODEL.into(),
            digests: Vec::new(),
            price,
            fee_bps: 500,
            max_prompt_tokens: 8192,
            max_completion_tokens: 8192,
            whole: !ask.streams,
            ceiling: price.cost(8192, 8192).unwrap_or_default(),
            request_sha256: Hash::of(&ask.body),
            public_id: format!("chatcmpl-{number:026}"),
            public_model: MODEL.into(),
            created: now,
            start_by: now + START_WITHIN,
            claim_by: now + CLAIM_WITHIN,
        };
        let text = self.key.sign(TICKET_TYP, "hmac-1", &ticket);
        let mut frames = BytesMut::with_capacity(2 * frame::HEADER_LEN + text.len() + ask.body.len());
        frame::encode(&mut frames, FrameKind::Ticket, 0, 0, &[], text.as_bytes());
        frame::encode(&mut frames, FrameKind::Request, 0, 0, &[], &ask.body);
        Job { ticket, frames: frames.freeze() }
    }

    /// Sends a job, reads its answer to the end, and vouches for all of it.
    async fn ask(&self, job: &Job) -> anyhow::Result<Answer> {
        let mut sender = self.sender.clone().ready().await?;
        let request = request(Method::POST, Endpoint::Chat.path())?;
        let begun = Instant::now();
        let (response, mut send) = sender.send_request(request, false)?;
        send.send_data(job.frames.clone(), false)?;
        let response = response.await.context("no answer")?;
        let (status, mut body) = (response.status(), response.into_body());
        ensure!(status == StatusCode::OK, "the job was refused with status {status}");
        let (mut reader, mut frames, mut first_token) = (FrameReader::default(), Vec::new(), None);
        while let Some(part) = next(&mut body).await.context("the answer was cut")? {
            reader.push(part, |frame| frames.push(frame))?;
            let is_streamed = |frame: &Frame| matches!(frame.kind, FrameKind::Delta | FrameKind::Finish);
            if first_token.is_none() && frames.iter().any(|frame| is_streamed(frame) && frame.tokens > 0) {
                first_token = Some(begun.elapsed());
            }
        }
        let total = begun.elapsed();
        ensure!(!reader.is_mid_frame(), "the answer ends within a frame");

        let Ticket { job, attempt, ceiling, .. } = job.ticket.clone();
        let tokens = frames.last().map_or(0, |frame| frame.tokens);
        let voucher = self.key.sign(VOUCHER_TYP, "hmac-1", &Voucher { job, attempt, tokens, ceiling });
        let mut last = BytesMut::with_capacity(frame::HEADER_LEN + voucher.len());
        frame::encode(&mut last, FrameKind::Voucher, 0, tokens, &[], voucher.as_bytes());
        // A provider that does not wait for it has its own reasons.
        send.send_data(last.freeze(), true).ok();
        Ok(Answer { frames, first_token, total })
    }
}

fn request(method: Method, path: &str) -> anyhow::Result<Request<()>> {
    // h2 wants an absolute URI; the authority means nothing inside a tunnel.
    Ok(Request::builder().method(method).uri(format!("http://provider{path}")).body(())?)
}

/// The next part of a body. A reset with NO_ERROR only says that the provider will not read on.
async fn next(body: &mut RecvStream) -> anyhow::Result<Option<Bytes>> {
    let part = match body.data().await {
        Some(Err(error)) if error.reason() == Some(h2::Reason::NO_ERROR) => None,
        part => part.transpose()?,
    };
    if let Some(part) = &part {
        body.flow_control().release_capacity(part.len())?;
    }
    Ok(part)
}
