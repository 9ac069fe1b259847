//! Prompts that come in place of a conversation, and vectors.

use std::time::Duration;

use lumbung_openapi::chat::{ChatRequest, EmbeddingWish, Prompt};
use lumbung_openapi::error::InvalidRequest;
use lumbung_openapi::frame::PromptCount;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::engine::{EngineError, Event, FinishReason, Generation};

/// A prompt's text; token ids are spelled as numbers.
pub fn text_of(prompt: &Prompt<'_>) -> String {
    match prompt {
        Prompt::Text(text) => text.to_string(),
        Prompt::Tokens(ids) => ids.iter().map(|id| format!(" {id}")).collect(),
    }
}

/// A prompt's tokens: each is a word.
pub fn tokens_of(prompt: &Prompt<'_>) -> u32 {
    match prompt {
        Prompt::Text(text) => text.split_whitespace().count() as u32,
        Prompt::Tokens(ids) => ids.len() as u32,
    }
}

/// What each answer begins with, where the prompt is to be repeated.
pub fn echoes(request: &ChatRequest<'_>) -> Vec<String> {
    let prompts = request.prompts.as_ref().filter(|prompts| prompts.echo);
    let prompts = prompts.map_or(&[][..], |prompts| &prompts.list);
    prompts.iter().flat_map(|prompt| std::iter::repeat_n(text_of(prompt), request.n as usize)).collect()
}

/// A vector for each input, one after the other: the same for the same text, and of length 1.
pub fn embed(
    wish: &EmbeddingWish<'_>,
    dimensions: u32,
    delay: Duration,
    context: u32,
) -> Result<Generation, EngineError> {
    let wanted = wish.dimensions.unwrap_or(dimensions);
    if wanted > dimensions {
        let message = format!("'dimensions' must not be above {dimensions} for this model.");
        return Err(InvalidRequest::value("dimensions", message).into());
    }
    if let Some(tokens) = wish.inputs.iter().map(tokens_of).find(|tokens| *tokens > context) {
        return Err(InvalidRequest::context_length(context, tokens).into());
    }
    let (sender, events) = mpsc::channel(wish.inputs.len() + 2);
    let prompt_tokens = wish.inputs.iter().map(tokens_of).sum();
    let inputs: Vec<String> = wish.inputs.iter().map(text_of).collect();
    tokio::spawn(async move {
        // A reader who has gone wants nothing more.
        let told = async {
            sender.send(Event::Prompt(PromptCount { prompt_tokens, cached_tokens: 0 })).await?;
            for input in inputs {
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                sender.send(Event::Vector(vector(&input, wanted))).await?;
            }
            sender.send(Event::Finish { choice: 0, reason: FinishReason::Stop }).await
        };
        drop(told.await);
    });
    Ok(Generation { events })
}

fn vector(text: &str, dimensions: u32) -> Vec<f32> {
    let number = |at: u32| {
        let hash = Sha256::new().chain_update(text).chain_update(at.to_be_bytes()).finalize();
        f32::from(i16::from_be_bytes([hash[0], hash[1]]))
    };
    let numbers: Vec<f32> = (0..dimensions).map(number).collect();
    let length = numbers.iter().map(|number| number * number).sum::<f32>().sqrt().max(1.0);
    numbers.into_iter().map(|number| number / length).collect()
}
