//! Lengths of time as people write them: `500ms`, `10s`, `2m`, `1m30s`, `1h`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::limits;

/// A length of time in whole milliseconds, between [`limits::SHORTEST`] and [`limits::COMMAND_TIMEOUT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Length(Duration);

#[cfg(feature = "kube")]
impl schemars::JsonSchema for Length {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Length".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "maxLength": 32, "pattern": "^([0-9]+(ms|s|m|h))+$" })
    }
}

/// Why a text is not a length of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Digits only.
    #[error("`{0}` has no unit; write it as `{0}s` or `{0}ms`")]
    NoUnit(String),
    /// Not of the form at all.
    #[error("`{0}` is not a length of time; write for example `500ms`, `10s`, `2m`, `1m30s`")]
    Unreadable(String),
    /// Outside the bounds.
    #[error("`{text}` is not between {min} and {max}")]
    OutOfBounds {
        /// What was written.
        text: String,
        /// The shortest.
        min: String,
        /// The longest.
        max: String,
    },
}

impl Length {
    /// The length as a [`Duration`].
    pub fn get(self) -> Duration {
        self.0
    }

    /// A length no longer than `max`.
    pub fn new(length: Duration, max: Duration) -> Result<Self, DurationError> {
        let whole = Duration::from_millis(u64::try_from(length.as_millis()).unwrap_or(u64::MAX));
        if whole < limits::SHORTEST || whole > max {
            return Err(DurationError::OutOfBounds {
                text: show(whole),
                min: show(limits::SHORTEST),
                max: show(max),
            });
        }
        Ok(Self(whole))
    }
}

/// Reads a length and checks it against `max`.
pub fn parse_length(text: &str, max: Duration) -> Result<Length, DurationError> {
    let raw = parse_duration(text)?;
    Length::new(raw, max).map_err(|error| match error {
        DurationError::OutOfBounds { min, max, .. } => {
            DurationError::OutOfBounds { text: text.to_owned(), min, max }
        }
        other @ (DurationError::NoUnit(_) | DurationError::Unreadable(_)) => other,
    })
}

/// Number and unit, repeated, units falling: `1h30m`, `1m30s`, `500ms`.
fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let unreadable = || DurationError::Unreadable(text.chars().take(40).collect());
    if text.is_empty() || text.len() > 32 {
        return Err(unreadable());
    }
    if text.bytes().all(|c| c.is_ascii_digit()) {
        return Err(DurationError::NoUnit(text.to_owned()));
    }
    let mut rest = text;
    let mut total: u64 = 0;
    let mut last_unit = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let unit_len = tail.bytes().take_while(u8::is_ascii_lowercase).count();
        let (unit, tail) = tail.split_at(unit_len);
        let unit = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(unreadable()),
        };
        if unit >= last_unit {
            return Err(unreadable());
        }
        let number: u64 = number.parse().map_err(|_| unreadable())?;
        total = number.checked_mul(unit).and_then(|n| n.checked_add(total)).ok_or_else(unreadable)?;
        last_unit = unit;
        rest = tail;
    }
    Ok(Duration::from_millis(total))
}

fn show(length: Duration) -> String {
    let ms = length.as_millis();
    match ms {
        0 => "0s".to_owned(),
        _ if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) => format!("{}m", ms / 60_000),
        _ if ms.is_multiple_of(1_000) => format!("{}s", ms / 1_000),
        _ => format!("{ms}ms"),
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&show(self.0))
    }
}

impl FromStr for Length {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        parse_length(text, limits::COMMAND_TIMEOUT)
    }
}

impl TryFrom<String> for Length {
    type Error = DurationError;

    fn try_from(text: String) -> Result<Self, DurationError> {
        text.parse()
    }
}

impl From<Length> for String {
    fn from(length: Length) -> Self {
        length.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read_as_people_write_them() {
        let table = [("500ms", 500), ("10s", 10_000), ("2m", 120_000), ("1m30s", 90_000), ("1h", 3_600_000)];
        for (text, ms) in table {
            assert_eq!(text.parse::<Length>().unwrap().get(), Duration::from_millis(ms), "{text}");
        }
    }

    #[test]
    fn what_is_no_length_is_refused_with_the_fix() {
        let table = [
            ("10", "write it as `10s`"),
            ("", "write for example"),
            ("-5s", "write for example"),
            ("5 s", "write for example"),
            ("1s1s", "write for example"),
            ("1s1m", "write for example"),
            ("99999999999999999999s", "write for example"),
            ("9999999999999999h", "write for example"),
            ("2h", "not between 10ms and 1h"),
            ("0s", "not between 10ms and 1h"),
            ("1.5s", "write for example"),
            ("∞", "write for example"),
        ];
        for (text, expected) in table {
            let error = text.parse::<Length>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_length_is_written_as_it_would_be_read() {
        for text in ["500ms", "10s", "2m", "90s", "1h", "1500ms"] {
            assert_eq!(text.parse::<Length>().unwrap().to_string(), text);
        }
    }
}
