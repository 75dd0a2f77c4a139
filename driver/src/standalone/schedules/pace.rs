//! Notices that the wall clock was set forward.

use std::time::Duration;

use jiff::Timestamp;
use stillpoint_rules::schedule::limits::CLOCK_STEP;
use tokio::time::Instant;

/// How long ages are not believed after the clock was set: time to see the warning, or for the clock to be set right.
const DOUBT: Duration = Duration::from_hours(1);

/// The wall clock beside one that is never set.
#[derive(Debug)]
pub(super) struct Pace {
    wall: Timestamp,
    steady: Instant,
    doubted_until: Option<Instant>,
}

impl Pace {
    /// `known` is the newest instant on record. A clock that is far ahead of it at the start of a process may be wrong,
    /// as after a dead battery, or the process was away for long: nobody can tell, so ages are not believed at first.
    pub(super) fn new(wall: Timestamp, known: Option<Timestamp>) -> Self {
        let now = Instant::now();
        let ahead = known.and_then(|known| Duration::try_from(wall.duration_since(known)).ok());
        let doubted_until = ahead.filter(|ahead| *ahead > CLOCK_STEP).map(|_| now + DOUBT);
        Self { wall, steady: now, doubted_until }
    }

    /// Looks at the wall clock; by how much it was set, in words, where that is too much for retentions to go by.
    pub(super) fn look(&mut self, wall: Timestamp) -> Option<String> {
        let steady = Instant::now();
        let passed = steady.saturating_duration_since(self.steady);
        let step =
            Duration::try_from(wall.duration_since(self.wall)).unwrap_or_default().saturating_sub(passed);
        (self.wall, self.steady) = (wall, steady);
        if step <= CLOCK_STEP {
            return None;
        }
        self.doubted_until = Some(steady + DOUBT);
        Some(format!("{} min forward", step.as_secs() / 60))
    }

    /// Whether ages by the wall clock are believed.
    pub(super) fn is_believed(&self) -> bool {
        self.doubted_until.is_none_or(|until| until <= Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_was_set_forward_by_more_than_an_hour_is_doubted_for_an_hour() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let mut pace = Pace::new(at("2026-01-01T00:00:00Z"), None);
        tokio::time::advance(Duration::from_hours(5)).await;
        assert_eq!(pace.look(at("2026-01-01T05:30:00Z")), None, "half an hour is set right");
        assert!(pace.is_believed());
        assert!(pace.look(at("2027-01-01T05:30:00Z")).is_some());
        assert!(!pace.is_believed());
        assert_eq!(pace.look(at("2026-01-01T05:30:00Z")), None, "back again");
        tokio::time::advance(Duration::from_mins(61)).await;
        assert!(pace.is_believed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_far_ahead_of_the_record_at_the_start_is_doubted_for_an_hour() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let known = Some(at("2026-01-01T00:00:00Z"));
        assert!(Pace::new(at("2026-01-01T00:30:00Z"), known).is_believed());
        assert!(
            Pace::new(at("2025-01-01T00:00:00Z"), known).is_believed(),
            "set back: nothing is too old by that"
        );
        let pace = Pace::new(at("2036-01-01T00:00:00Z"), known);
        assert!(!pace.is_believed());
        tokio::time::advance(Duration::from_mins(61)).await;
        assert!(pace.is_believed());
    }
}
