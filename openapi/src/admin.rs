//! The operator's API under `/admin/v1`: what is asked and answered there. Times are Unix microseconds, amounts decimal
//! strings of US dollars.

mod erasing;
mod keys;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::modality::Modality;
use crate::money::{NanoUsd, TokenPrice};
pub use erasing::{EraseAccount, Erased, ErasedRows, LeftoverCredit};
pub use keys::{ChangeKey, CreateKey, CreatedKey, Key, Limits};

/// One page of a list, oldest first.
#[derive(Clone, Debug, Serialize)]
pub struct Page<T> {
    /// `list`.
    pub object: &'static str,
    /// What is on it.
    pub data: Vec<T>,
    /// Whether more follows.
    pub has_more: bool,
    /// For `after`, to get the next page; null on the last one.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// The same page with other items.
    pub fn map<U>(self, describe: impl FnMut(T) -> U) -> Page<U> {
        let data = self.data.into_iter().map(describe).collect();
        Page { object: self.object, data, has_more: self.has_more, next_cursor: self.next_cursor }
    }
}

/// A customer's account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = AdminAccount)]
pub struct Account {
    /// `acct_…`
    pub id: String,
    /// What the operator calls it; empty once it was erased.
    pub name: String,
    /// Unix microseconds.
    pub created_at_us: i64,
    /// Unix microseconds; null while it is open.
    pub closed_at_us: Option<i64>,
    /// When all that was personal of it was erased, Unix microseconds; null if it was not.
    pub erased_at_us: Option<i64>,
    /// What it has.
    pub balance: Balance,
}

/// What an account has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = AdminBalance)]
pub struct Balance {
    /// Not set aside for any gateway: what can be refunded.
    #[schema(value_type = String, pattern = r"^-?[0-9]+(\.[0-9]+)?$")]
    pub credit_usd: NanoUsd,
    /// Set aside for gateways, or held for what they are serving.
    #[schema(value_type = String, pattern = r"^-?[0-9]+(\.[0-9]+)?$")]
    pub allowances_usd: NanoUsd,
    /// Both together.
    #[schema(value_type = String, pattern = r"^-?[0-9]+(\.[0-9]+)?$")]
    pub spendable_usd: NanoUsd,
    /// How much of that was given away, not paid for: it is spent first, and not refunded.
    #[schema(value_type = String, pattern = r"^-?[0-9]+(\.[0-9]+)?$")]
    pub promotional_usd: NanoUsd,
}

/// An account to open.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateAccount {
    /// What to call it: 1 to 200 characters, none of them a control character.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$", example = "Ana")]
    pub name: String,
}

/// Where credit comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CreditSource {
    /// The customer paid.
    Paid,
    /// The operator gives it away.
    Promotional,
}

/// Credit to add.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddCredit {
    /// US dollars, above zero, a billion at most.
    #[schema(value_type = String, pattern = r"^[0-9]{1,9}(\.[0-9]{1,9})?$", example = "25.00")]
    pub amount_usd: NanoUsd,
    /// Where it comes from.
    pub kind: CreditSource,
    /// What for, such as a payment's id: the same one is not credited twice. Empty or absent: not compared.
    #[serde(default)]
    #[schema(max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", example = "invoice 2026-118")]
    pub reference: String,
}

/// Credit to pay back.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Refund {
    /// US dollars, above zero; at most the account's `credit_usd`.
    #[schema(value_type = String, pattern = r"^[0-9]{1,9}(\.[0-9]{1,9})?$", example = "5.00")]
    pub amount_usd: NanoUsd,
    /// What for: the same one is not refunded twice. Empty or absent: not compared.
    #[serde(default)]
    #[schema(max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    pub reference: String,
}

/// Money that moved to or from an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreditMoved {
    /// `acct_…`
    pub account: String,
    /// How much.
    #[schema(value_type = String, pattern = r"^-?[0-9]+(\.[0-9]+)?$")]
    pub amount_usd: NanoUsd,
    /// What for.
    pub reference: String,
    /// What the account has now.
    pub balance: Balance,
}

/// How far a provider is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProviderStanding {
    /// On probation.
    Newcomer,
    /// Trusted by the operator.
    Trusted,
    /// Shut out.
    Banned,
}

/// A standing to set.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetStanding {
    /// How far the provider is trusted from now on.
    pub standing: ProviderStanding,
}

/// A provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = AdminProvider)]
pub struct Provider {
    /// Its key's thumbprint (RFC 7638).
    pub id: String,
    /// How far it is trusted.
    pub standing: ProviderStanding,
    /// When it joined first, Unix microseconds.
    pub first_seen_us: i64,
    /// Since when it has this standing, Unix microseconds.
    pub standing_since_us: i64,
}

