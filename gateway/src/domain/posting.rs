//! Double entry. A [`Posting`] cannot be made that does not sum to zero.

use std::collections::BTreeMap;
use std::fmt;

use lumbung_openapi::money::NanoUsd;

use super::ids::{AccountId, AllowanceId, PayoutId, PostingId, ProviderId};

/// A ledger account, by the text that the books know it under.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LedgerId(String);

impl LedgerId {
    /// What a customer's account can still spend or set aside.
    pub fn credit(account: AccountId) -> Self {
        Self(format!("credit:{account}"))
    }

    /// What a replica may spend of an account's money.
    pub fn allowance(allowance: AllowanceId) -> Self {
        Self(allowance.to_string())
    }

    /// What a provider has earned and may still lose.
    pub fn provider_pending(provider: &ProviderId) -> Self {
        Self(format!("pending:{provider}"))
    }

    /// What a provider has earned for good.
    pub fn provider_payable(provider: &ProviderId) -> Self {
        Self(format!("payable:{provider}"))
    }

    /// What a provider earned from promotional credit, until the operator has decided about it.
    pub fn provider_promotional(provider: &ProviderId) -> Self {
        Self(format!("promotional:{provider}"))
    }

    /// What is on its way to a provider, until the operator confirms that it has arrived.
    pub fn payout(payout: PayoutId) -> Self {
        Self(format!("payout:{payout}"))
    }

    /// The operator's fees.
    pub fn revenue() -> Self {
        Self("revenue".into())
    }

    /// Where money comes from and goes to: the only account that owes.
    pub fn outside() -> Self {
        Self("outside".into())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What kind of account it is.
    pub fn kind(&self) -> LedgerKind {
        match self.0.split(':').next() {
            Some("credit") => LedgerKind::Credit,
            Some("pending") => LedgerKind::ProviderPending,
            Some("payable") => LedgerKind::ProviderPayable,
            Some("promotional") => LedgerKind::ProviderPromotional,
            Some("payout") => LedgerKind::Payout,
            Some("revenue") => LedgerKind::Revenue,
            Some("outside") => LedgerKind::Outside,
            _ => LedgerKind::Allowance,
        }
    }

    /// Whose it is: the part after the colon; empty where there is none.
    pub fn owner(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, owner)| owner)
    }
}

impl fmt::Display for LedgerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The kinds of ledger accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LedgerKind {
    /// A customer's credit.
    Credit,
    /// A replica's part of it.
    Allowance,
    /// A provider's earnings within the holdback time.
    ProviderPending,
    /// A provider's earnings after it.
    ProviderPayable,
    /// A provider's earnings from promotional credit, undecided.
    ProviderPromotional,
    /// A payout on its way.
    Payout,
    /// The operator's fees.
    Revenue,
    /// The outside world.
    Outside,
}

impl LedgerKind {
    /// As the books name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Credit => "credit",
            Self::Allowance => "allowance",
            Self::ProviderPending => "provider_pending",
            Self::ProviderPayable => "provider_payable",
            Self::ProviderPromotional => "provider_promotional",
            Self::Payout => "payout",
            Self::Revenue => "revenue",
            Self::Outside => "outside",
        }
    }

    /// Whether so many postings touch one row of this kind that it must not be locked for each:
    /// its entries are queued, and rolled up into the balance later.
    pub fn is_busy(self) -> bool {
        matches!(self, Self::ProviderPending | Self::ProviderPromotional | Self::Revenue | Self::Outside)
    }
}

/// What a posting is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostingKind {
    /// A customer paid.
    CreditPaid,
    /// The operator gave credit away.
    CreditPromotional,
    /// Paid credit paid back.
    Refund,
    /// Credit that was given away, and lapsed unspent.
    PromotionalLapsed,
    /// Paid credit that nobody wants back.
    Forfeit,
    /// Credit set aside for a replica.
    Reserve,
    /// What a replica did not need.
    GiveBack,
    /// What a replica that is gone left behind.
    Release,
    /// The charges of a batch of attempts.
    Settle,
    /// A receipt claimed less than was charged.
    Correct,
    /// No receipt came in time.
    Withheld,
    /// Earnings whose holdback time is over.
    Mature,
    /// Earnings taken back before that.
    Clawback,
    /// The operator let a provider have what promotional credit had paid for.
    PromotionalApproved,
    /// The operator did not.
    PromotionalRefused,
    /// Payable earnings sent on their way.
    Payout,
    /// They have arrived.
    PayoutConfirmed,
    /// They have not, and are payable again.
    PayoutReversed,
}

