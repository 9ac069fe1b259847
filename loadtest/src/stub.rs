//! A provider without an engine and without a process of its own: what it answers at the other end of a tunnel.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, Response, StatusCode};
use lumbung_openapi::frame::{AnswerEnd, Frame, FrameKind, FrameReader, PromptCount, encode};
use lumbung_openapi::jws::{self, SigningKey};
use lumbung_openapi::merkle::Hash;
use lumbung_openapi::money::TokenPrice;
use lumbung_openapi::provider::{ModelOffer, OFFER_PATH, Offer, RECEIPTS_PATH, Resume};
use lumbung_openapi::receipt::{Receipt, ReceiptBatch, ReceiptClaims, ReceiptVerdict, ReceiptVerdicts};
use lumbung_openapi::ticket::Ticket;
use serde_json::json;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use crate::ask::Reader;
use crate::client::{Connection, Target};
use crate::network::{MODEL, PRICE};

/// What the answer says that the prompt and it itself have.
const PROMPT_TOKENS: u32 = 12;
const ANSWER_TOKENS: u32 = 5;
const ANSWER: &str = "Here is a word: padi.";
/// From the end of an answer to the offer of its receipt, which is in the books by then.
const BEFORE_RECEIPT: Duration = Duration::from_millis(500);
/// How long the last voucher may take.
const VOUCHER_WITHIN: Duration = Duration::from_secs(2);
/// Offers of receipts under way at a time.
const OFFERS_AT_ONCE: usize = 16;
/// Receipts that may wait for their offer.
const WAITING_RECEIPTS: usize = 4096;

/// What providers without engines do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trade {
    /// They offer a model that nobody asks for.
    Idle,
    /// They serve the model that is asked for, always with the same answer in one piece, and offer receipts.
    Answers,
}

/// One such provider.
pub struct Stub {
    /// Who it is.
    pub key: SigningKey,
    /// What it does.
    pub trade: Trade,
    /// Where its receipts go.
    pub receipts: Receipts,
}

/// Receipts on their way to the gateway, of all stubs.
#[derive(Clone)]
pub struct Receipts(mpsc::Sender<Waiting>);

/// A receipt and whose it is.
type Waiting = (Arc<Stub>, Receipt);

impl Receipts {
    /// Offers them at `origin`, for as long as the tasks are kept.
    pub fn offer_at(origin: &str) -> anyhow::Result<(Self, JoinSet<()>)> {
        let (sender, receiver) = mpsc::channel(WAITING_RECEIPTS);
        let (target, receiver) = (Target::new(origin, "none")?, Arc::new(Mutex::new(receiver)));
        let mut offering = JoinSet::new();
        for _ in 0..OFFERS_AT_ONCE {
            let (target, receiver) = (target.clone(), Arc::clone(&receiver));
            offering.spawn(async move {
                loop {
                    // A gateway that closes a connection is dialled again.
                    if let Err(error) = offer_all(&target, &receiver).await {
                        eprintln!("a receipt was not taken: {error:#}");
                        continue;
                    }
                    return;
                }
            });
        }
        Ok((Self(sender), offering))
    }
}

/// Offers each by itself, over one connection, until there are none any more: so many providers have few jobs each.
async fn offer_all(target: &Target, waiting: &Mutex<mpsc::Receiver<Waiting>>) -> anyhow::Result<()> {
    let mut connection: Option<Connection> = None;
    loop {
        let Some((stub, receipt)) = waiting.lock().await.recv().await else { return Ok(()) };
        let batch = serde_json::to_value(ReceiptBatch::sign(&stub.key, vec![receipt], now_secs()))?;
        let mut open = match connection.take() {
            Some(open) if open.is_open() => open,
            _ => Connection::open(target, Reader::Steady).await?,
        };
        let verdicts: ReceiptVerdicts = serde_json::from_value(open.post(target, RECEIPTS_PATH, &batch).await?)?;
        connection = Some(open);
        if let Some(ReceiptVerdict::Refused { reason }) = verdicts.verdicts.first() {
            anyhow::bail!("it was refused: {reason}");
        }
    }
}