/// A line of the audit log: what an operator changed, or tried to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// `aud_…`
    pub id: String,
    /// Unix microseconds.
    pub at_us: i64,
    /// Who: the token's subject.
    pub subject: String,
    /// Who issued the token.
    pub issuer: String,
    /// What it allowed: `admin`, `billing` or `read-only`.
    pub role: String,
    /// The HTTP method.
    pub method: String,
    /// The route.
    pub route: String,
    /// The id of what was acted on; empty where nothing was.
    pub resource: String,
    /// The HTTP status.
    pub status: u16,
    /// The request's id, as in the gateway's log.
    pub request_id: String,
    /// Its `Idempotency-Key`; empty where there was none, and after 30 days.
    pub idempotency_key: String,
    /// What else there is to say: how much was erased, or `replayed` where it was a repeated call; null where there is nothing.
    #[schema(value_type = Option<Object>)]
    pub detail: Option<serde_json::Value>,
}

/// One movement on one ledger account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LedgerEntry {
    /// The posting that it is a part of: `pst_…`. The entries of a posting sum to zero.
    pub posting: String,
    /// What the posting is for, such as `settle` or `credit_paid`.
    pub kind: String,
    /// What outside the ledger it belongs to: a batch of settled attempts, a job and attempt, a payment.
    pub reference: String,
    /// Unix microseconds.
    pub at_us: i64,
    /// The ledger account, such as `credit:acct_…`, `pending:…` or `revenue`.
    pub account: String,
    /// How much it gained.
    #[schema(value_type = String, pattern = r"^-?[0-9]+(\.[0-9]+)?$")]
    pub amount_usd: NanoUsd,
}

/// What a check of the books found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BooksCheck {
    /// Whether nothing is wrong.
    pub right: bool,
    /// Ledger accounts that were checked.
    pub accounts: i64,
    /// Postings that were checked.
    pub postings: i64,
    /// Settled attempts that were checked.
    pub attempts: i64,
    /// What is wrong, the first thousand.
    pub differences: Vec<String>,
}

/// A model of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CatalogueModel {
    /// The name that clients use.
    pub id: String,
    /// Other names for it.
    pub aliases: Vec<String>,
    /// Weights digests that are accepted; empty for any.
    pub digests: Vec<String>,
    /// Tokens of prompt and completion together.
    pub context_length: u32,
    /// Completion tokens of one answer at most, where that is less.
    pub max_completion_tokens: Option<u32>,
    /// What it takes.
    pub input_modalities: Vec<Modality>,
    /// What it gives.
    pub output_modalities: Vec<Modality>,
    /// The digest of its tokenizer (`lumbung-gateway models tokenizer`); null: providers' counts are not checked.
    pub tokenizer: Option<String>,
    /// The price in force: the cap on what a provider may ask.
    pub reference: TokenPrice,
    /// Unix microseconds.
    pub created_at_us: i64,
}

/// A model as it should be in the catalogue.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutModel {
    /// Other names for it: visible ASCII.
    #[serde(default)]
    #[schema(max_items = 64)]
    pub aliases: Vec<String>,
    /// Weights digests that are accepted (`sha256:…`); none: any weights.
    #[serde(default)]
    #[schema(max_items = 64)]
    pub digests: Vec<String>,
    /// Tokens of prompt and completion together.
    #[schema(minimum = 1, example = 32768)]
    pub context_length: u32,
    /// Completion tokens of one answer at most.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub max_completion_tokens: Option<u32>,
    /// What it takes; a request with anything else is refused.
    #[serde(default = "text_alone")]
    #[schema(min_items = 1, max_items = 64)]
    pub input_modalities: Vec<Modality>,
    /// What it gives.
    #[serde(default = "text_alone")]
    #[schema(min_items = 1, max_items = 64)]
    pub output_modalities: Vec<Modality>,
    /// The reference price from now on: the cap on what a provider may ask.
    pub reference: TokenPrice,
}

fn text_alone() -> Vec<Modality> {
    vec![Modality::Text]
}

/// A model that is in the catalogue no more. Its price history stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Removed {
    /// What was removed.
    pub id: String,
    /// True.
    pub removed: bool,
}

/// A reference price and when it begins; it ends when the next one begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModelPrice {
    /// Unix microseconds.
    pub valid_from_us: i64,
    /// Dollars per million prompt tokens.
    #[schema(value_type = String, pattern = r"^[0-9]+(\.[0-9]+)?$")]
    pub prompt_usd_per_mtok: NanoUsd,
    /// Dollars per million completion tokens.
    #[schema(value_type = String, pattern = r"^[0-9]+(\.[0-9]+)?$")]
    pub completion_usd_per_mtok: NanoUsd,
    /// When it was set, Unix microseconds.
    pub created_at_us: i64,
}

/// A reference price to set.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetPrice {
    /// Dollars per million prompt tokens.
    #[schema(value_type = String, pattern = r"^[0-9]{1,9}(\.[0-9]{1,9})?$", example = "0.10")]
    pub prompt_usd_per_mtok: NanoUsd,
    /// Dollars per million completion tokens.
    #[schema(value_type = String, pattern = r"^[0-9]{1,9}(\.[0-9]{1,9})?$", example = "0.40")]
    pub completion_usd_per_mtok: NanoUsd,
    /// From when on, Unix microseconds, not in the past; absent: from now on. Jobs admitted before are charged as before.
    #[serde(default)]
    pub valid_from_us: Option<i64>,
}
