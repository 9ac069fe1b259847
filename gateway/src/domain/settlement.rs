//! What one attempt costs: from the ticket, what the gateway counted and what the provider claims, whichever is lower.

use lumbung_openapi::merkle::Hash;
use lumbung_openapi::money::{NanoUsd, TokenPrice};
use lumbung_openapi::receipt::{ReceiptClaims, Recount, SettlementRecord};
use lumbung_openapi::ticket::Ticket;

/// What the gateway itself saw of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Prompt tokens, as far as the gateway knows them.
    pub prompt_tokens: u32,
    /// How many of them came from a prefix cache.
    pub cached_tokens: u32,
    /// Completion tokens in whole frames that arrived.
    pub completion_tokens: u32,
    /// SHA-256 over the client's bytes; `None` where the answer broke off, because the provider may have sent more.
    pub delivered_sha256: Option<Hash>,
    /// OpenAI's `finish_reason`, or why there is none.
    pub finish_reason: String,
    /// When the client's request came, Unix microseconds.
    pub received_us: i64,
    /// When the provider was asked, Unix microseconds.
    pub started_us: i64,
    /// When the first token arrived, Unix microseconds; `None` where none did.
    pub first_token_us: Option<i64>,
    /// When the attempt was over, Unix microseconds.
    pub finished_us: i64,
}

/// Tokens in and out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Prompt tokens.
    pub prompt: u32,
    /// Completion tokens.
    pub completion: u32,
}

impl Tokens {
    /// The lower figure of each.
    pub fn lower(self, other: Self) -> Self {
        Self { prompt: self.prompt.min(other.prompt), completion: self.completion.min(other.completion) }
    }

    /// The lower figure of each, where counting again found one.
    pub fn recounted(self, recount: &Recount) -> Self {
        let found = |figure: Option<u32>| figure.unwrap_or(u32::MAX);
        self.lower(Self { prompt: found(recount.prompt_tokens), completion: found(recount.completion_tokens) })
    }
}

impl From<&Counted> for Tokens {
    fn from(counted: &Counted) -> Self {
        Self { prompt: counted.prompt_tokens, completion: counted.completion_tokens }
    }
}

impl From<&ReceiptClaims> for Tokens {
    fn from(claims: &ReceiptClaims) -> Self {
        Self { prompt: claims.prompt_tokens, completion: claims.completion_tokens }
    }
}

/// What an attempt is charged, and for which tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Charge {
    /// The tokens that are paid for.
    pub tokens: Tokens,
    /// What the client pays: the ask times the tokens.
    pub amount: NanoUsd,
    /// The operator's part of it.
    pub fee: NanoUsd,
}

impl Charge {
    /// What these tokens cost under `ticket`, where no more than `left` of the job's ceiling is left to spend:
    /// never for more tokens than the ticket allows, and never more than its ceiling. Where the money ends first,
    /// fewer tokens are charged, so that a charge is always the price of the tokens it names.
    pub fn of(ticket: &Ticket, tokens: Tokens, left: NanoUsd) -> Self {
        // An ask below zero would mint money; the gateway makes no such ticket.
        if ticket.price.is_negative() {
            return Self::default();
        }
        let most = Tokens { prompt: ticket.max_prompt_tokens, completion: ticket.max_completion_tokens };
        let (tokens, amount) = affordable(&ticket.price, tokens.lower(most), ticket.ceiling.min(left));
        Self { tokens, amount, fee: amount.basis_points(ticket.fee_bps) }
    }

    /// The provider's part.
    pub fn share(&self) -> NanoUsd {
        // The fee is at most the amount: basis points are capped at all of it.
        self.amount.checked_sub(self.fee).unwrap_or(NanoUsd::ZERO)
    }

    /// What the gateway signs. `delivered` is the hash of what arrived, if anything could.
    pub fn record(&self, ticket: &Ticket, delivered: Option<Hash>) -> SettlementRecord {
        SettlementRecord {
            id: ticket.public_id.clone(),
            job: ticket.job.clone(),
            attempt: ticket.attempt,
            provider: ticket.provider.clone(),
            model: ticket.model.clone(),
            prompt_tokens: self.tokens.prompt,
            completion_tokens: self.tokens.completion,
            charge: self.amount,
            fee: self.fee,
            delivered_sha256: delivered,
        }
    }
}

