//! What a receipt rests on: the gateway's own ticket, and its last voucher.

use lumbung_openapi::receipt::ReceiptClaims;
use lumbung_openapi::ticket::Ticket;
use lumbung_openapi::voucher::Voucher;

use super::refusal::Refusal;
use super::settlement::Tokens;

/// A receipt's ticket and what was vouched for beyond it; both verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    /// The ticket, its ceiling raised to the voucher's.
    pub ticket: Ticket,
    /// Completion tokens that the gateway is known to have received; `None` without a voucher.
    tokens: Option<u32>,
}

impl Backing {
    /// Puts a ticket and the voucher that came with the receipt together.
    pub fn of(mut ticket: Ticket, voucher: Option<&Voucher>) -> Result<Self, Refusal> {
        if let Some(voucher) = voucher {
            if voucher.job != ticket.job || voucher.attempt != ticket.attempt {
                return Err(Refusal::AnotherVoucher);
            }
            ticket.ceiling = ticket.ceiling.max(voucher.ceiling);
        }
        Ok(Self { ticket, tokens: voucher.map(|voucher| voucher.tokens) })
    }

    /// The tokens to pay for where the gateway died and the receipt stands alone: the completion up to the last voucher.
    /// The ticket itself vouches for the prompt, unless the answer counts only as a whole: then nothing is owed before
    /// the voucher that came with its end, for the client got nothing and asks again.
    pub fn vouched(&self, claims: &ReceiptClaims) -> Tokens {
        let completion = match (self.tokens, self.ticket.whole) {
            (Some(tokens), _) => tokens,
            (None, false) => 0,
            (None, true) => return Tokens::default(),
        };
        Tokens::from(claims).lower(Tokens { prompt: u32::MAX, completion })
    }
}

#[cfg(test)]
mod tests {
    use lumbung_openapi::merkle::Hash;
    use lumbung_openapi::money::NanoUsd;

    use super::*;
    use crate::domain::settlement::tests::ticket;

    fn claims() -> ReceiptClaims {
        ReceiptClaims {
            weights_digest: String::new(),
            prompt_tokens: 10,
            cached_tokens: 0,
            completion_tokens: 100,
            delivered_sha256: Hash([0; 32]),
        }
    }

    fn voucher(ticket: &Ticket, tokens: u32) -> Voucher {
        Voucher { job: ticket.job.clone(), attempt: ticket.attempt, tokens, ceiling: ticket.ceiling }
    }

    fn vouched(ticket: &Ticket, tokens: Option<u32>) -> Tokens {
        let voucher = tokens.map(|tokens| voucher(ticket, tokens));
        Backing::of(ticket.clone(), voucher.as_ref()).expect("its own voucher").vouched(&claims())
    }

    #[test]
    fn a_receipt_alone_is_worth_what_was_vouched_for() {
        let (ticket, _) = ticket();
        let tokens = |prompt, completion| Tokens { prompt, completion };
        assert_eq!(vouched(&ticket, Some(64)), tokens(10, 64), "inflated claims are cut");
        assert_eq!(vouched(&ticket, Some(128)), tokens(10, 100), "no more than is claimed");
        assert_eq!(vouched(&ticket, None), tokens(10, 0), "the ticket vouches for the prompt");
        let whole = Ticket { whole: true, ..ticket };
        assert_eq!(vouched(&whole, None), tokens(0, 0), "nothing of an answer that never was whole");
        assert_eq!(vouched(&whole, Some(100)), tokens(10, 100));
    }

    #[test]
    fn a_voucher_raises_the_ceiling_and_never_lowers_it() {
        let (ticket, _) = ticket();
        let more = NanoUsd::from_nanos(ticket.ceiling.nanos() + 1);
        let raised = Voucher { ceiling: more, ..voucher(&ticket, 1) };
        assert_eq!(Backing::of(ticket.clone(), Some(&raised)).map(|b| b.ticket.ceiling), Ok(more));
        let lower = Voucher { ceiling: NanoUsd::ZERO, ..voucher(&ticket, 1) };
        assert_eq!(Backing::of(ticket.clone(), Some(&lower)).map(|b| b.ticket.ceiling), Ok(ticket.ceiling));
    }

    #[test]
    fn a_voucher_for_another_attempt_is_refused() {
        let (ticket, _) = ticket();
        let other_job = Voucher { job: "job_other".into(), ..voucher(&ticket, 1) };
        let other_attempt = Voucher { attempt: 2, ..voucher(&ticket, 1) };
        for voucher in [other_job, other_attempt] {
            assert_eq!(Backing::of(ticket.clone(), Some(&voucher)), Err(Refusal::AnotherVoucher));
        }
    }
}
