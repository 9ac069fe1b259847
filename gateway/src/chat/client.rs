//! The client's side of a job: nothing sent yet, a stream begun, or gone.

use bytes::Bytes;
use tokio::sync::oneshot;

use super::buffer::{self, Inlet, Outlet, PushError};
use super::error::ApiError;

/// What a client gets, once it is known what that will be.
pub enum Answer {
    /// Server-sent events, as they come.
    Stream(Outlet),
    /// One JSON document.
    Whole(Bytes),
}

/// Where a job's answer goes.
pub struct Client {
    stage: Stage,
    /// Whether events are counted, and how many have been sent.
    counts_events: bool,
    events: u64,
}

/// Where the HTTP handler waits for it.
pub type Waiting = oneshot::Receiver<Result<Answer, ApiError>>;

enum Stage {
    /// Nothing sent yet: an error can still have a status of its own.
    Fresh(oneshot::Sender<Result<Answer, ApiError>>),
    Streaming(Inlet),
    Over,
}

impl Client {
    /// A client that waits for its answer. Events are counted where each has a number, so that the gateway's own can follow.
    pub fn new(counts_events: bool) -> (Self, Waiting) {
        let (sender, waiting) = oneshot::channel();
        (Self { stage: Stage::Fresh(sender), counts_events, events: 0 }, waiting)
    }

    /// Server-sent events so far, where they are counted.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Whether anything has been sent.
    pub fn has_begun(&self) -> bool {
        !matches!(self.stage, Stage::Fresh(_))
    }

    /// Resolves when the client has gone.
    pub async fn gone(&mut self) {
        match &mut self.stage {
            Stage::Fresh(sender) => sender.closed().await,
            Stage::Streaming(inlet) => inlet.client_gone().await,
            Stage::Over => std::future::pending().await,
        }
    }

    /// Sends a piece of a stream; the first one sends the response's head.
    pub fn stream(&mut self, piece: Bytes) -> Result<(), PushError> {
        self.inlet(&piece)?.push(piece)
    }

    /// Sends the end of a stream, for which there is always room.
    pub fn stream_last(&mut self, piece: Bytes) -> Result<(), PushError> {
        self.inlet(&piece)?.push_last(piece)
    }

    fn inlet(&mut self, piece: &Bytes) -> Result<&Inlet, PushError> {
        if self.counts_events {
            // No event has an empty line within it.
            self.events += piece.windows(2).filter(|pair| pair == b"\n\n").count() as u64;
        }
        if let Stage::Fresh(_) = self.stage {
            let (inlet, outlet) = buffer::buffer();
            let Stage::Fresh(sender) = std::mem::replace(&mut self.stage, Stage::Streaming(inlet)) else {
                unreachable!("looked at just now");
            };
            sender.send(Ok(Answer::Stream(outlet))).map_err(|_| PushError::ClientGone)?;
        }
        match &self.stage {
            Stage::Streaming(inlet) => Ok(inlet),
            Stage::Fresh(_) | Stage::Over => Err(PushError::ClientGone),
        }
    }

    /// Sends the whole answer, or the error that there is instead. A client that has gone gets nothing.
    pub fn answer(&mut self, answer: Result<Bytes, ApiError>) {
        if let Stage::Fresh(sender) = std::mem::replace(&mut self.stage, Stage::Over) {
            drop(sender.send(answer.map(Answer::Whole)));
        }
    }
}