impl PostingKind {
    /// As the books name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CreditPaid => "credit_paid",
            Self::CreditPromotional => "credit_promotional",
            Self::Refund => "refund",
            Self::PromotionalLapsed => "promotional_lapsed",
            Self::Forfeit => "forfeit",
            Self::Reserve => "reserve",
            Self::GiveBack => "give_back",
            Self::Release => "release",
            Self::Settle => "settle",
            Self::Correct => "correct",
            Self::Withheld => "withheld",
            Self::Mature => "mature",
            Self::Clawback => "clawback",
            Self::PromotionalApproved => "promotional_approved",
            Self::PromotionalRefused => "promotional_refused",
            Self::Payout => "payout",
            Self::PayoutConfirmed => "payout_confirmed",
            Self::PayoutReversed => "payout_reversed",
        }
    }
}

/// Movements of money that sum to zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posting {
    id: Option<PostingId>,
    kind: PostingKind,
    reference: String,
    entries: BTreeMap<LedgerId, NanoUsd>,
}

impl Posting {
    /// Each of `parts` goes to its account, and what they sum to comes from `source`; negative parts go the other way.
    /// `None` where 64 bits do not hold the sum. Entries of nothing are left out.
    pub fn from_source(
        kind: PostingKind,
        reference: impl Into<String>,
        source: LedgerId,
        parts: impl IntoIterator<Item = (LedgerId, NanoUsd)>,
    ) -> Option<Self> {
        Self::of_moves(kind, reference, parts.into_iter().map(|(account, amount)| (source.clone(), account, amount)))
    }

    /// Each move takes its amount from the first account to the second; a negative amount goes the other way. `None` where 64
    /// bits do not hold a sum. Entries of nothing are left out.
    pub fn of_moves(
        kind: PostingKind,
        reference: impl Into<String>,
        moves: impl IntoIterator<Item = (LedgerId, LedgerId, NanoUsd)>,
    ) -> Option<Self> {
        let mut entries: BTreeMap<LedgerId, NanoUsd> = BTreeMap::new();
        let mut book = |account: LedgerId, amount: NanoUsd| {
            let balance = entries.entry(account).or_default();
            *balance = balance.checked_add(amount)?;
            Some(())
        };
        for (from, to, amount) in moves {
            book(from, NanoUsd::ZERO.checked_sub(amount)?)?;
            book(to, amount)?;
        }
        entries.retain(|_, amount| *amount != NanoUsd::ZERO);
        Some(Self { id: None, kind, reference: reference.into(), entries })
    }

    /// Under this id instead of a fresh one, so that whoever does not know whether it was written can look.
    pub fn with_id(self, id: PostingId) -> Self {
        Self { id: Some(id), ..self }
    }

    /// Its id, if it has one before it is written.
    pub fn id(&self) -> Option<PostingId> {
        self.id
    }

    /// What it is for.
    pub fn kind(&self) -> PostingKind {
        self.kind
    }

    /// What outside the ledger it belongs to: a batch of attempts, a job and attempt, a payment.
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// Its entries, ordered by account, none of them zero.
    pub fn entries(&self) -> impl Iterator<Item = (&LedgerId, NanoUsd)> {
        self.entries.iter().map(|(account, amount)| (account, *amount))
    }

    /// Whether nothing moves.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn usd(nanos: i64) -> NanoUsd {
        NanoUsd::from_nanos(nanos)
    }

    proptest! {
        #[test]
        fn whatever_moves_a_posting_sums_to_zero(
            moves in prop::collection::vec((0..5u8, 0..5u8, -1_000_000..1_000_000i64), 0..8),
        ) {
            let account = |i: u8| LedgerId(format!("pending:{i}"));
            let moves = moves.into_iter().map(|(from, to, amount)| (account(from), account(to), usd(amount)));
            let posting = Posting::of_moves(PostingKind::Settle, "", moves).expect("small amounts");
            prop_assert_eq!(posting.entries().map(|(_, amount)| amount.nanos()).sum::<i64>(), 0);
            prop_assert!(posting.entries().all(|(_, amount)| amount != NanoUsd::ZERO));
        }
    }

    #[test]
    fn money_beyond_64_bits_is_no_posting() {
        let parts = [(LedgerId::revenue(), NanoUsd::MAX), (LedgerId::revenue(), usd(1))];
        assert_eq!(Posting::from_source(PostingKind::Settle, "", LedgerId::outside(), parts), None);
        let parts = [(LedgerId::revenue(), usd(i64::MIN))];
        assert_eq!(Posting::from_source(PostingKind::Settle, "", LedgerId::outside(), parts), None);
    }

    #[test]
    fn a_ledger_id_knows_its_kind_and_owner() {
        let account = AccountId::fresh();
        assert_eq!(LedgerId::credit(account).kind(), LedgerKind::Credit);
        assert_eq!(LedgerId::credit(account).owner(), account.to_string());
        assert_eq!(LedgerId::allowance(AllowanceId::fresh()).kind(), LedgerKind::Allowance);
        assert_eq!(LedgerId::revenue().kind(), LedgerKind::Revenue);
        assert_eq!(LedgerId::outside().owner(), "");
    }
}
