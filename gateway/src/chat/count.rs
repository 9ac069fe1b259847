//! `POST /v1/messages/count_tokens`: how long a prompt would be, by the model's own tokenizer. Nobody is asked to answer,
//! and nothing is charged.

use bytes::Bytes;
use http::HeaderMap;
use lumbung_openapi::chat::ChatRequest;
use lumbung_openapi::endpoint::Endpoint;
use lumbung_openapi::error::InvalidRequest;
use lumbung_openapi::messages;
use lumbung_openapi::money::NanoUsd;
use lumbung_openapi::parameter::{Parameter, ParameterSet};

use super::error::ApiError;
use super::{Gateway, clock};
use crate::domain::limits::Ask;

/// Counts the tokens of a prompt. It takes one request of the caller's rate.
pub async fn count_tokens(gateway: &Gateway, headers: &HeaderMap, body: &Bytes) -> Result<u32, ApiError> {
    let caller = gateway.keyring.authenticate(headers).await?;
    if caller.is_management {
        return Err(ApiError::Forbidden("A management key manages keys: it cannot ask for completions."));
    }
    let normalized = messages::count_to_chat(body)?;
    let request = ChatRequest::parse(&normalized).map_err(|error| Endpoint::Messages.named(error))?;
    let snapshot = gateway.fleet.snapshot();
    let model = snapshot.model(&request.model).ok_or_else(|| ApiError::UnknownModel(request.model.to_string()))?;
    let entry = model.entry.id.clone();
    drop(snapshot);
    let scopes = [&caller.scopes.account.limits, &caller.scopes.key.limits];
    if !scopes.iter().all(|limits| limits.allows(&entry)) {
        return Err(ApiError::ModelNotAllowed(request.model.into_owned()));
    }
    let uncountable: ParameterSet = [Parameter::ImageUrl, Parameter::InputAudio, Parameter::File].into_iter().collect();
    if let Some(parameter) = request.parameters.intersection(uncountable).iter().next() {
        return Err(InvalidRequest::unsupported(Endpoint::Messages.name(parameter.name()), &request.model).into());
    }
    let no_tokenizer = || InvalidRequest {
        message: format!("Tokens of the model '{}' cannot be counted: its tokenizer is not known here.", request.model),
        param: Some("model".into()),
        code: Some("tokenizer_not_known"),
    };
    let tokenizer = gateway.recounter.tokenizer(entry.as_str()).ok_or_else(no_tokenizer)?;
    let _grant = caller.scopes.admit(Ask { tokens: 0, ceiling: NanoUsd::ZERO }).await?;
    let text = normalized.clone();
    let counting = gateway.recounter.count_with(move || {
        let request = ChatRequest::parse(&text).ok()?; // it was read just now
        tokenizer.prompt_tokens(&request, clock::unix_secs() as i64)
    });
    let counted = counting.await.ok_or(ApiError::Overloaded)?;
    counted.ok_or_else(|| {
        InvalidRequest::value("messages", "The model's chat template does not take these messages.").into()
    })
}
