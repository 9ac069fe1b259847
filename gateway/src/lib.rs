//! `lumbung-gateway`: OpenAI-compatible inference on community providers, metered and billed.
//!
//! Dependence goes one way: `main → app → {http, jobs, cli} → {chat, admin} → fleet → store → domain → lumbung_openapi`;
//! `tls` and `followed` are beside `domain`.

pub mod admin;
pub mod app;
pub mod chat;
pub mod cli;
pub mod config;
pub mod domain;
pub mod fleet;
pub mod followed;
pub mod http;
pub mod jobs;
pub mod lines;
pub mod store;
pub mod tls;
