//! Names come from outside. A name with control characters could move the cursor of a terminal, one with
//! direction marks could make a table read differently than it is: both are shown as escapes instead.

use std::borrow::Cow;

/// The text with everything that is not printed as itself written as `\u{…}`.
pub fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().any(is_treacherous) {
        Cow::Owned(
            text.chars()
                .map(|c| if is_treacherous(c) { c.escape_unicode().to_string() } else { c.into() })
                .collect(),
        )
    } else {
        Cow::Borrowed(text)
    }
}

/// At most `limit` characters, the last one `…` where something was left out; printable.
pub fn shortened(text: &str, limit: usize) -> String {
    let text = printable(text);
    if text.chars().count() <= limit {
        return text.into_owned();
    }
    text.chars().take(limit.saturating_sub(1)).chain(['…']).collect()
}

/// Control characters, and the marks that reorder or hide text.
fn is_treacherous(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_steer_a_terminal_or_reorder_a_line() {
        assert_eq!(printable("plain-ü"), "plain-ü");
        assert_eq!(printable("a\x1b[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(printable("a\u{202e}b\n"), "a\\u{202e}b\\u{a}");
    }

    #[test]
    fn long_names_end_in_an_ellipsis() {
        assert_eq!(shortened("abcdef", 6), "abcdef");
        assert_eq!(shortened("abcdefg", 6), "abcde…");
    }
}
