//! Receipts: what a provider says it delivered, what the gateway says it delivered and charged, and the proofs of both.

use jsonwebtoken::jwk::JwkSet;
use serde::{Deserialize, Serialize};

use crate::jws::{self, JwsError, PublicKey, SigningKey};
use crate::merkle::{self, Hash};
use crate::money::NanoUsd;
use crate::ticket::Ticket;

/// `typ` of a signed Merkle root over a provider's receipts.
pub const RECEIPTS_TYP: &str = "lumbung-receipts";
/// `typ` of a signed Merkle root over a gateway's settlement records.
pub const SETTLEMENTS_TYP: &str = "lumbung-settlements";

/// What a provider says of one attempt. Travels as JSON text, and is hashed as that text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ReceiptClaims {
    /// Digest of the weights that answered.
    pub weights_digest: String,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// How many of them came from a prefix cache.
    pub cached_tokens: u32,
    /// Completion tokens that this attempt sent.
    pub completion_tokens: u32,
    /// SHA-256 over the client's bytes of this attempt (payloads of delta and body frames, concatenated).
    #[schema(value_type = String)]
    pub delivered_sha256: Hash,
}

/// A receipt: the ticket it answers, and the provider's claims, both exactly as they were written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Receipt {
    /// The ticket, a compact JWS.
    pub ticket: String,
    /// [`ReceiptClaims`] as JSON text.
    pub claims: String,
    /// The gateway's last voucher, a compact JWS, if any came: what the claims rest on where that gateway died. Not part
    /// of the leaf, because it is the gateway's own word; not shown to clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub voucher: Option<String>,
}

impl Receipt {
    /// Its leaf in the provider's Merkle tree.
    pub fn leaf(&self) -> Hash {
        Hash::of_leaf(&[self.ticket.as_bytes(), b"\n", self.claims.as_bytes()])
    }

    /// Its claims, if the text is such.
    pub fn parse_claims(&self) -> Result<ReceiptClaims, JwsError> {
        serde_json::from_str(&self.claims).map_err(|_| JwsError::Malformed)
    }
}

/// Claims under a signed root, a provider's or a gateway's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootClaims {
    /// Root over the leaves.
    pub root: Hash,
    /// How many leaves.
    pub count: usize,
    /// When it was signed, Unix seconds.
    pub iat: u64,
}

/// Receipts of about the last second, and one signature over them all.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ReceiptBatch {
    /// [`RootClaims`] signed by the provider, its key in the header.
    pub jws: String,
    /// The leaves, in order.
    pub receipts: Vec<Receipt>,
}

impl ReceiptBatch {
    /// Signs receipts with the provider's key.
    pub fn sign(key: &SigningKey, receipts: Vec<Receipt>, now_secs: u64) -> Self {
        let leaves: Vec<Hash> = receipts.iter().map(Receipt::leaf).collect();
        let claims = RootClaims { root: merkle::root(&leaves), count: leaves.len(), iat: now_secs };
        Self { jws: key.sign_with_jwk(RECEIPTS_TYP, &claims), receipts }
    }

    /// Who signed exactly these receipts, and their leaves.
    pub fn verify(&self) -> Result<(PublicKey, Vec<Hash>), JwsError> {
        let key = jws::embedded_key(&self.jws)?;
        let claims: RootClaims = key.verify(RECEIPTS_TYP, &self.jws)?;
        let leaves: Vec<Hash> = self.receipts.iter().map(Receipt::leaf).collect();
        match claims.count == leaves.len() && claims.root == merkle::root(&leaves) {
            true => Ok((key, leaves)),
            false => Err(JwsError::BadSignature),
        }
    }
}

/// What became of each receipt of a batch, in its order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ReceiptVerdicts {
    /// One for each receipt.
    pub verdicts: Vec<ReceiptVerdict>,
}

/// What became of one receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum ReceiptVerdict {
    /// In the books, now or before: it need not be offered again.
    Committed,
    /// Not decided yet (the gateway that issued the ticket may still settle it): offer it again in a second.
    Pending,
    /// Never to be paid: it need not be offered again.
    Refused {
        /// Why, for the provider's log.
        reason: String,
    },
}

/// Proof that a leaf stands under a signed root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct InclusionProof {
    /// The signed [`RootClaims`].
    pub jws: String,
    /// The leaf's place.
    pub index: usize,
    /// Hashes beside the way up, from the leaf.
    #[schema(value_type = Vec<String>)]
    pub path: Vec<Hash>,
}

