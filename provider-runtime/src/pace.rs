//! How fast this machine's engines are before there were any jobs: measured through the same door that jobs come by, and kept in the
//! data directory.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures_util::future::join_all;
use lumbung_openapi::endpoint::Endpoint;
use lumbung_openapi::parameter::Parameter;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::clock::local_secs;
use crate::engine::{Engine, Event, Job};

/// The file in the data directory, by model.
const FILE: &str = "pace.json";
/// A question that is answered at length.
pub const QUESTION: &str = "Tell me a long story about a rice barn.";
/// Answers at a time beyond which an engine is not measured.
const MOST_STREAMS: u32 = 32;

/// What an engine is asked.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The user's message.
    pub question: String,
    /// Answers at a time.
    pub streams: u32,
    /// Tokens of each answer at most.
    pub tokens: u32,
    /// When it is broken off.
    pub limit: Duration,
}

impl Trial {
    /// A short one, for a model with so many slots.
    pub fn short(slots: u32) -> Self {
        let streams = slots.clamp(1, MOST_STREAMS);
        Self { question: QUESTION.to_owned(), streams, tokens: 64, limit: Duration::from_secs(3) }
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// Answers at a time.
    pub streams: u32,
    /// Completion tokens of all of them.
    pub tokens: u64,
    /// Microseconds that they took.
    pub took_us: u64,
    /// Of which weights; empty for a server beside this process.
    pub weights_digest: String,
    /// When it was measured, Unix seconds.
    pub measured_at: u64,
    /// From asking to the first token: the median, in microseconds.
    pub first_token_us: u64,
}

impl Pace {
    /// Has an engine try.
    ///
    /// # Errors
    /// It makes vectors, refuses, fails, or gives no token in time.
    pub async fn measure(engine: &dyn Engine, trial: &Trial) -> anyhow::Result<Self> {
        let model = engine.describe();
        ensure!(!model.supported.contains(Parameter::Input), "it makes vectors, not tokens");
        let messages = json!([{"role": "user", "content": trial.question}]);
        let body = json!({"model": "pace", "max_tokens": trial.tokens, "messages": messages});
        let body = Bytes::from(body.to_string());
        let request = Endpoint::Chat.parse(&body).map_err(|error| anyhow::anyhow!("{error}"))?;
        let (tokens, firsts) = (AtomicU64::new(0), Mutex::new(Vec::new()));
        let begun = Instant::now();
        let answer = async |number: u32| -> anyhow::Result<()> {
            let id = format!("pace_{number}");
            let job = Job {
                id: &id,
                request: &request,
                body: &body,
                max_completion_tokens: trial.tokens,
                seed: number.into(),
                history: &[],
            };
            let mut generation = engine.generate(job).await?;
            let mut is_first = true;
            while let Some(event) = generation.events.recv().await {
                match event {
                    Event::Tokens(made) => {
                        tokens.fetch_add(made.count.into(), Ordering::Relaxed);
                        if std::mem::take(&mut is_first)
                            && let Ok(mut firsts) = firsts.lock()
                        {
                            firsts.push(micros(begun.elapsed()));
                        }
                    }
                    Event::Failed(error) => return Err(error.into()),
                    _ => {}
                }
            }
            Ok(())
        };
        // What has come when the time is over counts as well.
        let answered = tokio::time::timeout(trial.limit, join_all((0..trial.streams).map(answer))).await;
        let took_us = micros(begun.elapsed());
        answered.into_iter().flatten().collect::<anyhow::Result<()>>()?;
        let tokens = tokens.into_inner();
        ensure!(tokens > 0, "no token came within {} s", trial.limit.as_secs());
        let mut firsts = firsts.into_inner().unwrap_or_default();
        firsts.sort_unstable();
        Ok(Self {
            streams: trial.streams,
            tokens,
            took_us,
            weights_digest: model.weights_digest.clone(),
            measured_at: local_secs(),
            first_token_us: firsts.get(firsts.len() / 2).copied().unwrap_or(0),
        })
    }

    /// Tokens in so many seconds, at this pace.
    pub fn tokens_in(&self, seconds: u64) -> u64 {
        let tokens = u128::from(self.tokens) * u128::from(seconds) * 1_000_000;
        u64::try_from(tokens / u128::from(self.took_us.max(1))).unwrap_or(u64::MAX)
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// What was measured on this machine, by model; nothing where nothing can be read.
pub fn known(dir: &Path) -> BTreeMap<String, Pace> {
    let read = fs::read(dir.join(FILE)).ok();
    read.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

/// Keeps what was measured.
pub fn keep(dir: &Path, model: &str, pace: Pace) -> anyhow::Result<()> {
    let mut all = known(dir);
    all.insert(model.to_owned(), pace);
    let write = || -> io::Result<()> {
        let aside = dir.join(format!("{FILE}.new"));
        fs::write(&aside, serde_json::to_vec_pretty(&all)?)?;
        fs::rename(aside, dir.join(FILE))
    };
    write().with_context(|| format!("cannot write {FILE} in {}", dir.display()))
}

/// Measures a model that was not measured yet with these weights, and keeps that. What cannot be measured stays unknown.
pub async fn measure_once(dir: &Path, model: &str, engine: &dyn Engine, slots: u32) {
    let trial = Trial::short(slots);
    let is_known =
        |pace: &Pace| pace.weights_digest == engine.describe().weights_digest && pace.streams == trial.streams;
    if known(dir).get(model).is_some_and(is_known) {
        return;
    }
    let kept = match Pace::measure(engine, &trial).await {
        Ok(pace) => keep(dir, model, pace),
        Err(error) => Err(error),
    };
    if let Err(error) = kept {
        tracing::debug!(model, "how fast it is is not known: {error:#}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::scripted::ScriptedEngine;

    #[tokio::test]
    async fn an_engine_is_as_fast_as_its_tokens_come() {
        let engine = ScriptedEngine::parse(r#"[{"match": "barn", "tokens": 1000, "delay_ms_per_token": 2}]"#).unwrap();
        let pace = Pace::measure(&engine, &Trial::short(2)).await.unwrap();
        assert_eq!((pace.streams, pace.tokens), (2, 128), "64 of each");
        let per_second = pace.tokens_in(1);
        assert!((1..=1015).contains(&per_second), "128 tokens in at least 126 ms: {per_second}");
        let one = Pace { tokens: 10, took_us: 2_000_000, ..pace.clone() };
        assert_eq!((one.tokens_in(1), one.tokens_in(3600)), (5, 18_000));

        let dir = tempfile::tempdir().unwrap();
        measure_once(dir.path(), "a/b", &engine, 2).await;
        let first = known(dir.path())["a/b"].clone();
        measure_once(dir.path(), "a/b", &engine, 2).await;
        assert_eq!(known(dir.path())["a/b"], first, "once");
        keep(dir.path(), "c/d", one).unwrap();
        assert_eq!(known(dir.path()).len(), 2);
    }

    #[tokio::test]
    async fn what_cannot_be_measured_is_not_known() {
        for script in [
            r#"[{"match": "*", "error": "failed"}]"#,
            r#"[{"match": "*", "tokens": 9, "fail_after": 1}]"#,
            r#"[{"match": "*", "tokens": 9, "delay_ms_first": 60000}]"#,
            r#"{"embedding_dimensions": 4, "rules": []}"#,
        ] {
            let engine = ScriptedEngine::parse(script).unwrap();
            let trial = Trial { limit: Duration::from_millis(100), ..Trial::short(1) };
            assert!(Pace::measure(&engine, &trial).await.is_err(), "{script}");
        }
        assert!(known(Path::new("/nonexistent")).is_empty());
    }
}
