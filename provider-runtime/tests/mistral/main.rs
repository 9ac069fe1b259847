//! The embedded engine over the bundled models: that it answers, that it honours what it says it honours, and that none
//! of mistralrs' known defects can be seen through it.
#![cfg(feature = "mistral")]

mod answers;
mod defects;
mod parameters;
mod support;
