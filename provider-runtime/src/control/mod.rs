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
//! The answer to whatever is done is the status after it, or what was found in the settings. `server` answers, `client` asks.

pub mod client;
mod server;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

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
    /// Read the settings again, and serve the models that they name now. Answered when those have been loaded.
    Reload,
    /// Leave socket, lock and status file to the process that asks, then finish what runs, and end. Answered when they are free.
    HandOver,
}

/// What it says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// What is so, after what was asked for was done.
    Status(Box<Status>),
    /// The settings were read again.
    Reloaded(Reloaded),
    /// It was not done.
    Error(String),
}

/// What follows from settings that were read again; models by their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Are served from now on.
    pub added: Vec<String>,
    /// Take no new jobs from now on.
    pub removed: Vec<String>,
    /// Are served at another price or in other slots, or by an engine that was loaded anew.
    pub changed: Vec<String>,
    /// When jobs are taken is another question than before.
    pub hours: bool,
    /// Cannot be served: which, and why.
    pub failed: Vec<(String, String)>,
    /// Other settings that have changed, which a running process does not take up.
    pub left_out: Vec<String>,
}

/// Somebody waits for the settings to be read again.
pub type ReloadAsked = oneshot::Sender<anyhow::Result<Reloaded>>;
