//! Linear scales with round ticks.
#![allow(clippy::cast_precision_loss, reason = "pixels: an error of 2^-53 is not seen")]

/// Maps microseconds to horizontal pixels.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    from_us: f64,
    to_us: f64,
    left: f64,
    right: f64,
}

impl Scale {
    /// Instants `from_us..to_us` onto pixels `left..right`. An empty range is widened, so that it can be drawn.
    pub fn new(from_us: i64, to_us: i64, left: f64, right: f64) -> Self {
        let to_us = to_us.max(from_us.saturating_add(1));
        Self { from_us: from_us as f64, to_us: to_us as f64, left, right }
    }

    /// Pixel of an instant, clamped to the plot.
    pub fn x(&self, us: i64) -> f64 {
        let share = (us as f64 - self.from_us) / (self.to_us - self.from_us);
        (self.left + share * (self.right - self.left)).clamp(self.left, self.right)
    }

    /// Round instants within the range: steps of 1, 2 or 5 times a power of ten, about `wanted` of them.
    pub fn ticks(&self, wanted: u32) -> Vec<i64> {
        let rough = (self.to_us - self.from_us) / f64::from(wanted.max(1));
        let power = 10_f64.powf(rough.log10().floor()).max(1.0);
        let step = [1.0, 2.0, 5.0, 10.0]
            .into_iter()
            .map(|m| m * power)
            .find(|s| *s >= rough)
            .unwrap_or(power * 10.0);
        let first = (self.from_us / step).ceil();
        let last = (self.to_us / step).floor();
        let mut ticks = Vec::new();
        let mut at = first;
        while at <= last && ticks.len() < 64 {
            #[allow(clippy::cast_possible_truncation, reason = "within the range of the i64 it came from")]
            ticks.push((at * step) as i64);
            at += 1.0;
        }
        ticks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(Scale::new(-1_000, 21_000, 0.0, 1.0).ticks(6), [0, 5_000, 10_000, 15_000, 20_000]);
        assert_eq!(
            Scale::new(-2_100_000, 300_000, 0.0, 1.0).ticks(5),
            [-2_000_000, -1_500_000, -1_000_000, -500_000, 0]
        );
    }

    #[test]
    fn no_range_makes_it_fail() {
        for (from, to) in [(0, 0), (5, -5), (i64::MIN, i64::MAX), (i64::MAX, i64::MAX)] {
            let scale = Scale::new(from, to, 10.0, 20.0);
            assert!(scale.ticks(8).len() <= 64);
            assert!((10.0..=20.0).contains(&scale.x(0)));
        }
    }
}
