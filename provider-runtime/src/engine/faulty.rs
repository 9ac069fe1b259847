//! For tests: an engine whose process dies or freezes in the middle of an answer. Only hidden flags make one.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::{Engine, EngineError, EngineModel, Event, Generation, Job};

/// Events that an answer may be ahead of whoever takes them.
const AHEAD: usize = 32;

/// What happens to the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// As `kill -9` would end it.
    Die,
    /// It stops until it gets a SIGCONT.
    Freeze,
}

/// An engine that works, until one of its answers has so many tokens. That happens once in the life of the process.
pub struct Faulty {
    engine: Arc<dyn Engine>,
    fault: Fault,
    after_tokens: u32,
    happened: Arc<AtomicBool>,
}

impl Faulty {
    /// Fails after so many tokens of an answer, over all its choices.
    pub fn new(engine: Arc<dyn Engine>, fault: Fault, after_tokens: u32) -> Self {
        Self { engine, fault, after_tokens, happened: Arc::default() }
    }
}

#[async_trait]
impl Engine for Faulty {
    fn describe(&self) -> &EngineModel {
        self.engine.describe()
    }

    async fn generate(&self, job: Job<'_>) -> Result<Generation, EngineError> {
        let mut answer = self.engine.generate(job).await?;
        let (sender, events) = mpsc::channel(AHEAD);
        let (fault, mut left, happened) = (self.fault, self.after_tokens, self.happened.clone());
        tokio::spawn(async move {
            while let Some(event) = answer.events.recv().await {
                if let Event::Tokens(tokens) = &event {
                    if tokens.count > left && !happened.swap(true, Ordering::Relaxed) {
                        happen(fault).await;
                    }
                    left = left.saturating_sub(tokens.count);
                }
                if sender.send(event).await.is_err() {
                    return; // nobody wants the answer any more, and dropping it cancels it
                }
            }
        });
        Ok(Generation { events })
    }
}

async fn happen(fault: Fault) {
    // So that what was made before has left the machine. In small steps: on a machine that is overloaded each of them takes
    // longer, and lets others have their turn.
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    match fault {
        Fault::Die => std::process::abort(),
        Fault::Freeze => {
            let frozen = Command::new("kill").args(["-STOP", &std::process::id().to_string()]).status();
            // The signal takes effect when the thread that it falls to gets its turn, and until then others run on.
            tokio::time::sleep(Duration::from_secs(1)).await;
            tracing::warn!(?frozen, "was frozen, as the test wants");
        }
    }
}
