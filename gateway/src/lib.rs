//! `lumbung-gateway`: OpenAI-compatible inference on community providers, metered and billed.
//!
//! Dependence goes one way: `main → app → {http, jobs, cli} → chat → fleet → store → domain → lumbung_openapi`.

pub mod cli;
pub mod domain;
pub mod store;
