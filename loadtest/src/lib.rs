//! Load for any OpenAI-compatible gateway, and what it cost.
//!
//! - [`client`]: one HTTP/1.1 connection, kept open
//! - [`stream`]: is a stream of server-sent events whole and in order?
//! - [`load`]: many connections, closed loop (one request after another) or open loop (a fixed rate)
//! - [`process`]: CPU time and memory of a process and its children, from `/proc`
//! - [`report`]: the figures, for people and in JSON
//! - [`measure`]: a gateway, a provider and a fixed load: the figures of the README
//! - [`upstream`]: what stands behind nginx, for comparison

pub mod client;
pub mod load;
pub mod measure;
pub mod process;
pub mod report;
pub mod stream;
pub mod upstream;
