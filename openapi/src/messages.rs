//! `POST /v1/messages`: Anthropic's request, put into the words of a conversation. Its answers are written by the provider.
//!
//! Gateway and provider translate the same body by this code and then read the conversation that comes of it, so an
//! engine sees no difference. What asks for something that is not offered here is refused by its own name, never
//! passed over. Source: Anthropic's API reference and the types of its Python SDK.

mod content;
mod error;
mod request;

pub use error::{MessageError, MessageErrorObject, TokenCount};
pub use request::{count_to_chat, to_chat};

#[cfg(test)]
mod tests;