impl Stub {
    /// Answers what comes over its tunnel.
    pub async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        if request.uri().path() == OFFER_PATH {
            return Ok(Response::new(Full::new(self.offer())));
        }
        let served = match self.trade {
            Trade::Idle => None,
            Trade::Answers => self.serve(request.into_body()).await.ok(),
        };
        let mut response = Response::new(Full::new(served.clone().unwrap_or_default()));
        match served {
            Some(_) => drop(response.headers_mut().insert(CONTENT_TYPE, FRAMES)),
            None => *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE,
        }
        Ok(response)
    }

    /// The frames of the answer to a job.
    async fn serve(self: &Arc<Self>, mut body: Incoming) -> anyhow::Result<Bytes> {
        let (mut reader, mut frames) = (FrameReader::default(), Vec::new());
        while frames.len() < 2 {
            let part = body.frame().await.context("the job was cut")??;
            let Ok(data) = part.into_data() else { continue };
            reader.push(data, |frame: Frame| frames.push(frame))?;
        }
        let ticket_text = String::from_utf8(frames[0].payload.to_vec())?;
        let ticket: Ticket = jws::peek(&ticket_text)?;
        let document = document(&ticket);
        let claims = ReceiptClaims {
            weights_digest: String::new(),
            prompt_tokens: PROMPT_TOKENS,
            cached_tokens: 0,
            completion_tokens: ANSWER_TOKENS,
            delivered_sha256: Hash::of(document.as_bytes()),
        };
        let claims = serde_json::to_string(&claims)?;
        let mut out = BytesMut::new();
        let prompt = PromptCount { prompt_tokens: PROMPT_TOKENS, cached_tokens: 0 };
        encode(&mut out, FrameKind::Prompt, 0, 0, &[], &prompt.to_bytes());
        encode(&mut out, FrameKind::Body, 0, ANSWER_TOKENS, &[], document.as_bytes());
        let end = AnswerEnd { finish_reason: "stop".into(), ..AnswerEnd::default() };
        encode(&mut out, FrameKind::End, 0, ANSWER_TOKENS, &[], end.to_text().as_bytes());
        encode(&mut out, FrameKind::Receipt, 0, ANSWER_TOKENS, &[], claims.as_bytes());
        tokio::spawn(self.clone().offer_receipt(body, reader, ticket_text, claims));
        Ok(out.freeze())
    }

    /// Once the last voucher has come, and a moment later.
    async fn offer_receipt(
        self: Arc<Self>,
        mut body: Incoming,
        mut reader: FrameReader,
        ticket: String,
        claims: String,
    ) {
        let mut voucher = None;
        let take_vouchers = async {
            while let Some(Ok(part)) = body.frame().await {
                let Ok(data) = part.into_data() else { continue };
                let mut take = |frame: Frame| voucher = String::from_utf8(frame.payload.to_vec()).ok();
                if reader.push(data, &mut take).is_err() {
                    return;
                }
            }
        };
        drop(tokio::time::timeout(VOUCHER_WITHIN, take_vouchers).await);
        tokio::time::sleep(BEFORE_RECEIPT).await;
        let receipts = self.receipts.clone();
        // Nobody takes receipts any more once the measurement is over.
        drop(receipts.0.send((self, Receipt { ticket, claims, voucher })).await);
    }

    fn offer(&self) -> Bytes {
        let price = |usd: &str| usd.parse().unwrap_or_default();
        let (model, ask) = match self.trade {
            Trade::Idle => ("lumbung/idle", TokenPrice::default()),
            Trade::Answers => (MODEL, TokenPrice { prompt: price(PRICE.0), completion: price(PRICE.1) }),
        };
        let model = ModelOffer {
            model: model.into(),
            weights_digest: String::new(),
            quantization: "unknown".into(),
            context_length: 8192,
            slots: 4,
            ask,
            supported_parameters: Vec::new(),
            resume: Resume::None,
        };
        let offer = Offer { models: vec![model], ..Offer::default() };
        serde_json::to_vec(&offer).unwrap_or_default().into()
    }
}

/// The answer's content type.
const FRAMES: hyper::header::HeaderValue = hyper::header::HeaderValue::from_static("application/x-lumbung-frames");

/// Without usage and closing brace, which are the gateway's.
fn document(ticket: &Ticket) -> String {
    let choice = json!({
        "index": 0, "message": { "role": "assistant", "content": ANSWER, "refusal": null }, "logprobs": null,
        "finish_reason": "stop",
    });
    let head = json!({
        "id": ticket.public_id, "object": "chat.completion", "created": ticket.created, "model": ticket.public_model,
        "choices": [choice],
    });
    let mut text = head.to_string();
    text.pop();
    text
}

/// Unix seconds.
pub(crate) fn now_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
