//! Wall clock → instants.
//!
//! A wall clock time that does not exist (the clock was put forward over it) is due at the instant of the change;
//! one that exists twice (put back) is due the first time only. Cron patterns with a `*` or a step in minutes or
//! hours go on in real time through both.

use std::fmt;
use std::time::Duration;

use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::AmbiguousOffset;

use super::{Zone, limits};

const QUARTER_S: i64 = 900;
/// Two days: no zone left out more than one.
const QUARTERS: i64 = 192;

/// The kinds of schedules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// At multiples of a length since 1970-01-01 00:00 UTC: no restart and no zone moves them.
    Every(Every),
    /// Each day.
    Daily(Clock),
    /// One day of each week.
    Weekly(Weekday, Clock),
    /// One day of each month.
    Monthly(DayOfMonth, Clock),
    /// A pattern of five fields.
    Cron(Cron),
}

/// The length of an interval, within [`limits::SHORTEST_EVERY`] and [`limits::LONGEST_EVERY`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Every(Duration);

impl Every {
    /// Whole seconds within the bounds.
    pub fn new(length: Duration) -> Option<Self> {
        let whole = Duration::from_secs(length.as_secs());
        (limits::SHORTEST_EVERY..=limits::LONGEST_EVERY).contains(&whole).then_some(Self(whole))
    }

    /// The length.
    pub fn get(self) -> Duration {
        self.0
    }

    fn multiple_at_or_before(self, t: Timestamp) -> Option<i64> {
        let seconds = i64::try_from(self.0.as_secs()).ok()?;
        let floor = t.as_nanosecond().div_euclid(1_000_000_000);
        Some(i64::try_from(floor).ok()?.div_euclid(seconds) * seconds)
    }
}

/// A time of day in whole minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    hour: i8,
    minute: i8,
}

impl Clock {
    /// `02:30`.
    pub fn parse(text: &str) -> Option<Self> {
        let (hour, minute) = text.split_once(':')?;
        let number = |part: &str, digits: &[usize], max: i8| {
            let plain = digits.contains(&part.len()) && part.bytes().all(|c| c.is_ascii_digit());
            part.parse::<i8>().ok().filter(|n| plain && *n <= max)
        };
        Some(Self { hour: number(hour, &[1, 2], 23)?, minute: number(minute, &[2], 59)? })
    }

    fn on(self, date: Date, zone: &Zone) -> Option<Timestamp> {
        let wall = date.at(self.hour, self.minute, 0, 0);
        let found = zone.rules().to_ambiguous_timestamp(wall);
        match found.offset() {
            AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(wall).ok(),
            AmbiguousOffset::Fold { before, .. } => before.to_timestamp(wall).ok(),
            AmbiguousOffset::Gap { after, .. } => {
                // Read with the later offset it is before the change, by less than the gap is long.
                let earlier = after.to_timestamp(wall).ok()?;
                zone.rules().following(earlier).next().map(|change| change.timestamp())
            }
        }
    }
}

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.hour, self.minute)
    }
}

/// A day of the month, 1 to 31; in a shorter month its last day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DayOfMonth(i8);

impl DayOfMonth {
    /// 1 to 31.
    pub fn new(day: u32) -> Option<Self> {
        i8::try_from(day).ok().filter(|day| (1..=31).contains(day)).map(Self)
    }

    /// 1 to 31.
    pub fn get(self) -> u32 {
        u32::from(self.0.unsigned_abs())
    }

    fn is(self, date: Date) -> bool {
        date.day() == self.0.min(date.days_in_month())
    }
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weekday(jiff::civil::Weekday);

/// The words for days of the week.
pub(super) const WEEKDAYS: [(&str, Weekday); 7] = [
    ("monday", Weekday(jiff::civil::Weekday::Monday)),
    ("tuesday", Weekday(jiff::civil::Weekday::Tuesday)),
    ("wednesday", Weekday(jiff::civil::Weekday::Wednesday)),
    ("thursday", Weekday(jiff::civil::Weekday::Thursday)),
    ("friday", Weekday(jiff::civil::Weekday::Friday)),
    ("saturday", Weekday(jiff::civil::Weekday::Saturday)),
    ("sunday", Weekday(jiff::civil::Weekday::Sunday)),
];

impl fmt::Display for Weekday {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(WEEKDAYS.iter().find(|(_, day)| day == self).map_or("monday", |(word, _)| word))
    }
}

