//! US dollars as whole nano-dollars, and prices per million tokens.
//!
//! No float anywhere: JSON carries a decimal string in a field whose name ends in `_usd`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::value::RawValue;

/// Nano-dollars in one US dollar.
const NANO_PER_USD: i64 = 1_000_000_000;
/// Tokens that a [`TokenPrice`] is quoted for.
const TOKENS_PER_QUOTE: i128 = 1_000_000;

/// An amount of US dollars, in whole nano-dollars (10⁻⁹ USD). Negative amounts are debts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NanoUsd(i64);

/// Why a text is no amount of dollars.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseUsdError {
    /// Not of the form `-?digits[.digits]`.
    #[error("not a decimal amount of US dollars")]
    Malformed,
    /// More than nine digits after the point: finer than a nano-dollar.
    #[error("finer than a nano-dollar (nine decimals)")]
    TooFine,
    /// Beyond what 64 bits of nano-dollars hold (about 9.2 billion dollars).
    #[error("too large")]
    TooLarge,
}

impl NanoUsd {
    /// No money.
    pub const ZERO: Self = Self(0);
    /// The largest amount.
    pub const MAX: Self = Self(i64::MAX);

    /// From whole nano-dollars.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// Whole nano-dollars.
    pub const fn nanos(self) -> i64 {
        self.0
    }

    /// Reads an amount as JSON writes numbers, exponents included (`1e-7`): exactly, without a float. What is finer than a
    /// nano-dollar is rounded toward zero.
    pub fn from_json_number(text: &str) -> Result<Self, ParseUsdError> {
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().map_err(|_| ParseUsdError::Malformed)?),
            None => (text, 0),
        };
        let (negative, digits) = mantissa.strip_prefix('-').map_or((false, mantissa), |rest| (true, rest));
        let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
        let all_digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if !all_digits(whole) || !all_digits(part) {
            return Err(ParseUsdError::Malformed);
        }
        // digits × 10^shift nano-dollars
        let digits = format!("{whole}{part}");
        let significant = digits.trim_start_matches('0');
        let shift = i64::from(exponent) + 9 - part.len() as i64;
        let kept = significant.len() as i64 + shift;
        let nanos = match kept {
            ..=0 => 0,
            1..=19 => {
                let kept = kept as usize;
                let digits = &significant[..kept.min(significant.len())];
                format!("{digits:0<kept$}").parse::<i64>().map_err(|_| ParseUsdError::TooLarge)?
            }
            _ if significant.is_empty() => 0,
            _ => return Err(ParseUsdError::TooLarge),
        };
        Ok(Self(if negative { -nanos } else { nanos }))
    }

    /// Sum; `None` where 64 bits do not hold it.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// Difference; `None` where 64 bits do not hold it.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// The part of this amount given in basis points (1/10,000, at most all of it), rounded toward zero.
    pub fn basis_points(self, bps: u16) -> Self {
        let part = i128::from(self.0) * i128::from(bps.min(10_000)) / 10_000;
        Self(part as i64) // at most |self|, so it fits
    }

    /// An amount for a million tokens as dollars for one, exactly: `0.0000005`.
    pub fn for_one_of_a_million(self) -> String {
        const UNITS: u64 = 1_000_000_000_000_000; // of 10⁻¹⁵ dollars
        let sign = if self.0 < 0 { "-" } else { "" };
        let (whole, part) = (self.0.unsigned_abs() / UNITS, self.0.unsigned_abs() % UNITS);
        match part {
            0 => format!("{sign}{whole}"),
            part => format!("{sign}{whole}.{part:015}").trim_end_matches('0').to_owned(),
        }
    }
}

/// An amount's text on the stack: every ticket, voucher and receipt has several.
struct Decimal([u8; Self::LONGEST], usize);

impl Decimal {
    /// `-9223372036.854775808`
    const LONGEST: usize = 21;

