//! A time zone by its name.

use jiff::tz::TimeZone;

/// A time zone of the IANA database; UTC when nothing is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone(TimeZone);

impl Default for Zone {
    fn default() -> Self {
        Self(TimeZone::UTC)
    }
}

impl Zone {
    /// The zone of that name, as `Europe/Berlin`; `None` when there is none.
    pub fn named(name: &str) -> Option<Self> {
        let plausible = (1..=64).contains(&name.len())
            && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"/_+-".contains(&c));
        if !plausible {
            return None;
        }
        // Only names that can be written back: a zone without one would be lost.
        TimeZone::get(name).ok().filter(|zone| zone.iana_name().is_some()).map(Self)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// An instant as the clocks on its walls show it, as `2026-11-20 02:30:00 CET`.
    pub fn wall_clock(&self, t: jiff::Timestamp) -> String {
        t.to_zoned(self.0.clone()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string()
    }

    /// Its rules.
    pub(crate) fn rules(&self) -> &TimeZone {
        &self.0
    }
}