/// A cron pattern: minute, hour, day of month, month, day of week.
#[derive(Debug, Clone)]
pub struct Cron {
    text: String,
    pattern: Box<croner::Cron>,
}

impl PartialEq for Cron {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Cron {}

impl Cron {
    /// Reads a pattern; the reason when it is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > limits::CRON_BYTES {
            return Err(format!("it is longer than {} characters", limits::CRON_BYTES));
        }
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let pattern = parser.parse(text).map_err(|error| error.to_string())?;
        // The search ends with an error where no day ever matches, as 30 February.
        let probe = Timestamp::UNIX_EPOCH.to_zoned(jiff::tz::TimeZone::UTC);
        pattern.find_next_occurrence(&probe, false).map_err(|_| "no day matches it".to_owned())?;
        Ok(Self { text: text.to_owned(), pattern: Box::new(pattern) })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl When {
    pub(super) fn next(&self, zone: &Zone, t: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Every(every) => {
                let length = i64::try_from(every.0.as_secs()).ok()?;
                Timestamp::from_second(every.multiple_at_or_before(t)?.checked_add(length)?).ok()
            }
            Self::Cron(cron) => {
                let found = |from: Timestamp, inclusive| {
                    let from = from.to_zoned(zone.rules().clone());
                    let due = cron.pattern.find_next_occurrence(&from, inclusive).ok()?.timestamp();
                    Some(due).filter(|due| *due > t)
                };
                // Before a whole day that a zone left out the library finds nothing later than `t`; from the change
                // itself on it does. Zones change at full quarters of an hour.
                let quarter = t.as_second().div_euclid(QUARTER_S);
                let mut later = (quarter + 1..=quarter + QUARTERS)
                    .filter_map(|quarter| Timestamp::from_second(quarter * QUARTER_S).ok());
                found(t, false).or_else(|| later.find_map(|from| found(from, true)))
            }
            Self::Daily(clock) | Self::Weekly(_, clock) | Self::Monthly(_, clock) => {
                // A day earlier: a time in a gap may be due on the next date.
                let first = t.to_zoned(zone.rules().clone()).date().yesterday().ok()?;
                self.days(first, Date::tomorrow).filter_map(|date| clock.on(date, zone)).find(|due| *due > t)
            }
        }
    }

    pub(super) fn last(&self, zone: &Zone, t: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Every(every) => Timestamp::from_second(every.multiple_at_or_before(t)?).ok(),
            Self::Cron(cron) => {
                let from = t.to_zoned(zone.rules().clone());
                let found = cron.pattern.find_previous_occurrence(&from, true).ok()?;
                Some(found.timestamp()).filter(|due| *due <= t)
            }
            Self::Daily(clock) | Self::Weekly(_, clock) | Self::Monthly(_, clock) => {
                let first = t.to_zoned(zone.rules().clone()).date().tomorrow().ok()?;
                self.days(first, Date::yesterday)
                    .filter_map(|date| clock.on(date, zone))
                    .find(|due| *due <= t)
            }
        }
    }

    /// The days that match, from `first` on; two months hold at least one of each kind, with room for skipped days.
    fn days(
        &self,
        first: Date,
        step: fn(Date) -> Result<Date, jiff::Error>,
    ) -> impl Iterator<Item = Date> + '_ {
        let days = std::iter::successors(Some(first), move |date| step(*date).ok());
        days.take(70).filter(|date| match self {
            Self::Weekly(day, _) => date.weekday() == day.0,
            Self::Monthly(day, _) => day.is(*date),
            Self::Every(_) | Self::Daily(_) | Self::Cron(_) => true,
        })
    }
}
