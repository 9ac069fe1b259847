//! What the gateway's books are about: ids, postings, charges, refusals. Pure and synchronous; `now` is passed in.
//! Money itself is [`lumbung_openapi::money`]; nothing here knows a database or a socket.

pub mod address;
pub mod backing;
pub mod breaker;
pub mod calendar;
pub mod catalogue;
pub mod csv;
pub mod earnings;
pub mod flood;
pub mod ids;
pub mod limits;
pub mod meter;
pub mod pace;
pub mod posting;
pub mod provider;
pub mod refusal;
pub mod retries;
pub mod role;
pub mod routing;
pub mod settlement;
pub mod timestamp;
pub mod tokenizer;
pub mod webhook;
