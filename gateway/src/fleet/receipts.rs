//! Where receipts are handed in: one signature for a batch, then each receipt by its own ticket.

use std::collections::BTreeSet;

use lumbung_openapi::jws::JwsError;
use lumbung_openapi::receipt::{ReceiptBatch, ReceiptVerdict, ReceiptVerdicts};
use tracing::warn;

use crate::domain::ids::ProviderId;
use crate::store::{SigningKeys, Store, StoreError};

/// Receipts in one batch.
const MAX_RECEIPTS: usize = 4096;

/// Why a batch as a whole is not taken.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// Not signed, or not over these receipts.
    #[error(transparent)]
    Signature(#[from] JwsError),
    /// More receipts than this.
    #[error("more than {0} receipts")]
    TooMany(usize),
    /// By a provider that has never joined.
    #[error("this provider has never joined")]
    Stranger,
    /// The books cannot be reached.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Takes receipts.
pub struct ReceiptDesk {
    store: Store,
    keys: SigningKeys,
}

impl ReceiptDesk {
    /// A desk that honours tickets signed with these keys.
    pub fn new(store: Store, keys: SigningKeys) -> Self {
        Self { store, keys }
    }

    /// Verifies a batch and has it written into the books. Anyone can sign one: what a stranger hands in (`is_known` says
    /// who has ever joined) is not judged, for there can be no job behind it.
    pub async fn take(
        &self,
        batch: &ReceiptBatch,
        is_known: impl FnOnce(&ProviderId) -> bool,
    ) -> Result<ReceiptVerdicts, DeskError> {
        if batch.receipts.len() > MAX_RECEIPTS {
            return Err(DeskError::TooMany(MAX_RECEIPTS));
        }
        let (key, leaves) = batch.verify()?;
        let provider = ProviderId::from(key);
        if !is_known(&provider) {
            return Err(DeskError::Stranger);
        }
        // What they claim is judged by that where they are committed.
        let judge = || batch.receipts.iter().map(|receipt| self.keys.backing(receipt)).collect::<Vec<_>>();
        let mut backings = judge();
        // Another process may have rotated the keys. A receipt refused for a key that is good would be lost for good.
        let mut refused = batch.receipts.iter().zip(&backings).filter(|(_, backing)| backing.is_err());
        if refused.any(|(receipt, _)| !self.keys.know_those_of(receipt)) {
            self.keys.read_again(&self.store).await?;
            backings = judge();
        }
        let verdicts = self.store.commit_receipts(&provider, batch, &leaves, &backings).await?;
        let reasons = verdicts.iter().filter_map(|verdict| match verdict {
            ReceiptVerdict::Refused { reason } => Some(reason.as_str()),
            ReceiptVerdict::Committed | ReceiptVerdict::Pending => None,
        });
        let reasons: BTreeSet<&str> = reasons.collect();
        if !reasons.is_empty() {
            warn!(%provider, ?reasons, "receipts refused");
        }
        Ok(ReceiptVerdicts { verdicts })
    }
}
