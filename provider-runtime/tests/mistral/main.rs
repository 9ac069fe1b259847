//! The embedded engine over the bundled models: that it answers, that it honours what it says it honours, and that none
//! of mistralrs' known defects can be seen through it.
#![cfg(feature = "mistral")]
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, which is what it is for")]

mod alone;
mod answers;
mod defects;
mod forms;
mod parameters;
mod prompts;
mod resume;
mod support;
mod vectors;
