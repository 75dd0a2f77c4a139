//! Sizes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub u64);

const UNITS: [(&str, u64); 8] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

impl Bytes {
    /// This many mebibytes.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// This many gibibytes.
    pub const fn gib(count: u64) -> Self {
        Self(count << 30)
    }

    /// The difference, zero when `other` is larger.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

/// A text that is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a size; write a whole number with a unit, such as 20GiB, 512MiB or 1000000")]
pub struct NotASize(String);

impl FromStr for Bytes {
    type Err = NotASize;

    fn from_str(text: &str) -> Result<Self, NotASize> {
        let fail = || NotASize(text.chars().take(64).collect());
        let (number, factor) = UNITS
            .iter()
            .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))
            .unwrap_or((text, 1));
        let count: u64 = number.trim_end().parse().map_err(|_| fail())?;
        count.checked_mul(factor).map(Self).ok_or_else(fail)
    }
}

impl fmt::Display for Bytes {
    /// Binary units with one decimal where it says something: `1.5 GiB`, `300 MiB`, `17 B`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS[..4].iter().rev().find(|(_, factor)| self.0 >= *factor);
        let Some((unit, factor)) = unit else { return write!(f, "{} B", self.0) };
        let tenths = u128::from(self.0) * 10 / u128::from(*factor);
        if tenths % 10 == 0 {
            write!(f, "{} {unit}", tenths / 10)
        } else {
            write!(f, "{}.{} {unit}", tenths / 10, tenths % 10)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_and_print() {
        assert_eq!("20GiB".parse(), Ok(Bytes::gib(20)));
        assert_eq!("512 MiB".parse(), Ok(Bytes::mib(512)));
        assert_eq!("1000".parse(), Ok(Bytes(1000)));
        assert_eq!("2GB".parse(), Ok(Bytes(2_000_000_000)));
        for bad in ["", "GiB", "-1", "1.5GiB", "99999999999TiB", "1 furlong"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad:?}");
        }
        assert_eq!(Bytes(1_610_612_736).to_string(), "1.5 GiB");
        assert_eq!(Bytes::mib(300).to_string(), "300 MiB");
        assert_eq!(Bytes(17).to_string(), "17 B");
        assert_eq!(Bytes(u64::MAX).to_string(), "16777215.9 TiB");
    }
}
