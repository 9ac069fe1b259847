//! Load that does not wait for answers: requests go out at their times, whatever becomes of those before.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::client::Client;

/// What became of one request.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// When it was sent, from the beginning of the load.
    pub sent: Duration,
    /// How long its answer took.
    pub took: Duration,
    /// 0: there was no answer.
    pub status: u16,
    /// The error's code, where there was one.
    pub code: String,
}

impl Outcome {
    pub fn is_served(&self) -> bool {
        self.status == 200
    }
}

/// Sends `body` for so long, so many times a second, in turn by each client.
pub async fn offer(clients: Vec<Client>, body: String, per_second: f64, lasting: Duration) -> Vec<Outcome> {
    let (begun, mut asking) = (Instant::now(), JoinSet::new());
    for number in 0..(lasting.as_secs_f64() * per_second) as usize {
        let sent = Duration::from_secs_f64(number as f64 / per_second);
        sleep_until(begun + sent).await;
        let client = &clients[number % clients.len()];
        let request = client.http.post(format!("{}/v1/chat/completions", client.base)).bearer_auth(&client.key);
        let request = request.header("content-type", "application/json").body(body.clone());
        asking.spawn(async move {
            let asked = Instant::now();
            let (status, code) = match request.send().await {
                Err(error) => (0, error.to_string()),
                Ok(answer) => (answer.status().as_u16(), code(answer.text().await)),
            };
            Outcome { sent, took: asked.elapsed(), status, code }
        });
    }
    asking.join_all().await
}

fn code(body: reqwest::Result<String>) -> String {
    let Ok(body) = body else { return "cut off".into() };
    let body: Value = serde_json::from_str(&body).unwrap_or_default();
    body["error"]["code"].as_str().unwrap_or_default().to_owned()
}

/// How many requests, by status and code.
pub fn tally<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for outcome in outcomes {
        let name = format!("{} {}", outcome.status, outcome.code);
        *tally.entry(name.trim_end().to_owned()).or_default() += 1;
    }
    tally
}

/// The longest that an answer took, in milliseconds.
pub fn slowest_ms<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> u128 {
    outcomes.into_iter().map(|outcome| outcome.took.as_millis()).max().unwrap_or(0)
}
