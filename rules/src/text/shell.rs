//! What can be told of a shell line without running it: what stands outside of quotes, and whether every quote is closed.

/// A line whose quoting was followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// The line with everything quoted or escaped replaced by `_`, and comments by blanks.
    pub(crate) outside: String,
    /// The quote that is never closed.
    pub(crate) unclosed: Option<char>,
}

/// Follows the quoting of a line. What stands in a here-document is taken for outside, so nothing is said about its
/// quotes.
pub(crate) fn follow(line: &str) -> Line {
    let mut outside = String::with_capacity(line.len());
    let mut open: Option<char> = None;
    let mut comment = false;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        let word_begins =
            outside.chars().next_back().is_none_or(|last| last.is_whitespace() || ";&|(".contains(last));
        match (open, c) {
            (None, '\n') => {
                comment = false;
                outside.push(c);
            }
            (None, _) if comment => outside.push(' '),
            (None, '#') if word_begins => {
                comment = true;
                outside.push(' ');
            }
            (Some('"') | None, '\\') => {
                outside.push('_');
                if chars.next().is_some() {
                    outside.push('_');
                }
            }
            (None, '\'' | '"') => {
                open = Some(c);
                outside.push('_');
            }
            (Some(quote), c) if c == quote => {
                open = None;
                outside.push('_');
            }
            (Some(_), _) => outside.push('_'),
            (None, c) => outside.push(c),
        }
    }
    let here_document = outside.contains("<<");
    Line { outside, unclosed: open.filter(|_| !here_document) }
}

/// Why the standard input and output at `part`, which occurs once in the line, are not those of the whole line.
pub(crate) fn cut_off(line: &str, part: &str) -> Option<&'static str> {
    let Line { outside, unclosed } = follow(line);
    let before = line.split(part).next().unwrap_or_default();
    let substituted = before.rfind("$(").is_some_and(|at| !before[at..].contains(')'));
    if unclosed.is_some() {
        Some("a quote is not closed")
    } else if outside.contains("<<") {
        Some("a here-document takes the place of the input")
    } else if outside.replace("||", "__").contains('|') {
        Some("a pipe takes the place of the input or the output")
    } else if outside.contains('<') {
        Some("the input is redirected")
    } else if outside.replace("2>", "__").contains('>') {
        Some("the output is redirected")
    } else if outside.replace("&&", "__").replace("2>&1", "__").contains('&') {
        Some("something runs in the background")
    } else if substituted || before.matches('`').count() % 2 == 1 {
        Some("the output is substituted into a command")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_escapes_and_comments_are_followed() {
        let table = [
            ("echo a", "echo a", None),
            ("echo 'a|b'", "echo _____", None),
            ("echo \"a\\\"b\" | c", "echo ______ | c", None),
            ("echo \\' done", "echo __ done", None),
            ("echo a # don't", "echo a        ", None),
            ("echo a#b", "echo a#b", None),
            ("echo 'never", "echo ______", Some('\'')),
            ("echo \"it's\"", "echo ______", None),
            ("cat <<EOF\nit's\nEOF\n", "cat <<EOF\nit_______", None),
        ];
        for (line, outside, unclosed) in table {
            assert_eq!(follow(line), Line { outside: outside.to_owned(), unclosed }, "{line}");
        }
    }

    #[test]
    fn where_input_or_output_is_somebody_elses_is_found() {
        let table = [
            ("lock; W; unlock", None),
            ("mysql -p\"$(cat /pw)\" -e 'lock; system W;' 2>/dev/null", None),
            ("a && b || W 2>&1", None),
            ("mysql <<EOF\nsystem W\nEOF", Some("here-document")),
            ("echo 'system W' | mysql", Some("pipe")),
            ("mysql -e 'system W' </dev/null", Some("input is redirected")),
            ("mysql -e 'system W' >/tmp/log", Some("output is redirected")),
            ("mysql -e 'system W' &", Some("background")),
            ("x=$(lock; W)", Some("substituted")),
            ("x=`lock; W`", Some("substituted")),
            ("mysql -e 'system W", Some("not closed")),
        ];
        for (line, reason) in table {
            let found = cut_off(line, "W");
            match reason {
                None => assert_eq!(found, None, "{line}"),
                Some(words) => assert!(found.is_some_and(|why| why.contains(words)), "{line}: {found:?}"),
            }
        }
    }
}