    /// Plain decimal dollars without trailing zeros: `0.00000125`, `12`, `-3.5`.
    fn of(amount: NanoUsd) -> Self {
        let mut text = Self([b'0'; Self::LONGEST], Self::LONGEST);
        let nanos = amount.0.unsigned_abs();
        let (mut whole, mut part) = (nanos / NANO_PER_USD as u64, nanos % NANO_PER_USD as u64);
        if part > 0 {
            let mut decimals = 9;
            while part.is_multiple_of(10) {
                (part, decimals) = (part / 10, decimals - 1);
            }
            for _ in 0..decimals {
                text.put(b'0' + (part % 10) as u8);
                part /= 10;
            }
            text.put(b'.');
        }
        loop {
            text.put(b'0' + (whole % 10) as u8);
            whole /= 10;
            if whole == 0 {
                break;
            }
        }
        if amount.0 < 0 {
            text.put(b'-');
        }
        text
    }

    /// Puts a byte before those that are there.
    fn put(&mut self, byte: u8) {
        self.1 -= 1;
        self.0[self.1] = byte;
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0[self.1..]).unwrap_or_default() // digits are UTF-8
    }
}

impl fmt::Display for NanoUsd {
    /// Plain decimal dollars without trailing zeros: `0.00000125`, `12`, `-3.5`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Decimal::of(*self).as_str())
    }
}

impl FromStr for NanoUsd {
    type Err = ParseUsdError;

    fn from_str(text: &str) -> Result<Self, ParseUsdError> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
        let all_digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if !all_digits(whole) || !all_digits(part) {
            return Err(ParseUsdError::Malformed);
        }
        let part = part.trim_end_matches('0');
        if part.len() > 9 {
            return Err(ParseUsdError::TooFine);
        }
        let whole: i64 = whole.parse().map_err(|_| ParseUsdError::TooLarge)?;
        let part: i64 = format!("{part:0<9}").parse().map_err(|_| ParseUsdError::Malformed)?;
        let nanos = whole.checked_mul(NANO_PER_USD).and_then(|n| n.checked_add(part)).ok_or(ParseUsdError::TooLarge)?;
        Ok(Self(if negative { -nanos } else { nanos }))
    }
}

impl Serialize for NanoUsd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(Decimal::of(*self).as_str())
    }
}

impl<'de> Deserialize<'de> for NanoUsd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// The same amount as JSON number, printed exactly from the integer: for shapes that are not ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UsdNumber(pub NanoUsd);

impl Serialize for UsdNumber {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let number = RawValue::from_string(self.0.to_string()).map_err(serde::ser::Error::custom)?;
        number.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for UsdNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = Box::<RawValue>::deserialize(deserializer)?;
        NanoUsd::from_json_number(number.get()).map(Self).map_err(de::Error::custom)
    }
}

/// What a provider asks: US dollars per million tokens, in and out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TokenPrice {
    /// Dollars per million prompt tokens.
    #[serde(rename = "prompt_usd_per_mtok")]
    #[schema(value_type = String, example = "0.10")]
    pub prompt: NanoUsd,
    /// Dollars per million completion tokens.
    #[serde(rename = "completion_usd_per_mtok")]
    #[schema(value_type = String, example = "0.40")]
    pub completion: NanoUsd,
}

impl TokenPrice {
    /// What these tokens cost: `(prompt × price + completion × price) ÷ 10⁶`, rounded down to the nano-dollar.
    /// Monotonic in both counts, so a cost never exceeds the ceiling computed from larger counts.
    /// `None` where 64 bits do not hold it.
    pub fn cost(&self, prompt_tokens: u32, completion_tokens: u32) -> Option<NanoUsd> {
        let sum = i128::from(self.prompt.0) * i128::from(prompt_tokens)
            + i128::from(self.completion.0) * i128::from(completion_tokens);
        i64::try_from(sum / TOKENS_PER_QUOTE).ok().map(NanoUsd)
    }

    /// Whether either price is below zero: such an ask would mint money.
    pub fn is_negative(&self) -> bool {
        self.prompt.0 < 0 || self.completion.0 < 0
    }