impl InclusionProof {
    fn verify(&self, typ: &str, key: PublicKey, leaf: Hash) -> Result<(), JwsError> {
        let claims: RootClaims = key.verify(typ, &self.jws)?;
        match merkle::verify_inclusion(claims.root, leaf, self.index, claims.count, &self.path) {
            true => Ok(()),
            false => Err(JwsError::BadSignature),
        }
    }
}

/// What the gateway says of one attempt: delivered and charged. Travels as JSON text, and is hashed as that text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SettlementRecord {
    /// The id that the client saw.
    pub id: String,
    /// The job.
    pub job: String,
    /// Which attempt.
    pub attempt: u32,
    /// Who served it.
    pub provider: String,
    /// The catalogue's model id.
    pub model: String,
    /// Prompt tokens charged.
    pub prompt_tokens: u32,
    /// Completion tokens delivered and charged.
    pub completion_tokens: u32,
    /// What the client paid.
    #[serde(rename = "charge_usd")]
    #[schema(value_type = String)]
    pub charge: NanoUsd,
    /// The operator's part of it.
    #[serde(rename = "fee_usd")]
    #[schema(value_type = String)]
    pub fee: NanoUsd,
    /// SHA-256 over the client's bytes that the gateway received; null where the answer did not reach its end there.
    #[schema(value_type = Option<String>)]
    pub delivered_sha256: Option<Hash>,
}

/// One attempt as the client's receipt shows it.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AttemptProof {
    /// [`SettlementRecord`] as JSON text.
    pub record: String,
    /// That the gateway signed it.
    pub settlement: InclusionProof,
    /// The provider's receipt; null while none has come.
    pub receipt: Option<Receipt>,
    /// That the provider signed it; null until its batch has come, about a second after the answer.
    pub proof: Option<InclusionProof>,
    /// What the gateway found when it counted this attempt's tokens again; absent where it was not chosen for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recount: Option<Recount>,
}

/// An attempt's tokens counted again by the gateway, with the model's own tokenizer. The lower figures were charged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Recount {
    /// Whether it could be done.
    pub outcome: RecountOutcome,
    /// Digest of the tokenizer and its chat template.
    pub tokenizer: String,
    /// Prompt tokens by the provider's count, within the ticket.
    pub claimed_prompt_tokens: u32,
    /// Completion tokens by the provider's count.
    pub claimed_completion_tokens: u32,
    /// Prompt tokens found; null where a template alone does not make the prompt (tools, images), or nothing was counted.
    pub prompt_tokens: Option<u32>,
    /// The most completion tokens that the text can have cost; null where there was no text.
    pub completion_tokens: Option<u32>,
}

impl Recount {
    /// Whether a figure was found that is lower than the provider's.
    pub fn is_lower(&self) -> bool {
        self.prompt_tokens.is_some_and(|found| found < self.claimed_prompt_tokens)
            || self.completion_tokens.is_some_and(|found| found < self.claimed_completion_tokens)
    }
}

/// Whether tokens could be counted again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RecountOutcome {
    /// They were.
    Counted,
    /// The gateway was too busy; the provider's count stands.
    Late,
    /// The tokenizer failed; the provider's count stands.
    Failed,
    /// The answer broke off before any text reached the gateway; the provider's count of completion tokens stands.
    NoText,
}

impl RecountOutcome {
    /// Its name on the wire and in the books.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counted => "counted",
            Self::Late => "late",
            Self::Failed => "failed",
            Self::NoText => "no_text",
        }
    }

    /// From its name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Counted, Self::Late, Self::Failed, Self::NoText].into_iter().find(|outcome| outcome.as_str() == name)
    }
}

/// `GET /v1/receipts/{id}`: everything needed to check a charge without trusting anyone.
#[derive(Clone, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct JobReceipt {
    /// The id that the client saw.
    pub id: String,
    /// Always `receipt`.
    pub object: String,
    /// The job.
    pub job: String,
    /// The catalogue's model id.
    pub model: String,
    /// Unix seconds.
    pub created: u64,
    /// Prompt tokens charged, over all attempts.
    pub prompt_tokens: u32,
    /// Completion tokens charged, over all attempts.
    pub completion_tokens: u32,
    /// What the client paid, over all attempts.
    #[serde(rename = "charge_usd")]
    #[schema(value_type = String)]
    pub charge: NanoUsd,
    /// The attempts, in order.
    pub attempts: Vec<AttemptProof>,
}

