//! Which token comes next: all of it is decided here, none of it by mistralrs, whose own sampler has no seed per
//! request, ignores `logit_bias` and has log-probabilities in base 10.
//!
//! The draw is a function of the logits, the request and (seed, choice, position), so that neither a neighbour in the
//! batch nor a change of the provider in mid-answer changes what is drawn.

use std::collections::HashMap;

use llguidance::toktrie::SimpleVob;
use lumbung_openapi::chat::Sampling;
use sha2::{Digest, Sha256};

/// Below this natural logarithm of the ratio to the likeliest token, a token's share is lost in an `f64`'s rounding.
const NEGLIGIBLE: f32 = -40.0;
/// What stands for minus infinity, which JSON cannot express. OpenAI uses the same.
const NEVER: f32 = -9999.0;

/// The model produced something that is no number: nothing can be drawn from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the model's logits are not numbers")]
pub struct NotNumbers;

/// Draws the tokens of one choice.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    seed: i64,
    choice: u8,
    /// Alternatives to tell with each token, if log-probabilities are asked for.
    alternatives: Option<u8>,
    /// How often each token was made in this choice, for the penalties.
    counts: HashMap<u32, u32>,
}

/// A token and what is told of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    /// Its id.
    pub token: u32,
    /// If asked for.
    pub logprobs: Option<Logprobs>,
}

/// Natural logarithms of the probabilities that the model itself gives, before bias, penalties, temperature and top-p:
/// what OpenAI and vLLM tell too, and what anyone with the same weights can recompute from the tokens alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// Of the token drawn.
    pub drawn: f32,
    /// The likeliest tokens, the likeliest first.
    pub top: Vec<(u32, f32)>,
}

impl Sampler {
    /// For one choice of a request. `seed` is the request's, or drawn where it has none.
    pub fn new(sampling: &Sampling, seed: i64, choice: u8, alternatives: Option<u8>) -> Self {
        Self { sampling: sampling.clone(), seed, choice, alternatives, counts: HashMap::new() }
    }

    /// Draws the token at `position` (0 is the answer's first), of those that are `allowed`. What is drawn counts once it is
    /// [accepted](Self::accept).
    pub fn draw(&self, logits: &[f32], position: u32, allowed: Option<&SimpleVob>) -> Result<Drawn, NotNumbers> {
        let mut adjusted = self.adjust(logits);
        if let Some(allowed) = allowed {
            let forbidden = |token: &usize| *token >= allowed.len() || !allowed.get(*token);
            (0..adjusted.len()).filter(forbidden).for_each(|token| adjusted[token] = f32::NEG_INFINITY);
        }
        let token = match self.sampling.temperature {
            0.0 => likeliest(&adjusted)?,
            temperature => self.draw_from(&adjusted, temperature, position)?,
        };
        Ok(self.forced(logits, token))
    }

    /// A token that is given, with what would be told of it had it been drawn.
    pub fn forced(&self, logits: &[f32], token: u32) -> Drawn {
        Drawn { token, logprobs: self.alternatives.map(|k| logprobs(logits, token, k.into())) }
    }

    /// Whether more is told of a token than itself.
    pub fn tells_logprobs(&self) -> bool {
        self.alternatives.is_some()
    }

    /// A token has become part of the answer.
    pub fn accept(&mut self, token: u32) {
        *self.counts.entry(token).or_default() += 1;
    }

    /// Bias and penalties, as OpenAI defines them: `logit + bias − count × frequency − (count > 0) × presence`.
    fn adjust(&self, logits: &[f32]) -> Vec<f32> {
        let mut adjusted = logits.to_vec();
        for &(token, bias) in &self.sampling.logit_bias {
            if let Some(logit) = adjusted.get_mut(token as usize) {
                *logit += bias;
            }
        }
        for (&token, &count) in &self.counts {
            if let Some(logit) = adjusted.get_mut(token as usize) {
                *logit -= count as f32 * self.sampling.frequency_penalty + self.sampling.presence_penalty;
            }
        }
        adjusted
    }