    /// Whether neither price exceeds its counterpart in `cap`.
    pub fn is_within(&self, cap: &Self) -> bool {
        self.prompt <= cap.prompt && self.completion <= cap.completion
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_price_for_a_million_tokens_is_a_price_for_one() {
        for (million, one) in [
            ("0.5", "0.0000005"),
            ("2", "0.000002"),
            ("0", "0"),
            ("0.000000001", "0.000000000000001"),
            ("1000000", "1"),
        ] {
            assert_eq!(million.parse::<NanoUsd>().expect("dollars").for_one_of_a_million(), one);
        }
        assert_eq!(NanoUsd::from_nanos(i64::MIN).for_one_of_a_million(), "-9223.372036854775808");
    }

    #[test]
    fn dollars_read_and_print_exactly() {
        for (text, nanos) in
            [("0", 0), ("1", 1_000_000_000), ("0.000000001", 1), ("-3.5", -3_500_000_000), ("0.10", 100_000_000)]
        {
            assert_eq!(text.parse::<NanoUsd>().map(NanoUsd::nanos), Ok(nanos), "{text}");
        }
        assert_eq!("0.0000000001".parse::<NanoUsd>(), Err(ParseUsdError::TooFine));
        assert_eq!("99999999999".parse::<NanoUsd>(), Err(ParseUsdError::TooLarge));
        for text in ["", ".", "1.", ".5", "1e3", "+1", " 1", "--1", "NaN", "1.-5"] {
            assert_eq!(text.parse::<NanoUsd>(), Err(ParseUsdError::Malformed), "{text:?}");
        }
    }

    #[test]
    fn dollars_are_read_from_json_numbers_exactly() {
        for (text, nanos) in [
            ("0", 0),
            ("0e99999999", 0),
            ("1", 1_000_000_000),
            ("0.1", 100_000_000),
            ("1e-7", 100),
            ("1E2", 100_000_000_000),
            ("1.5e+1", 15_000_000_000),
            ("0.30000000000000004", 300_000_000),
            ("12345e-10", 1234),
            ("1e-99", 0),
            ("-0.000000001", -1),
            ("9223372036.854775807", i64::MAX),
        ] {
            assert_eq!(NanoUsd::from_json_number(text).map(NanoUsd::nanos), Ok(nanos), "{text}");
        }
        for text in ["9223372036.854775808", "1e10", "1e2000000000", "99999999999999999999"] {
            assert_eq!(NanoUsd::from_json_number(text), Err(ParseUsdError::TooLarge), "{text}");
        }
        for text in ["", "e1", "1e", "1e1.5", ".5", "1.", "0x1", "NaN", "1e99999999999", "--1", "+1"] {
            assert_eq!(NanoUsd::from_json_number(text), Err(ParseUsdError::Malformed), "{text:?}");
        }
    }

    #[test]
    fn a_number_is_printed_exactly() {
        for text in ["0", "12", "0.000000001", "9223372036.854775807", "-3.5"] {
            let amount: NanoUsd = text.parse().expect("an amount");
            assert_eq!(serde_json::to_string(&UsdNumber(amount)).expect("JSON"), text);
            assert_eq!(serde_json::from_str::<UsdNumber>(text).expect("an amount"), UsdNumber(amount));
        }
    }

    #[test]
    fn a_price_per_million_costs_what_it_says() {
        let price = TokenPrice { prompt: "0.10".parse().expect("amount"), completion: "0.40".parse().expect("amount") };
        assert_eq!(price.cost(1_000_000, 0).map(|c| c.to_string()).as_deref(), Some("0.1"));
        assert_eq!(price.cost(1, 2).map(NanoUsd::nanos), Some(100 + 800));
        assert_eq!(TokenPrice { prompt: NanoUsd::MAX, completion: NanoUsd::MAX }.cost(u32::MAX, u32::MAX), None);
    }

    proptest! {
        #[test]
        fn every_amount_survives_its_text(nanos in i64::MIN + 1..i64::MAX) {
            let amount = NanoUsd::from_nanos(nanos);
            prop_assert_eq!(amount.to_string().parse::<NanoUsd>(), Ok(amount));
        }

        #[test]
        fn cost_never_falls_as_counts_grow(p in 0..1_000_000_000_000i64, c in 0..1_000_000_000_000i64, a in 0..100_000u32, b in 0..100_000u32, more in 0..1000u32) {
            let price = TokenPrice { prompt: NanoUsd(p), completion: NanoUsd(c) };
            prop_assert!(price.cost(a, b) <= price.cost(a + more, b));
            prop_assert!(price.cost(a, b) <= price.cost(a, b + more));
        }
    }
}
