//! Every type that crosses a wire in lumbung, and nothing that acts on one.
//!
//! - [`account`]: an account's own view of its credit, keys, usage and answers
//! - [`chat`]: what a client asks for, parsed once and by the same code at the gateway and at the provider
//! - [`endpoint`]: where it asks; [`responses`], [`messages`]: the two endpoints whose requests are put into a chat's words
//! - [`template`]: how a conversation becomes the model's prompt, for the same reason
//! - [`reply`]: what a client gets back; [`models`]: what it can ask for; [`error`]: how it is told no; [`modality`]: what a model takes and gives
//! - [`frame`], [`provider`], [`ticket`], [`voucher`], [`receipt`]: the link between gateway and provider
//! - [`earnings`]: what a provider is told of its money
//! - [`merkle`], [`jws`]: the proofs that receipts rest on
//! - [`admin`]: the operator's API; [`usage`]: what was used, and invoices; [`payouts`]: what providers earn and are paid
//!   and [`webhook`]: what it tells the operator's systems
//! - [`writer`]: JSON objects written member by member
//! - [`money`]: US dollars in whole nano-dollars
//! - [`spec`]: the OpenAPI documents generated from these types, checked in beside this crate

pub mod account;
pub mod admin;
pub mod chat;
pub mod earnings;
pub mod endpoint;
pub mod error;
pub mod explain;
pub mod frame;
pub mod jws;
pub mod merkle;
pub mod messages;
pub mod modality;
pub mod models;
pub mod money;
pub mod parameter;
pub mod payouts;
pub mod provider;
pub mod receipt;
pub mod reply;
pub mod responses;
pub mod spec;
pub mod template;
pub mod ticket;
pub mod usage;
pub mod voucher;
pub mod webhook;
pub mod writer;
