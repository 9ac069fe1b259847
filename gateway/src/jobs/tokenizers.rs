//! Keeps the tokenizers that the books name loaded: beside the rest of the following, because a large one takes long to read.

use std::collections::HashMap;
use std::sync::Arc;

use tracing::{error, info, warn};

use super::{FOLLOW_EVERY, ticks};
use crate::chat::Gateway;
use crate::domain::tokenizer::ModelTokenizer;
use crate::store::{Store, StoreError};

pub(super) async fn follow(gateway: &Gateway, store: &Store) {
    let (mut tick, mut known) = (ticks(FOLLOW_EVERY), None);
    loop {
        tick.tick().await;
        match reload(gateway, store, known).await {
            Ok(epoch) => known = Some(epoch),
            Err(error) => warn!(%error, "changes of tokenizers not followed"),
        }
    }
}

/// Takes over which model has which tokenizer, if the books have changed since `known`; each is read once.
pub async fn reload(gateway: &Gateway, store: &Store, known: Option<i64>) -> Result<i64, StoreError> {
    let epoch = store.epoch().await?;
    if known == Some(epoch) {
        return Ok(epoch);
    }
    let mut models: HashMap<String, Arc<ModelTokenizer>> = HashMap::new();
    for (model, digest) in store.model_tokenizers().await? {
        let fresh = models.values().find(|tokenizer| tokenizer.digest() == digest).cloned();
        let tokenizer = match fresh.or_else(|| gateway.recounter.loaded(&digest)) {
            Some(tokenizer) => tokenizer,
            None => match load(store, &model, &digest).await? {
                Some(tokenizer) => tokenizer,
                None => continue,
            },
        };
        models.insert(model, tokenizer);
    }
    gateway.recounter.set_models(models);
    Ok(epoch)
}

/// Reads one; `None` where it cannot be read, which the import should have found.
async fn load(store: &Store, model: &str, digest: &str) -> Result<Option<Arc<ModelTokenizer>>, StoreError> {
    let files = store.tokenizer(digest).await?;
    match tokio::task::spawn_blocking(move || ModelTokenizer::new(&files)).await {
        Ok(Ok(tokenizer)) => {
            info!(model, digest, "tokenizer loaded");
            Ok(Some(Arc::new(tokenizer)))
        }
        Ok(Err(error)) => {
            error!(model, digest, %error, "tokenizer not loaded: its model's tokens are not counted again");
            Ok(None)
        }
        Err(error) => {
            error!(model, digest, %error, "tokenizer not loaded: its model's tokens are not counted again");
            Ok(None)
        }
    }
}
