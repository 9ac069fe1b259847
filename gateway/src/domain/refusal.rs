//! Why a receipt is not paid.

use lumbung_openapi::receipt::ReceiptClaims;
use lumbung_openapi::ticket::Ticket;

use super::ids::ProviderId;

/// Claims are kept word for word, and a provider could pad them: ours have some 200 bytes.
const MAX_CLAIMS_BYTES: usize = 2048;

/// Why a receipt is never to be paid. The text is for the provider's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// The signed root is not over these receipts.
    #[error("the batch's signature does not hold for this receipt")]
    BadSignature,
    /// Not a ticket of this network's, or changed since.
    #[error("it answers no ticket of ours")]
    NoTicket,
    /// The claims are not of the expected shape.
    #[error("its claims are malformed")]
    Malformed,
    /// The ticket went to someone else.
    #[error("its ticket was given to another provider")]
    AnotherProvider,
    /// Not a voucher of this network's, or changed since.
    #[error("its voucher is none of ours")]
    NoVoucher,
    /// The voucher was given for another job, or another attempt at it.
    #[error("its voucher was given for another attempt")]
    AnotherVoucher,
    /// More tokens than the ticket allows.
    #[error("it claims more than its ticket's ceiling")]
    AboveCeiling,
    /// Served with weights that the catalogue does not accept.
    #[error("the weights digest is not accepted for this model")]
    DigestNotAccepted,
    /// After the ticket's claim-by.
    #[error("it came too late: the ticket's claim-by has passed")]
    TooLate,
    /// This attempt has a receipt already, and it is not this one.
    #[error("another receipt for this attempt is in the books")]
    AnotherReceipt,
    /// The money that was set aside has gone back to the account.
    #[error("the allowance that was to pay for it has been given back")]
    Released,
}

impl Refusal {
    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::BadSignature => "bad_signature",
            Self::NoTicket => "no_ticket",
            Self::Malformed => "malformed",
            Self::AnotherProvider => "another_provider",
            Self::NoVoucher => "no_voucher",
            Self::AnotherVoucher => "another_voucher",
            Self::AboveCeiling => "above_ceiling",
            Self::DigestNotAccepted => "digest_not_accepted",
            Self::TooLate => "too_late",
            Self::AnotherReceipt => "another_receipt",
            Self::Released => "released",
        }
    }

    /// Reads claims and judges them by the ticket alone, as [`Refusal::of`] does.
    pub fn of_text(ticket: &Ticket, provider: &ProviderId, claims: &str) -> Result<ReceiptClaims, Self> {
        if claims.len() > MAX_CLAIMS_BYTES {
            return Err(Self::Malformed);
        }
        let claims = serde_json::from_str(claims).map_err(|_| Self::Malformed)?;
        Self::of(ticket, provider, &claims)?;
        Ok(claims)
    }

    /// Judges claims by the ticket alone: whoever signed them, whatever the books say, whatever the time.
    pub fn of(ticket: &Ticket, provider: &ProviderId, claims: &ReceiptClaims) -> Result<(), Self> {
        if ticket.provider != provider.as_str() {
            return Err(Self::AnotherProvider);
        }
        if !ticket.digests.is_empty() && !ticket.digests.contains(&claims.weights_digest) {
            return Err(Self::DigestNotAccepted);
        }
        // A continuation's prompt is paid for by the first attempt: its ticket pays none, but its prompt is as long as ever.
        let prompt_is_paid = ticket.max_prompt_tokens > 0;
        if claims.completion_tokens > ticket.max_completion_tokens
            || (prompt_is_paid && claims.prompt_tokens > ticket.max_prompt_tokens)
        {
            return Err(Self::AboveCeiling);
        }
        Ok(())
    }

    /// Whether a claim on `ticket` comes too late at `now_us` (Unix microseconds).
    pub fn too_late(ticket: &Ticket, now_us: i64) -> bool {
        now_us > claim_by_us(ticket)
    }
}

/// A ticket's claim-by in Unix microseconds; the far future where that does not fit.
pub fn claim_by_us(ticket: &Ticket) -> i64 {
    i64::try_from(ticket.claim_by).ok().and_then(|secs| secs.checked_mul(1_000_000)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use lumbung_openapi::jws::SigningKey;
    use lumbung_openapi::merkle::Hash;

    use super::*;
    use crate::domain::settlement::tests::ticket;

    fn claims() -> ReceiptClaims {
        ReceiptClaims {
            weights_digest: "sha256:a".into(),
            prompt_tokens: 10,
            cached_tokens: 0,
            completion_tokens: 20,
            delivered_sha256: Hash([0; 32]),
        }
    }

    #[test]
    fn claims_within_the_ticket_stand() {
        let (ticket, provider) = ticket();
        assert_eq!(Refusal::of(&ticket, &provider, &claims()), Ok(()));
        let most = ReceiptClaims {
            prompt_tokens: ticket.max_prompt_tokens,
            completion_tokens: ticket.max_completion_tokens,
            ..claims()
        };
        assert_eq!(Refusal::of(&ticket, &provider, &most), Ok(()));
    }

    #[test]
    fn each_reason_is_told_apart() {
        let (ticket, provider) = ticket();
        let other = ProviderId::from(SigningKey::from_seed(&[9; 32]).public());
        assert_eq!(Refusal::of(&ticket, &other, &claims()), Err(Refusal::AnotherProvider));
        let more = ReceiptClaims { completion_tokens: ticket.max_completion_tokens + 1, ..claims() };
        assert_eq!(Refusal::of(&ticket, &provider, &more), Err(Refusal::AboveCeiling));
        let more = ReceiptClaims { prompt_tokens: ticket.max_prompt_tokens + 1, ..claims() };
        assert_eq!(Refusal::of(&ticket, &provider, &more), Err(Refusal::AboveCeiling));
        let weights = ReceiptClaims { weights_digest: "sha256:b".into(), ..claims() };
        assert_eq!(Refusal::of(&ticket, &provider, &weights), Ok(()), "the catalogue names no digest");
        let strict = Ticket { digests: vec!["sha256:a".into()], ..ticket.clone() };
        assert_eq!(Refusal::of(&strict, &provider, &claims()), Ok(()));
        assert_eq!(Refusal::of(&strict, &provider, &weights), Err(Refusal::DigestNotAccepted));
    }

    #[test]
    fn claims_are_json_of_a_reasonable_length() {
        let (ticket, provider) = ticket();
        let text = serde_json::to_string(&claims()).expect("JSON");
        assert_eq!(Refusal::of_text(&ticket, &provider, &text), Ok(claims()));
        let padded = text + &" ".repeat(MAX_CLAIMS_BYTES);
        assert_eq!(Refusal::of_text(&ticket, &provider, &padded), Err(Refusal::Malformed));
        assert_eq!(Refusal::of_text(&ticket, &provider, "{}"), Err(Refusal::Malformed));
    }

    #[test]
    fn a_continuation_may_say_how_long_its_prompt_was() {
        let (ticket, provider) = ticket();
        let continuation = Ticket { max_prompt_tokens: 0, attempt: 2, ..ticket };
        assert_eq!(Refusal::of(&continuation, &provider, &claims()), Ok(()));
    }

    #[test]
    fn claim_by_is_the_last_moment() {
        let (ticket, _) = ticket();
        let last = i64::try_from(ticket.claim_by).expect("a time") * 1_000_000;
        assert!(!Refusal::too_late(&ticket, last));
        assert!(Refusal::too_late(&ticket, last + 1));
        assert!(!Refusal::too_late(&Ticket { claim_by: u64::MAX, ..ticket }, last), "no wrap");
    }
}
