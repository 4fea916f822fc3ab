//! Money as an integer number of nano-dollars.
//!
//! A rate is an integer number of picodollars per token, so a cost is summed
//! exactly in picodollars and divided once, upward, when it becomes `Money`.
//! Sums saturate: a limit can be wrong by overflow in neither direction.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, Neg, Sub};
use std::str::FromStr;

const NANO_PER_USD: i64 = 1_000_000_000;
const NANO_DIGITS: usize = 9;
const PICO_PER_NANO: i128 = 1_000;

/// An amount in US dollars, exact to a billionth, possibly negative.
///
/// ```
/// use spendguard::domain::Money;
/// let price: Money = "24.5".parse().unwrap();
/// assert_eq!(price.nano(), 24_500_000_000);
/// assert_eq!(price.to_string(), "24.5");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Money(i64);

/// Why a text is not an amount of money.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MoneyError {
    /// Not a plain decimal number such as `12`, `-1.5` or `0.000000001`.
    NotDecimal,
    /// More than nine digits after the point.
    TooPrecise,
    /// Beyond about ±9.2 billion dollars.
    OutOfRange,
}

impl Money {
    /// No money.
    pub const ZERO: Self = Self(0);
    /// The largest amount, about 9.2 billion dollars; sums stop there.
    pub const MAX: Self = Self(i64::MAX);

    /// The amount of `nano` billionths of a dollar.
    pub const fn from_nano(nano: i64) -> Self {
        Self(nano)
    }

    /// The amount in billionths of a dollar.
    pub const fn nano(self) -> i64 {
        self.0
    }

    /// Rounds picodollars up to the next nano-dollar: the one rounding of a cost.
    pub fn from_pico_rounded_up(pico: i128) -> Self {
        let nano = pico.div_euclid(PICO_PER_NANO) + i128::from(pico.rem_euclid(PICO_PER_NANO) != 0);
        Self(i64::try_from(nano).unwrap_or(if nano > 0 { i64::MAX } else { i64::MIN }))
    }

    /// The amount in whole cents, rounded down.
    pub const fn cents(self) -> i64 {
        self.0.div_euclid(NANO_PER_USD / 100)
    }

    /// The amount with two to nine decimals, for people: `$0.50`, `-$1.234`.
    pub fn dollars(self) -> String {
        let plain = Self(self.0.saturating_abs()).to_string();
        let (whole, fraction) = plain.split_once('.').unwrap_or((&plain, ""));
        let sign = if self.0 < 0 { "-" } else { "" };
        format!("{sign}${whole}.{fraction:0<2}")
    }
}

impl Add for Money {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sub for Money {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Neg for Money {
    type Output = Self;
    fn neg(self) -> Self {
        Self(self.0.saturating_neg())
    }
}

impl Sum for Money {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

/// A sign, ten digits, a point and nine digits.
const TEXT_BYTES_MAX: usize = 21;

impl fmt::Display for Money {
    /// The exact decimal in dollars without trailing zeros: `3.2`, `-0.000000001`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Every request prints amounts, so the digits are laid out by hand.
        let mut text = [0_u8; TEXT_BYTES_MAX];
        let mut start = text.len();
        let mut put = |byte: u8| {
            start -= 1;
            text[start] = byte;
        };
        let mut rest = self.0.unsigned_abs();
        let mut in_fraction = false;
        for place in 0.. {
            let digit = u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
            if place == NANO_DIGITS && in_fraction {
                put(b'.');
            }
            in_fraction |= place < NANO_DIGITS && digit != 0;
            if place >= NANO_DIGITS || in_fraction {
                put(b'0' + digit);
            }
            if place >= NANO_DIGITS && rest == 0 {
                break;
            }
        }
        if self.0 < 0 {
            put(b'-');
        }
        f.write_str(str::from_utf8(&text[start..]).unwrap_or_default())
    }
}

impl FromStr for Money {
    type Err = MoneyError;

    fn from_str(text: &str) -> Result<Self, MoneyError> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let plain = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if !plain(whole) || !plain(fraction) {
            return Err(MoneyError::NotDecimal);
        }
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > NANO_DIGITS {
            return Err(MoneyError::TooPrecise);
        }
        let nano = format!("{whole}{fraction:0<9}").parse::<i64>().map_err(|_| MoneyError::OutOfRange)?;
        Ok(Self(if negative { -nano } else { nano }))
    }
}

impl fmt::Display for MoneyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotDecimal => "not a decimal amount such as 12 or 12.50",
            Self::TooPrecise => "finer than a billionth of a dollar",
            Self::OutOfRange => "larger than nine billion dollars",
        })
    }
}

impl std::error::Error for MoneyError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decimal_survives_parsing_and_printing() {
        for text in [
            "0",
            "24",
            "0.000000001",
            "-1.23",
            "-0.5",
            "3.2",
            "10.01",
            "9223372036.854775807",
            "-9223372036.1",
        ] {
            assert_eq!(text.parse::<Money>().unwrap().to_string(), text);
        }
        assert_eq!("12.00".parse::<Money>().unwrap().to_string(), "12");
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for (text, why) in [
            ("", MoneyError::NotDecimal),
            ("1e3", MoneyError::NotDecimal),
            ("+1", MoneyError::NotDecimal),
            (".5", MoneyError::NotDecimal),
            ("1.", MoneyError::NotDecimal),
            ("0.0000000001", MoneyError::TooPrecise),
            ("9223372037", MoneyError::OutOfRange),
        ] {
            assert_eq!(text.parse::<Money>(), Err(why), "{text:?}");
        }
    }

    #[test]
    fn picodollars_round_up_once() {
        assert_eq!(Money::from_pico_rounded_up(1).nano(), 1);
        assert_eq!(Money::from_pico_rounded_up(1_000).nano(), 1);
        assert_eq!(Money::from_pico_rounded_up(1_001).nano(), 2);
        assert_eq!(Money::from_pico_rounded_up(-1_999).nano(), -1);
        assert_eq!(Money::from_pico_rounded_up(i128::MAX), Money::MAX);
    }

    #[test]
    fn people_see_cents_at_least() {
        assert_eq!(Money::from_nano(500_000_000).dollars(), "$0.50");
        assert_eq!(Money::from_nano(-1_234_000_000).dollars(), "-$1.234");
    }
}
