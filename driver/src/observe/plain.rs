//! Text from outside, made safe to show; see [`stillpoint_rules::plain`], which everything uses.

pub use stillpoint_rules::plain::{printable, printable_json, printable_lines};

/// At most `limit` characters, the last one `…` where something was left out; printable.
pub fn shortened(text: &str, limit: usize) -> String {
    let text = printable(text);
    if text.chars().count() <= limit {
        return text.into_owned();
    }
    text.chars().take(limit.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_end_in_an_ellipsis() {
        assert_eq!(shortened("abcdef", 6), "abcdef");
        assert_eq!(shortened("abcdefg", 6), "abcde…");
    }
}
