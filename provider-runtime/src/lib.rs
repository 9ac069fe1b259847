//! `lumbung-provider`: joins a gateway from behind NAT, serves a local model, signs receipts.
//!
//! The way of a job: [`serve`] takes it from the tunnel, an [`engine`] answers, [`render`] makes the client's bytes,
//! [`journal`] keeps the receipt until the gateway has it in its books.

pub mod engine;