    fn draw_from(&self, logits: &[f32], temperature: f32, position: u32) -> Result<u32, NotNumbers> {
        let most = logits[likeliest(logits)? as usize];
        // Tokens stay in the order of their ids: sorted by weight, two nearly equal ones would change places
        // with the last bit of a logit, which differs from machine to machine.
        let mut weights: Vec<(u32, f64)> = (0..)
            .zip(logits)
            .map(|(token, logit)| (token, (logit - most) / temperature))
            .filter(|(_, exponent)| *exponent > NEGLIGIBLE)
            .map(|(token, exponent)| (token, f64::from(exponent.exp())))
            .collect();
        if self.sampling.top_p < 1.0 {
            keep_nucleus(&mut weights, self.sampling.top_p.into());
        }
        let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
        let mut left = uniform(self.seed, self.choice, position) * total;
        let drawn = weights.iter().find(|(_, weight)| {
            left -= weight;
            left < 0.0
        });
        // Rounding can leave a crumb after the last one.
        drawn.or(weights.last()).map(|(token, _)| *token).ok_or(NotNumbers)
    }
}

/// The token with the highest logit; of equal ones, the lowest id.
fn likeliest(logits: &[f32]) -> Result<u32, NotNumbers> {
    let mut best: Option<(u32, f32)> = None;
    for (token, &logit) in (0..).zip(logits) {
        if logit.is_nan() {
            return Err(NotNumbers);
        }
        if best.is_none_or(|(_, most)| logit > most) {
            best = Some((token, logit));
        }
    }
    best.filter(|(_, most)| most.is_finite()).map(|(token, _)| token).ok_or(NotNumbers)
}

/// Keeps the fewest tokens whose weights make up `top_p` of all, in the order they had.
fn keep_nucleus(weights: &mut Vec<(u32, f64)>, top_p: f64) {
    let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
    // Together, those below this mark weigh less than what may be left out: they need not be sorted.
    let mark = (1.0 - top_p) * total / weights.len() as f64;
    let mut sorted: Vec<(u32, f64)> = weights.iter().copied().filter(|(_, weight)| *weight >= mark).collect();
    sorted.sort_unstable_by(|(a, x), (b, y)| y.total_cmp(x).then(a.cmp(b)));
    let mut sum = 0.0;
    let last = sorted.iter().find(|(_, weight)| {
        sum += weight;
        sum >= top_p * total
    });
    if let Some(&(last, least)) = last {
        weights.retain(|&(token, weight)| weight > least || (weight == least && token <= last));
    }
}

/// A number in [0, 1) for each token of each choice of each seed: 53 bits of a SHA-256, the same on every machine and in
/// every language.
fn uniform(seed: i64, choice: u8, position: u32) -> f64 {
    let digest = Sha256::new()
        .chain_update(b"lumbung sampling 1")
        .chain_update(seed.to_le_bytes())
        .chain_update([choice])
        .chain_update(position.to_le_bytes())
        .finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    (u64::from_le_bytes(first) >> 11) as f64 / (1u64 << 53) as f64
}

