//! What gateway and provider tell of themselves: figures that Prometheus reads, and traces and figures over OTLP.
//!
//! - [`metric`]: counters and histograms that cost a relaxed atomic addition, on a line of memory of the thread's own
//! - [`page`]: the text that Prometheus reads, made when it asks
//! - [`listener`]: where it asks
//! - [`process`]: what the kernel says of this process
//! - [`trace`]: trace contexts, sampling and spans
//! - [`genai`]: the GenAI conventions' names, and their metrics over OTLP
//! - [`otlp`]: where traces and figures go
//!
//! Nothing here has room for a prompt, an answer or a key: names are of the code, values are numbers and ids.

pub mod genai;
pub mod listener;
pub mod metric;
pub mod otlp;
pub mod page;
pub mod process;
pub mod trace;
