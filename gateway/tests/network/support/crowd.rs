//! A crowd of clients that ask again as the SDKs do, and count what became of every request.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::client::Client;

/// As in `openai-python` and `openai-node`: two retries after 0.5 to 8 s, less up to a quarter.
const RETRIES: u32 = 2;
const FIRST_WAIT_SECS: f64 = 0.5;
const LONGEST_WAIT_SECS: f64 = 8.0;
/// Longer than anything here can take that goes well.
const PATIENCE: Duration = Duration::from_secs(90);

/// What became of all requests.
#[derive(Default)]
pub struct Tally {
    /// Answers that came whole.
    pub whole: AtomicU64,
    /// Streams that began.
    pub begun: AtomicU64,
    /// Streams that ended in an error of the gateway's: a provider failed, and nobody went on.
    pub broken: AtomicU64,
    /// Retries, before an answer began.
    pub retries: AtomicU64,
    /// When streams were cut: their gateway was gone, or given up by the proxy.
    pub cut: Mutex<Vec<Instant>>,
    /// Requests that failed before they began to be answered, retries included, with the last reason.
    pub failed: Mutex<Vec<String>>,
}

/// Clients who never stop asking.
pub struct Crowd {
    asking: Vec<tokio::task::JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    pub tally: Arc<Tally>,
}

impl Crowd {
    /// So many at each of these clients' keys; every whole answer must be `expected`.
    pub fn gather(clients: &[Client], each: usize, expected: &str, seed: u64) -> Self {
        let (stop, tally) = (Arc::new(AtomicBool::new(false)), Arc::new(Tally::default()));
        let ask = |(number, client): (usize, &Client)| {
            let client = Client {
                http: client.http.clone(),
                ..Client::new(client.base.clone(), client.key.clone(), client.account)
            };
            let random = StdRng::seed_from_u64(seed.wrapping_mul(1000) + number as u64);
            let asker = Asker { client, random, expected: expected.to_owned(), tally: tally.clone() };
            tokio::spawn(asker.ask_on(stop.clone()))
        };
        let all = clients.iter().flat_map(|client| std::iter::repeat_n(client, each));
        let asking = all.enumerate().map(ask).collect();
        Self { asking, stop, tally }
    }

    /// Lets everyone finish.
    pub async fn disperse(self) -> Arc<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        for asking in self.asking {
            asking.await.expect("a client does not panic");
        }
        self.tally
    }
}

struct Asker {
    client: Client,
    random: StdRng,
    expected: String,
    tally: Arc<Tally>,
}

/// How one try ended.
enum Try {
    Whole,
    /// The stream had begun.
    Broken,
    Cut,
    /// Nothing had begun: may be asked again, after so long if that was said.
    Again(String, Option<Duration>),
    Final(String),
}

impl Asker {
    async fn ask_on(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Relaxed) {
            self.ask().await;
            tokio::time::sleep(Duration::from_millis(self.random.random_range(0..1500))).await;
        }
    }

    async fn ask(&mut self) {
        let stream = self.random.random_bool(0.7);
        let mut retries = 0;
        loop {
            let tried = tokio::time::timeout(PATIENCE, self.attempt(stream)).await;
            match tried.unwrap_or_else(|_| Try::Final(format!("nothing for {PATIENCE:?}"))) {
                Try::Whole => return count(&self.tally.whole),
                Try::Broken => return count(&self.tally.broken),
                Try::Cut => return self.tally.cut.lock().expect("no panic").push(Instant::now()),
                Try::Again(_, after) if retries < RETRIES => {
                    count(&self.tally.retries);
                    let wait = (FIRST_WAIT_SECS * f64::from(1 << retries)).min(LONGEST_WAIT_SECS);
                    let wait = Duration::from_secs_f64(wait * (1.0 - 0.25 * self.random.random_range(0.0..1.0)));
                    tokio::time::sleep(after.unwrap_or(wait)).await;
                    retries += 1;
                }
                Try::Again(why, _) | Try::Final(why) => return self.tally.failed.lock().expect("no panic").push(why),
            }
        }
    }

    async fn attempt(&self, stream: bool) -> Try {
        let mut body = Client::body("chaos", json!({"stream": stream}));
        if stream {
            body["stream_options"] = json!({"include_usage": true});
        }
        let request = self.client.http.post(format!("{}/v1/chat/completions", self.client.base));
        let request = request.bearer_auth(&self.client.key).header("content-type", "application/json");
        let answer = match request.body(body.to_string()).send().await {
            Ok(answer) => answer,
            Err(error) => return Try::Again(format!("{error:?}"), None),
        };
        if answer.status() != 200 {
            return refused(answer).await;
        }
        match stream {
            true => self.follow(answer).await,
            false => match answer.json::<Value>().await {
                Ok(whole) => {
                    assert_eq!(whole["choices"][0]["message"]["content"], self.expected.as_str());
                    Try::Whole
                }
                Err(error) => Try::Again(format!("cut before the answer was there: {error:?}"), None),
            },
        }
    }

    async fn follow(&self, answer: reqwest::Response) -> Try {
        count(&self.tally.begun);
        let (mut pieces, mut rest, mut text) = (answer.bytes_stream(), Vec::new(), String::new());
        while let Some(piece) = pieces.next().await {
            let Ok(piece) = piece else { return Try::Cut };
            rest.extend_from_slice(&piece);
            while let Some(end) = rest.windows(2).position(|pair| pair == b"\n\n") {
                let event: Vec<u8> = rest.drain(..end + 2).collect();
                let event = String::from_utf8_lossy(&event).into_owned();
                let Some(data) = event.trim_end().strip_prefix("data: ") else { continue };
                if data == "[DONE]" {
                    assert_eq!(text, self.expected, "a whole stream is the whole answer");
                    return Try::Whole;
                }
                let event: Value = serde_json::from_str(data).expect("JSON");
                if event.get("error").is_some() {
                    println!("a stream ended in {}", event["error"]);
                    return Try::Broken;
                }
                text += event["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
            }
        }
        Try::Cut
    }
}

fn count(what: &AtomicU64) {
    what.fetch_add(1, Ordering::Relaxed);
}

async fn refused(answer: reqwest::Response) -> Try {
    let status = answer.status().as_u16();
    let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let said_so = header("x-should-retry");
    let ms = header("retry-after-ms").and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
    let after = ms.or_else(|| header("retry-after")?.parse().ok().map(Duration::from_secs));
    let after = after.filter(|after| *after <= Duration::from_secs(60));
    let why = format!("{status} {}", answer.text().await.unwrap_or_default());
    match (said_so.as_deref(), matches!(status, 408 | 409 | 429 | 500..)) {
        (Some("true"), _) | (None, true) => Try::Again(why, after),
        _ => Try::Final(why),
    }
}