/// Divides the tokens that an answer was found to have among the attempts that made it, in order. Each has claimed so many
/// tokens, and when it ended, the text `so_far` was found to have so many: `None` where there was none yet to count. What
/// each has added is its own; what that leaves over goes to whoever claims more, because a token's text may come only
/// with the next one, from another provider. No attempt gets more than it claims, and all together no more than was found.
/// `None` for everyone where the whole text was not counted; where it has as many tokens as are claimed, that figure.
pub fn shares_of(claimed: &[u32], so_far: &[Option<u32>]) -> Vec<Option<u32>> {
    let Some(Some(total)) = so_far.last().copied() else { return vec![None; claimed.len()] };
    if let [_] = claimed {
        return vec![Some(total)];
    }
    let (mut before, mut left) = (0u32, total);
    let mut shares: Vec<u32> = Vec::with_capacity(claimed.len());
    for (claimed, so_far) in claimed.iter().zip(so_far) {
        let added = so_far.map_or(*claimed, |so_far| so_far.saturating_sub(before));
        before = so_far.map_or(before.saturating_add(*claimed), |so_far| so_far.max(before));
        let share = added.min(*claimed).min(left);
        left -= share;
        shares.push(share);
    }
    for (share, claimed) in shares.iter_mut().zip(claimed) {
        let more = (claimed - *share).min(left);
        (*share, left) = (*share + more, left - more);
    }
    shares.into_iter().map(Some).collect()
}

/// How many completion tokens, at most `most`, a ceiling pays for beside a prompt of so many tokens.
pub fn completion_paid_by(price: &TokenPrice, ceiling: NanoUsd, prompt: u32, most: u32) -> u32 {
    largest(most, |completion| price.cost(prompt, completion).is_some_and(|cost| cost <= ceiling))
}

/// As many of `tokens` as `limit` pays for, the completion cut first, and what they cost.
fn affordable(price: &TokenPrice, tokens: Tokens, limit: NanoUsd) -> (Tokens, NanoUsd) {
    let fits = |prompt, completion| price.cost(prompt, completion).filter(|cost| *cost <= limit);
    let prompt = largest(tokens.prompt, |prompt| fits(prompt, 0).is_some());
    let completion = largest(tokens.completion, |completion| fits(prompt, completion).is_some());
    match fits(prompt, completion) {
        Some(cost) => (Tokens { prompt, completion }, cost),
        None => (Tokens::default(), NanoUsd::ZERO), // a limit below zero
    }
}

/// The largest number up to `most` that passes, where passing is monotonic; zero if none does.
fn largest(most: u32, passes: impl Fn(u32) -> bool) -> u32 {
    if passes(most) {
        return most;
    }
    let (mut low, mut high) = (0, most);
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        match passes(middle) {
            true => low = middle,
            false => high = middle,
        }
    }
    low
}

#[cfg(test)]
pub(crate) mod tests {
    use lumbung_openapi::jws::SigningKey;
    use proptest::prelude::*;

    use super::*;
    use crate::domain::ids::{AllowanceId, JobId, ProviderId, ReplicaId};

    /// A ticket for 100 prompt and 200 completion tokens at 1 and 2 dollars per million, a tenth for the operator.
    pub(crate) fn ticket() -> (Ticket, ProviderId) {
        let provider = ProviderId::from(SigningKey::from_seed(&[1; 32]).public());
        let price = TokenPrice { prompt: usd("1"), completion: usd("2") };
        let ticket = Ticket {
            replica: ReplicaId::fresh().to_string(),
            allowance: AllowanceId::fresh().to_string(),
            job: JobId::fresh().to_string(),
            attempt: 1,
            first_token: 0,
            provider: provider.to_string(),
            model: "tiny".into(),
            digests: vec![],
            price,
            fee_bps: 1000,
            max_prompt_tokens: 100,
            max_completion_tokens: 200,
            whole: false,
            ceiling: price.cost(100, 200).expect("a small cost"),
            request_sha256: Hash([0; 32]),
            public_id: "chatcmpl-1".into(),
            public_model: "tiny".into(),
            created: 1_700_000_000,
            start_by: 1_700_000_010,
            claim_by: 1_700_000_600,
        };
        (ticket, provider)
    }

    fn usd(text: &str) -> NanoUsd {
        text.parse().expect("an amount")
    }

    fn tokens(prompt: u32, completion: u32) -> Tokens {
        Tokens { prompt, completion }
    }

    #[test]
    fn the_lower_figures_stand() {
        assert_eq!(tokens(10, 20).lower(tokens(11, 15)), tokens(10, 15));
    }

    #[test]
    fn a_charge_is_the_ask_times_the_tokens_and_the_fee_comes_out_of_it() {
        let (ticket, _) = ticket();
        let charge = Charge::of(&ticket, tokens(10, 20), NanoUsd::MAX);
        assert_eq!(charge, Charge { tokens: tokens(10, 20), amount: usd("0.00005"), fee: usd("0.000005") });
        assert_eq!(charge.share(), usd("0.000045"));
        let record = charge.record(&ticket, None);
        assert_eq!((record.prompt_tokens, record.completion_tokens, record.charge), (10, 20, usd("0.00005")));
    }