fn logprobs(logits: &[f32], token: u32, k: usize) -> Logprobs {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - most).exp()).sum();
    let logprob = |logit: f32| ((f64::from(logit - most) - sum.ln()) as f32).max(NEVER);

    let mut ranked: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    let order = |(a, x): &(u32, f32), (b, y): &(u32, f32)| y.total_cmp(x).then(a.cmp(b));
    if k < ranked.len() {
        ranked.select_nth_unstable_by(k, order);
        ranked.truncate(k);
    }
    ranked.sort_unstable_by(order);
    Logprobs {
        drawn: logits.get(token as usize).map_or(NEVER, |&logit| logprob(logit)),
        top: ranked.into_iter().map(|(token, logit)| (token, logprob(logit))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling() -> Sampling {
        Sampling {
            temperature: 1.0,
            top_p: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            seed: None,
            logit_bias: Vec::new(),
        }
    }

    /// How often each token is drawn at 20 000 positions, as a share.
    fn shares(sampling: &Sampling, logits: &[f32]) -> Vec<f64> {
        const DRAWS: u32 = 20_000;
        let mut shares = vec![0.0; logits.len()];
        for position in 0..DRAWS {
            let drawn = Sampler::new(sampling, 7, 0, None).draw(logits, position, None).unwrap();
            shares[drawn.token as usize] += 1.0 / f64::from(DRAWS);
        }
        shares
    }

    fn assert_close(shares: &[f64], expected: &[f64]) {
        for (share, expected) in shares.iter().zip(expected) {
            assert!((share - expected).abs() < 0.015, "{shares:?}, expected {expected:?}");
        }
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let logits = [0.5f32.ln(), 0.3f32.ln(), 0.2f32.ln(), f32::NEG_INFINITY];
        assert_close(&shares(&sampling(), &logits), &[0.5, 0.3, 0.2, 0.0]);
        // Temperature 2 takes square roots.
        let hot = Sampling { temperature: 2.0, ..sampling() };
        let roots = [0.5f64.sqrt(), 0.3f64.sqrt(), 0.2f64.sqrt()];
        let total: f64 = roots.iter().sum();
        assert_close(&shares(&hot, &logits), &roots.map(|root| root / total));
    }

    #[test]
    fn top_p_keeps_the_fewest_tokens_that_reach_it() {
        let logits = [0.2f32.ln(), 0.5f32.ln(), 0.3f32.ln()];
        let nucleus = |top_p| shares(&Sampling { top_p, ..sampling() }, &logits);
        assert_close(&nucleus(0.7), &[0.0, 0.625, 0.375]);
        assert_close(&nucleus(0.4), &[0.0, 1.0, 0.0]);
        assert_close(&nucleus(0.0), &[0.0, 1.0, 0.0]);
        assert_close(&nucleus(0.95), &[0.2, 0.5, 0.3]);
    }

    #[test]
    fn bias_and_penalties_follow_openai() {
        let biased = Sampling { temperature: 0.0, logit_bias: vec![(2, 100.0), (9, 5.0)], ..sampling() };
        assert_eq!(Sampler::new(&biased, 0, 0, None).draw(&[3.0, 2.0, 1.0], 0, None).unwrap().token, 2);

        let penal = Sampling { temperature: 0.0, frequency_penalty: 0.4, presence_penalty: 0.3, ..sampling() };
        let mut sampler = Sampler::new(&penal, 0, 0, None);
        let made: Vec<u32> = (0..4)
            .map(|at| {
                let token = sampler.draw(&[3.0, 2.0, 1.0], at, None).unwrap().token;
                sampler.accept(token);
                token
            })
            .collect();
        // 3.0, then 3 − 0.7 = 2.3, then 3 − 1.1 = 1.9 against 2.0, then 1.9 against 2 − 0.7 = 1.3.
        assert_eq!(made, [0, 0, 1, 0]);
    }

    #[test]
    fn logprobs_are_natural_and_of_the_unmodified_distribution() {
        let biased = Sampling { temperature: 2.0, logit_bias: vec![(1, 100.0)], ..sampling() };
        let drawn = Sampler::new(&biased, 0, 0, Some(2)).draw(&[4.0, 2.0, 3.0, f32::NEG_INFINITY], 0, None).unwrap();
        let sum = (4f64.exp() + 2f64.exp() + 3f64.exp()).ln();
        let logprobs = drawn.logprobs.unwrap();
        assert_eq!(drawn.token, 1);
        assert!((f64::from(logprobs.drawn) - (2.0 - sum)).abs() < 1e-6);
        assert_eq!(logprobs.top.iter().map(|top| top.0).collect::<Vec<_>>(), [0, 2]);
        assert!((f64::from(logprobs.top[0].1) - (4.0 - sum)).abs() < 1e-6);

        let all = Sampler::new(&sampling(), 0, 0, Some(20)).draw(&[4.0, f32::NEG_INFINITY], 0, None).unwrap();
        assert_eq!(all.logprobs.unwrap().top, [(0, 0.0), (1, NEVER)]);
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for logits in [vec![f32::NAN, 1.0], vec![1.0, f32::NAN], vec![f32::NEG_INFINITY], vec![f32::INFINITY], vec![]] {
            for temperature in [0.0, 1.0] {
                let sampling = Sampling { temperature, ..sampling() };
                assert_eq!(Sampler::new(&sampling, 0, 0, None).draw(&logits, 0, None), Err(NotNumbers), "{logits:?}");
            }
        }
    }

    #[test]
    fn randomness_depends_on_seed_choice_and_position_and_on_nothing_else() {
        assert_eq!(uniform(1, 2, 3), uniform(1, 2, 3));
        let all = [uniform(1, 2, 3), uniform(2, 2, 3), uniform(1, 3, 3), uniform(1, 2, 4), uniform(-1, 2, 3)];
        for (at, one) in all.iter().enumerate() {
            assert!((0.0..1.0).contains(one));
            assert!(all[at + 1..].iter().all(|other| other != one));
        }
        // Other implementations are checked against this one.
        assert_eq!(uniform(42, 0, 0), KNOWN);
    }
    const KNOWN: f64 = 0.8276682530804662;
}
