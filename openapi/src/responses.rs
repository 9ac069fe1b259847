//! `POST /v1/responses`: the request, put into the words of a conversation, and the object that its answers are in.
//!
//! Gateway and provider translate the same body by this code and then read the conversation that comes of it, so an
//! engine sees no difference. What asks for something that is not offered here is refused by its own name, never
//! passed over. Source: OpenAI's API specification of August 2026 and Open Responses.

mod envelope;
mod input;
mod request;
mod storing;

pub use envelope::{Envelope, State};
pub use request::to_chat;
pub use storing::{InputItems, KeptParts, ResponseDeleted, Storing, expand, input_items, items_of, take_apart};

#[cfg(test)]
mod tests;