    #[test]
    fn nothing_above_the_ticket_is_charged() {
        let (ticket, _) = ticket();
        let charge = Charge::of(&ticket, tokens(1000, 2000), NanoUsd::MAX);
        assert_eq!((charge.tokens, charge.amount), (tokens(100, 200), ticket.ceiling));
    }

    #[test]
    fn where_the_money_ends_fewer_tokens_are_charged() {
        let (ticket, _) = ticket();
        let charge = Charge::of(&ticket, tokens(100, 200), usd("0.0003"));
        assert_eq!((charge.tokens, charge.amount), (tokens(100, 100), usd("0.0003")));
        let charge = Charge::of(&ticket, tokens(100, 200), usd("0.00005"));
        assert_eq!((charge.tokens, charge.amount), (tokens(50, 0), usd("0.00005")));
        assert_eq!(Charge::of(&ticket, tokens(100, 200), usd("-1")), Charge::default());
    }

    #[test]
    fn what_was_found_is_divided_among_those_who_made_it() {
        let some = |shares: &[u32]| shares.iter().copied().map(Some).collect::<Vec<_>>();
        assert_eq!(shares_of(&[10], &[Some(12)]), some(&[12]), "alone");
        assert_eq!(shares_of(&[10, 54], &[Some(9), Some(64)]), some(&[10, 54]), "a token's text came with the next");
        assert_eq!(shares_of(&[10, 54], &[Some(12), Some(64)]), some(&[10, 54]));
        assert_eq!(shares_of(&[10, 54], &[None, Some(64)]), some(&[10, 54]), "not streamed");
        assert_eq!(shares_of(&[10, 540], &[Some(10), Some(64)]), some(&[10, 54]), "the second inflates");
        assert_eq!(shares_of(&[100, 54], &[Some(10), Some(64)]), some(&[10, 54]), "the first inflates");
        assert_eq!(shares_of(&[100, 540, 7], &[Some(10), Some(64), Some(70)]), some(&[10, 54, 6]));
        assert_eq!(shares_of(&[100, 4], &[None, Some(64)]), some(&[64, 0]));
        assert_eq!(shares_of(&[10, 54], &[Some(10), None]), [None, None], "nobody counted the whole");
        assert_eq!(shares_of(&[], &[]), []);
    }

    #[test]
    fn an_ask_that_pays_the_client_is_no_ask() {
        let (mut ticket, _) = ticket();
        ticket.price.prompt = usd("-1");
        assert_eq!(Charge::of(&ticket, tokens(10, 20), NanoUsd::MAX), Charge::default());
    }

    proptest! {
        #[test]
        fn shares_are_within_what_is_claimed_and_what_was_found(
            attempts in proptest::collection::vec((0..100u32, proptest::option::of(0..300u32)), 2..6), total in 0..300u32,
        ) {
            let claimed: Vec<u32> = attempts.iter().map(|(claimed, _)| *claimed).collect();
            let mut so_far: Vec<Option<u32>> = attempts.iter().map(|(_, so_far)| *so_far).collect();
            *so_far.last_mut().expect("two at least") = Some(total);
            let shares: Vec<u32> = shares_of(&claimed, &so_far).into_iter().flatten().collect();
            prop_assert_eq!(shares.len(), claimed.len());
            prop_assert!(shares.iter().zip(&claimed).all(|(share, claimed)| share <= claimed));
            let all: u32 = claimed.iter().sum();
            prop_assert_eq!(shares.iter().sum::<u32>(), all.min(total), "nobody honest loses anything");
        }

        #[test]
        fn a_charge_is_within_every_limit_and_priced_as_it_says(
            prompt in 0..1000u32, completion in 0..1000u32, ask_in in 0..5_000_000_000i64, ask_out in 0..5_000_000_000i64,
            ceiling in 0..2_000_000i64, left in 0..2_000_000i64, fee_bps in 0..12_000u16,
        ) {
            let (mut ticket, _) = ticket();
            ticket.price = TokenPrice { prompt: NanoUsd::from_nanos(ask_in), completion: NanoUsd::from_nanos(ask_out) };
            ticket.fee_bps = fee_bps;
            ticket.ceiling = NanoUsd::from_nanos(ceiling);
            let charge = Charge::of(&ticket, tokens(prompt, completion), NanoUsd::from_nanos(left));
            prop_assert!(charge.amount.nanos() <= ceiling.min(left));
            prop_assert_eq!(ticket.price.cost(charge.tokens.prompt, charge.tokens.completion), Some(charge.amount));
            prop_assert!(charge.tokens.prompt <= prompt.min(100) && charge.tokens.completion <= completion.min(200));
            prop_assert!(charge.fee >= NanoUsd::ZERO && charge.share() >= NanoUsd::ZERO);
            prop_assert_eq!(charge.share().checked_add(charge.fee), Some(charge.amount));
        }
    }
}
