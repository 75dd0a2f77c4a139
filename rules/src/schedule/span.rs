//! Lengths of time between cuts, as people write them: `15m`, `6h`, `30d`, `1d12h`.
//!
//! [`crate::api::Length`] is for waits within one run: it knows no days and ends at an hour.

use std::fmt;
use std::time::Duration;

use crate::text::{Node, clip};

/// A length of time in whole seconds. A day is 24 hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(Duration);

const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];

impl Span {
    /// The whole seconds of `length`.
    pub fn new(length: Duration) -> Self {
        Self(Duration::from_secs(length.as_secs()))
    }

    /// The length.
    pub fn get(self) -> Duration {
        self.0
    }

    /// Number and unit, repeated, units falling.
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() || text.len() > 32 {
            return None;
        }
        let mut rest = text;
        let mut total = 0_u64;
        let mut last_unit = u64::MAX;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, tail) = rest.split_at(digits);
            let (word, unit) = UNITS.iter().find(|(word, _)| tail.starts_with(word))?;
            if *unit >= last_unit {
                return None;
            }
            total = number.parse::<u64>().ok()?.checked_mul(*unit)?.checked_add(total)?;
            last_unit = *unit;
            rest = &tail[word.len()..];
        }
        Some(Self(Duration::from_secs(total)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match UNITS.iter().find(|(_, unit)| seconds > 0 && seconds.is_multiple_of(*unit)) {
            Some((word, unit)) => write!(f, "{}{word}", seconds / unit),
            None => write!(f, "{seconds}s"),
        }
    }
}

/// Reads a length between `min` and `max`.
pub(crate) fn read(node: &Node<'_>, min: Duration, max: Duration) -> Option<Duration> {
    if node.value().is_number() {
        node.fail(
            "a number without a unit",
            "seconds and minutes would be mixed up",
            "write for example `15m`, `6h`, `30d`",
        );
        return None;
    }
    let text = node.text()?;
    let Some(span) = Span::parse(&text) else {
        node.fail(
            format!("`{}` is not a length of time", clip(&text)),
            "it is numbers with the units d, h, m and s, the largest first",
            "write for example `15m`, `6h`, `30d`",
        );
        return None;
    };
    if span.0 < min || span.0 > max {
        node.fail(
            format!("`{}` is out of bounds", clip(&text)),
            format!("it is at least {} and at most {}", Span::new(min), Span::new(max)),
            "choose one in between",
        );
        return None;
    }
    Some(span.0)
}
