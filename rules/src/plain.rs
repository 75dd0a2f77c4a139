//! Text from outside, made safe to show. Names and what programs print can hold escape sequences, which move the cursor
//! of a terminal or change what stands there, and direction marks, which make a line read differently than it is. Both
//! are shown as escapes instead. Everything that shows such text uses this.

use std::borrow::Cow;

/// The text in one line: everything that is not printed as itself is written as `\u{…}`, line breaks too.
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_treacherous(c).then(|| c.escape_unicode().to_string()))
}

/// The text with its line breaks and tabs; everything else that is not printed as itself is written as `\u{…}`.
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    let stays = |c| matches!(c, '\n' | '\t');
    escaped(text, |c| (is_treacherous(c) && !stays(c)).then(|| c.escape_unicode().to_string()))
}

/// JSON with the same characters as JSON's own escapes, which mean the same to a reader.
pub fn printable_json(json: &str) -> Cow<'_, str> {
    let stays = |c| matches!(c, '\n' | '\t');
    escaped(json, |c| (is_treacherous(c) && !stays(c)).then(|| format!("\\u{:04x}", u32::from(c))))
}

fn escaped(text: &str, escape: impl Fn(char) -> Option<String>) -> Cow<'_, str> {
    if !text.chars().any(is_treacherous) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match escape(c) {
            Some(instead) => out.push_str(&instead),
            None => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// Control characters, and the marks that reorder or hide text. All of them are in the first plane.
fn is_treacherous(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_cannot_steer_a_terminal_or_reorder_a_line() {
        assert_eq!(printable("plain-ü"), "plain-ü");
        assert_eq!(printable("a\x1b[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(printable("a\u{202e}b\n"), "a\\u{202e}b\\u{a}");
        assert_eq!(
            printable_lines("a\tb\n\x1b]0;title\x07\u{9b}31m\r\n"),
            "a\tb\n\\u{1b}]0;title\\u{7}\\u{9b}31m\\u{d}\n"
        );
    }

    proptest! {
        #[test]
        fn json_means_the_same_and_has_nothing_treacherous(text in any::<String>()) {
            let json = serde_json::to_string(&text).unwrap();
            let shown = printable_json(&json);
            prop_assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
            prop_assert!(!shown.chars().any(is_treacherous));
        }

        #[test]
        fn whatever_is_printed_only_line_breaks_and_tabs_are_left_of_control_characters(text in any::<String>()) {
            prop_assert!(printable_lines(&text).chars().all(|c| !is_treacherous(c) || matches!(c, '\n' | '\t')));
            prop_assert!(!printable(&text).chars().any(is_treacherous));
        }
    }
}
