//! Load for any OpenAI-compatible gateway, and what it cost.
//!
//! What makes up a load:
//! - [`ask`]: what is asked, how its answer is read, and in what mixture
//! - [`client`]: one HTTP/1.1 connection, kept open
//! - [`stream`]: is a stream of server-sent events whole and in order?
//! - [`load`]: many requests at once, closed loop (one after another) or open loop (a fixed rate)
//! - [`tally`]: what is counted meanwhile
//! - [`process`]: CPU time, memory and open files of a process and its children, from `/proc`
//! - [`report`], [`plot`]: the figures, for people, in JSON and as SVG
//!
//! What is put under load:
//! - [`servers`]: programs that are started and ended
//! - [`network`]: a gateway with its books, and providers; their reconciliation with what clients saw
//! - [`upstream`]: what stands behind other gateways, for comparison
//! - [`peers`]: those other gateways
//! - [`random_model`]: a model of a size that matters, which says nothing
//! - [`stub`], [`tunnels`]: many providers that are there, without an engine and without a process of their own
//! - [`door`], [`direct`], [`answered`]: a provider asked directly, by the least gateway
//!
//! What is found out:
//! - [`compare`], [`figures`]: what a request costs, beside others
//! - [`crowd`]: many streams, connections and tunnels at once, and the memory of each
//! - [`soak`]: a mixture for a long time; nothing grows, and the books are exact
//! - [`scale`]: how the cost of a request grows
//! - [`runtime`]: what the provider runtime adds to its engine
//! - [`instructions`]: how many instructions a request takes
//! - [`results`]: all of it, as `RESULTS.md`

pub mod answered;
pub mod ask;
pub mod client;
pub mod compare;
pub mod crowd;
pub mod direct;
pub mod door;
pub mod figures;
pub mod instructions;
pub mod load;
pub mod network;
pub mod peers;
pub mod plot;
pub mod process;
pub mod random_model;
pub mod report;
pub mod results;
pub mod runtime;
pub mod scale;
pub mod servers;
pub mod soak;
pub mod stream;
pub mod stub;
pub mod tally;
pub mod tunnels;
pub mod upstream;
