//! Lengths of time as people read them.

/// A length in microseconds with three significant digits and a unit: `870 µs`, `3.4 ms`, `1.52 s`, `2 min 5 s`.
pub fn human(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{} ms", three_digits(us, 1_000)),
        1_000_000..60_000_000 => format!("{} s", three_digits(us, 1_000_000)),
        _ => {
            let seconds = us / 1_000_000;
            match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
                (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
                (hours, minutes, _) => format!("{hours} h {minutes} min"),
            }
        }
    }
}

/// An instant relative to the first hold: as [`human`], with its sign always shown.
pub fn human_instant(us: i64) -> String {
    let sign = if us < 0 { '−' } else { '+' };
    format!("{sign}{}", human(us.unsigned_abs()))
}

/// `us / unit` cut (not rounded, so that 999.9 never becomes 1000) to three significant digits, without trailing zeros.
fn three_digits(us: u64, unit: u64) -> String {
    let hundredths = us.saturating_mul(100) / unit;
    let (whole, rest) = (hundredths / 100, hundredths % 100);
    let decimals = match whole {
        0..10 => format!(".{rest:02}"),
        10..100 => format!(".{}", rest / 10),
        _ => String::new(),
    };
    let text = format!("{whole}{decimals}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_read_naturally() {
        for (us, text) in [
            (0, "0 µs"),
            (870, "870 µs"),
            (3_400, "3.4 ms"),
            (3_000, "3 ms"),
            (3_456, "3.45 ms"),
            (24_960, "24.9 ms"),
            (100_000, "100 ms"),
            (999_999, "999 ms"),
            (1_520_000, "1.52 s"),
            (59_999_999, "59.9 s"),
            (125_000_000, "2 min 5 s"),
            (7_260_000_000, "2 h 1 min"),
        ] {
            assert_eq!(human(us), text);
        }
        assert_eq!(human(u64::MAX), "5124095576 h 1 min");
    }

    #[test]
    fn instants_say_before_or_after() {
        assert_eq!(human_instant(-300_000), "−300 ms");
        assert_eq!(human_instant(0), "+0 µs");
        assert_eq!(human_instant(i64::MIN), "−2562047788 h 0 min");
    }
}
