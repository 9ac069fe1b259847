//! What part of a charge promotional credit paid for. Such a part earns its provider nothing payable until the operator
//! says so: otherwise a client with credit that was given away, and a provider in league with it, could cash it.

use lumbung_openapi::money::NanoUsd;

use super::settlement::Charge;

/// The promotional part of a charge. Every rounding favours it, so that no nano-dollar slips through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Funding {
    /// How much of the charge was paid with promotional credit.
    pub promotional: NanoUsd,
    /// How much of the provider's share that is.
    pub share: NanoUsd,
}

impl Funding {
    /// Of `charge`, the part `promotional` was given away, which is all of the charge at most.
    pub fn of(charge: &Charge, promotional: NanoUsd) -> Self {
        let promotional = promotional.min(charge.amount).max(NanoUsd::ZERO);
        Self { promotional, share: part_rounded_up(promotional, charge.share(), charge.amount) }
    }

    /// The same when the charge is lowered: the refund goes back to where it came from, in proportion.
    pub fn lowered(self, was: &Charge, is: &Charge) -> Self {
        Self::of(is, part_rounded_up(self.promotional, is.amount, was.amount))
    }
}

/// `amount × part ÷ whole`, rounded up; zero of nothing. `part` is within 0 and `whole`, so the result is within `amount`.
fn part_rounded_up(amount: NanoUsd, part: NanoUsd, whole: NanoUsd) -> NanoUsd {
    let (amount, part, whole) = (i128::from(amount.nanos()), i128::from(part.nanos()), i128::from(whole.nanos()));
    if whole <= 0 {
        return NanoUsd::ZERO;
    }
    NanoUsd::from_nanos(((amount * part + whole - 1) / whole) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::settlement::Tokens;
    use proptest::prelude::*;

    fn charge(amount: i64, fee_bps: u16) -> Charge {
        let amount = NanoUsd::from_nanos(amount);
        Charge { tokens: Tokens::default(), amount, fee: amount.basis_points(fee_bps) }
    }

    #[test]
    fn a_charge_that_is_partly_promotional_is_split_in_proportion_and_rounded_against_the_provider() {
        let of = |promotional| Funding::of(&charge(10, 1000), NanoUsd::from_nanos(promotional)).share.nanos();
        assert_eq!([0, 1, 5, 9, 10, 99].map(of), [0, 1, 5, 9, 9, 9]);
        assert_eq!(Funding::of(&charge(0, 1000), NanoUsd::ZERO), Funding::default());
    }

    proptest! {
        #[test]
        fn the_paid_part_never_grows_and_no_part_is_below_zero(
            amount in 0..5_000_000_000_000_000_000i64, promotional in 0..5_000_000_000_000_000_000i64,
            lower in 0..5_000_000_000_000_000_000i64, fee_bps in 0..=10_000u16,
        ) {
            let (was, is) = (charge(amount, fee_bps), charge(lower.min(amount), fee_bps));
            let before = Funding::of(&was, NanoUsd::from_nanos(promotional));
            let after = before.lowered(&was, &is);
            let paid = |funding: &Funding, charge: &Charge| charge.share().nanos() - funding.share.nanos();
            for (funding, charge) in [(&before, &was), (&after, &is)] {
                prop_assert!(funding.share >= NanoUsd::ZERO && funding.share <= funding.promotional);
                prop_assert!(funding.promotional <= charge.amount && paid(funding, charge) >= 0);
            }
            prop_assert!(paid(&after, &is) <= paid(&before, &was));
            // What comes back as promotional is part of what comes back.
            let returned = before.promotional.nanos() - after.promotional.nanos();
            prop_assert!((0..=was.amount.nanos() - is.amount.nanos()).contains(&returned));
        }
    }
}
