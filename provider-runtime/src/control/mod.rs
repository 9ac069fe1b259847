//! The socket by which a running provider is asked and told: `control.sock` in its data directory, for its owner alone. It is
//! a file, not a port, and nobody else on the machine can open it.
//!
//! A connection carries any number of requests, one JSON object on each line, and an answer on a line for each:
//!
//! ```text
//! → {"do":"status"}      ← {"status":{"provider":"…","pid":4711,"holds":[],…}}
//! → {"do":"pause"}       ← {"status":{…,"holds":["paused"],…}}
//! → {"do":"dance"}       ← {"error":"unknown variant `dance`, …"}
//! ```
//!
//! The answer to whatever is done is the status after it. `server` answers, `client` asks.

pub mod client;
mod server;

use serde::{Deserialize, Serialize};

pub use server::{Control, Listening, Told, take_up_pause};

use crate::status::Status;

/// The socket's file in the data directory.
pub const SOCKET: &str = "control.sock";
/// No request is longer, in bytes.
const MAX_REQUEST: u64 = 1 << 10;

/// What a running provider can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// What is so.
    Status {
        /// Whether the gateway's books are to be asked, too. They are at most every half minute, whoever asks here.
        #[serde(default)]
        earnings: bool,
    },
    /// Take no new jobs until told to resume, also after a restart. Tunnels stay up, what runs goes on.
    Pause,
    /// Take jobs again.
    Resume,
    /// Finish what runs, and end.
    Drain,
    /// Start the program as it is installed now, to take this process' place. Answered when it has, or cannot.
    Upgrade,
    /// Leave socket, lock and status file to the process that asks, then finish what runs, and end. Answered when they are free.
    HandOver,
}

/// What it says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// What is so, after what was asked for was done.
    Status(Box<Status>),
    /// It was not done.
    Error(String),
}
