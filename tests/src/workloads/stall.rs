//! How long a writer has waited for one answer.

use std::time::{Duration, Instant};

/// The longest time between two acknowledgements of one writer of which any part is between these instants. One that
/// has not been answered yet counts as answered at `to`.
pub fn longest_gap(acknowledged: impl IntoIterator<Item = Instant>, from: Instant, to: Instant) -> Duration {
    let mut longest = Duration::ZERO;
    let mut last = None;
    for next in acknowledged.into_iter().chain([to]) {
        // Writers begin before anybody looks; what was before the first acknowledgement is not known.
        if let Some(before) = last.replace(next)
            && next > from
            && before < to
        {
            longest = longest.max(next.saturating_duration_since(before));
        }
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_counts_where_any_part_of_it_is_looked_at() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let acknowledged = [10, 20, 500, 510, 520].map(at);
        let gap = |from, to| longest_gap(acknowledged, at(from), at(to)).as_millis();
        assert_eq!(gap(15, 515), 480);
        assert_eq!(gap(490, 515), 480, "it began before");
        assert_eq!(gap(505, 515), 10, "it ended before");
        assert_eq!(gap(0, 5), 0, "nothing is known yet");
        assert_eq!(gap(515, 900), 380, "no answer until the end");
    }
}