/// Why a receipt does not verify.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// A record is no settlement record, or belongs to another job or attempt.
    #[error("attempt {0}: the settlement record is malformed or of another job")]
    Record(usize),
    /// The gateway's signature does not hold.
    #[error("attempt {0}: the gateway's signature: {1}")]
    Settlement(usize, JwsError),
    /// The provider's receipt is missing or not signed yet.
    #[error("attempt {0}: no signed receipt of the provider's yet")]
    Unsigned(usize),
    /// The provider's signature does not hold, or it is another's.
    #[error("attempt {0}: the provider's signature: {1}")]
    Provider(usize, JwsError),
    /// The two sides disagree.
    #[error("attempt {0}: gateway and provider disagree on {1}")]
    Disagree(usize, &'static str),
    /// The parts do not sum to the whole.
    #[error("the attempts do not sum to what the receipt says was charged")]
    Sum,
}

impl JobReceipt {
    /// Checks every signature and every sum, offline. `keys` is the gateway's published JWK set.
    pub fn verify(&self, keys: &JwkSet) -> Result<(), VerifyError> {
        let (mut prompt, mut completion, mut charge) = (0u32, 0u32, NanoUsd::ZERO);
        for (place, attempt) in self.attempts.iter().enumerate() {
            let at = place + 1;
            let record = attempt.verify(at, keys)?;
            if record.id != self.id || record.job != self.job {
                return Err(VerifyError::Record(at));
            }
            prompt = prompt.checked_add(record.prompt_tokens).ok_or(VerifyError::Sum)?;
            completion = completion.checked_add(record.completion_tokens).ok_or(VerifyError::Sum)?;
            charge = charge.checked_add(record.charge).ok_or(VerifyError::Sum)?;
        }
        match (prompt, completion, charge) == (self.prompt_tokens, self.completion_tokens, self.charge) {
            true => Ok(()),
            false => Err(VerifyError::Sum),
        }
    }
}

impl AttemptProof {
    fn verify(&self, at: usize, keys: &JwkSet) -> Result<SettlementRecord, VerifyError> {
        let record: SettlementRecord = serde_json::from_str(&self.record).map_err(|_| VerifyError::Record(at))?;
        let gateway = jws::key_id(&self.settlement.jws)
            .and_then(|kid| keys.find(&kid).and_then(PublicKey::from_jwk).ok_or(JwsError::BadSignature))
            .map_err(|error| VerifyError::Settlement(at, error))?;
        self.settlement
            .verify(SETTLEMENTS_TYP, gateway, Hash::of_leaf(&[self.record.as_bytes()]))
            .map_err(|error| VerifyError::Settlement(at, error))?;

        if record.charge == NanoUsd::ZERO {
            return Ok(record); // nothing to prove: a provider that declined or failed owes no receipt
        }
        let (Some(receipt), Some(proof)) = (&self.receipt, &self.proof) else { return Err(VerifyError::Unsigned(at)) };
        let provider = jws::embedded_key(&proof.jws).map_err(|error| VerifyError::Provider(at, error))?;
        if provider.thumbprint() != record.provider {
            return Err(VerifyError::Disagree(at, "who served it"));
        }
        proof.verify(RECEIPTS_TYP, provider, receipt.leaf()).map_err(|error| VerifyError::Provider(at, error))?;
        let ticket: Ticket = jws::peek(&receipt.ticket).map_err(|error| VerifyError::Provider(at, error))?;
        let claims = receipt.parse_claims().map_err(|error| VerifyError::Provider(at, error))?;
        if (&ticket.job, ticket.attempt, &ticket.provider) != (&record.job, record.attempt, &record.provider) {
            return Err(VerifyError::Disagree(at, "which attempt it was"));
        }
        if record.completion_tokens > claims.completion_tokens || record.prompt_tokens > claims.prompt_tokens {
            return Err(VerifyError::Disagree(at, "how many tokens were delivered"));
        }
        if ticket.price.cost(record.prompt_tokens, record.completion_tokens) != Some(record.charge) {
            return Err(VerifyError::Disagree(at, "what the tokens cost"));
        }
        // An answer that broke off may have left the provider further than it reached the gateway; a whole one is the same on both sides.
        if record.delivered_sha256.is_some_and(|hash| hash != claims.delivered_sha256) {
            return Err(VerifyError::Disagree(at, "the bytes that were delivered"));
        }
        Ok(record)
    }
}
