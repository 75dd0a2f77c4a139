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
    pub(super) fn new(wall: Timestamp) -> Self {
        Self { wall, steady: Instant::now(), doubted_until: None }
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
        let mut pace = Pace::new(at("2026-01-01T00:00:00Z"));
        tokio::time::advance(Duration::from_hours(5)).await;
        assert_eq!(pace.look(at("2026-01-01T05:30:00Z")), None, "half an hour is set right");
        assert!(pace.is_believed());
        assert!(pace.look(at("2027-01-01T05:30:00Z")).is_some());
        assert!(!pace.is_believed());
        assert_eq!(pace.look(at("2026-01-01T05:30:00Z")), None, "back again");
        tokio::time::advance(Duration::from_mins(61)).await;
        assert!(pace.is_believed());
    }
}
