//! `lumbung-provider`: joins a gateway from behind NAT, serves a local model, signs receipts.
//!
//! The way of a job: `tunnel` brings it, `intake` reads it, `job` checks it, an [`engine`] answers, `render` makes the
//! client's bytes, `answer` sends them in frames, `journal` keeps the receipt and `sign` offers it until the gateway has
//! it in its books.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that panics has failed, which is what it is for"))]

mod answer;
mod backoff;
pub mod cli;
mod clock;
mod control;
mod data_dir;
mod doctor;
mod earnings;
pub mod engine;
mod gateway;
mod hardware;
mod holds;
mod hours;
mod identity;
mod idle;
mod intake;
mod job;
mod join;
mod journal;
mod node;
mod observe;
pub mod outgoing;
mod outlook;
mod pace;
mod prospect;
mod refusal;
pub mod render;
mod replay;
mod served;
mod sign;
mod split;
mod status;
mod takings;
mod tunnel;
