//! Amounts of ALC as integers: 1 ALC = 100 000 000 units. A float never touches a balance.

use crate::canonical::{Decode, Encode};
use std::{fmt, str::FromStr};

/// Base units in one ALC.
pub const UNITS_PER_ALC: u64 = 100_000_000;
/// One million: multipliers and shares are fixed-point in parts per million.
pub const PPM: u64 = 1_000_000;

/// An amount in base units. Text form: decimal ALC, `0.01`, at most eight decimals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
pub struct Amount(pub u64);

/// Why a text is not an amount.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Not digits with at most one point.
    #[error("'{0}' is not an amount: write it like 12 or 0.05")]
    Malformed(String),
    /// More than eight decimals.
    #[error("'{0}' has more than eight decimals: the smallest unit is 0.00000001 ALC")]
    TooFine(String),
    /// Over 2^64 units.
    #[error("'{0}' is more than an amount can hold")]
    TooLarge(String),
}

impl Amount {
    /// Nothing.
    pub const ZERO: Amount = Amount(0);

    /// Whole ALC.
    pub const fn alc(whole: u64) -> Amount {
        Amount(whole * UNITS_PER_ALC)
    }

    /// Sum, or `None` past 2^64 units.
    pub fn checked_add(self, other: Amount) -> Option<Amount> {
        self.0.checked_add(other.0).map(Amount)
    }

    /// Difference, or `None` below zero.
    pub fn checked_sub(self, other: Amount) -> Option<Amount> {
        self.0.checked_sub(other.0).map(Amount)
    }

    /// `self * ppm / 1 000 000`, rounded down; `None` past 2^64 units.
    pub fn share(self, ppm: u64) -> Option<Amount> {
        self.proportion(ppm, PPM)
    }

    /// `self * part / whole`, rounded down; `None` when `whole` is zero or the result does not fit.
    pub fn proportion(self, part: u64, whole: u64) -> Option<Amount> {
        let product = u128::from(self.0) * u128::from(part);
        product.checked_div(u128::from(whole)).and_then(|units| u64::try_from(units).ok()).map(Amount)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.0 / UNITS_PER_ALC, self.0 % UNITS_PER_ALC);
        if fraction == 0 {
            return f.pad(&whole.to_string());
        }
        f.pad(format!("{whole}.{fraction:08}").trim_end_matches('0'))
    }
}

impl FromStr for Amount {
    type Err = AmountError;
    fn from_str(s: &str) -> Result<Amount, AmountError> {
        let (whole, fraction) = s.split_once('.').unwrap_or((s, ""));
        let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(fraction) || (s.contains('.') && fraction.is_empty()) {
            return Err(AmountError::Malformed(s.into()));
        }
        if fraction.len() > 8 {
            return Err(AmountError::TooFine(s.into()));
        }
        format!("{whole}{fraction:0<8}").parse().map(Amount).map_err(|_| AmountError::TooLarge(s.into()))
    }
}

crate::hash::serde_as_text!(Amount, "ALC as a decimal number of at most 8 places.", r"^[0-9]+(\.[0-9]{1,8})?$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_print_and_parse_as_decimal_alc() {
        for (text, units) in [("0", 0), ("1", UNITS_PER_ALC), ("0.01", 1_000_000), ("12.00000001", 1_200_000_001)] {
            assert_eq!(text.parse(), Ok(Amount(units)));
            assert_eq!(Amount(units).to_string(), text);
        }
        for bad in ["", ".", "1.", ".5", "-1", "1,5", "1e3", "0.000000001", "999999999999999"] {
            assert!(bad.parse::<Amount>().is_err(), "{bad:?} is no amount");
        }
    }

    #[test]
    fn shares_round_down_and_never_overflow_silently() {
        assert_eq!(Amount(999).share(500_000), Some(Amount(499)));
        assert_eq!(Amount(u64::MAX).share(PPM), Some(Amount(u64::MAX)));
        assert_eq!(Amount(u64::MAX).share(2 * PPM), None);
        assert_eq!(Amount(1).proportion(1, 0), None);
    }
}
