//! What must not be shown: values of secrets, and what a rule's patterns match.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use regex::{Regex, RegexBuilder};

use crate::api::limits;
use crate::output::OMITTED;

/// What stands in its place.
const MASK: &str = "[redacted]";
/// Bytes that one compiled pattern may take.
const PATTERN_BYTES: usize = 256 * 1024;
/// A part of a secret shorter than this, at a place where output was left out, tells nothing.
const SHORTEST_PART: usize = 3;

/// Compiles a pattern, or says why not.
pub(crate) fn pattern(text: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(text).size_limit(PATTERN_BYTES).build().map_err(|error| {
        if let regex::Error::CompiledTooBig(_) = error {
            return "it is too large".to_owned();
        }
        error.to_string().lines().last().unwrap_or_default().to_owned()
    })?;
    if built.is_match("") {
        return Err("it matches the empty text, so it would hide nothing and everything".to_owned());
    }
    Ok(built)
}

/// Hides what must not be shown. Clones share what they know.
#[derive(Debug, Clone, Default)]
pub(crate) struct Redactor {
    patterns: Arc<Vec<Regex>>,
    secrets: Arc<Mutex<BTreeSet<String>>>,
}

impl Redactor {
    /// With the patterns of a rule, which were checked when it was read.
    pub(crate) fn new(patterns: &[String]) -> Self {
        let patterns = patterns.iter().filter_map(|text| pattern(text).ok()).collect();
        Self { patterns: Arc::new(patterns), secrets: Arc::default() }
    }

    /// From now on this is hidden, as a whole and line by line.
    pub(crate) fn hide(&self, secret: &str) {
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = secret.lines().map(str::trim).filter(|line| line.len() >= SHORTEST_PART);
        for part in lines.chain([secret.trim()]).filter(|part| !part.is_empty()) {
            secrets.insert(part.to_owned());
        }
    }

    /// The text without what must not be shown, and without what would steer a terminal: it is copied into records,
    /// events, errors and logs.
    pub(crate) fn clean(&self, text: &str) -> String {
        let mut clean = text.to_owned();
        {
            let secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
            // The longest first: a secret may contain another one.
            let mut longest: Vec<&String> = secrets.iter().collect();
            longest.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
            for secret in longest {
                clean = clean.replace(secret.as_str(), MASK);
                clean = without_cut_parts(&clean, secret);
            }
        }
        for pattern in self.patterns.iter() {
            clean = pattern.replace_all(&clean, MASK).into_owned();
        }
        // Last, so that a secret is still recognised; a line break of Windows is one line break.
        crate::plain::printable_lines(&clean.replace("\r\n", "\n")).into_owned()
    }
}

/// Where bytes were left out, the beginning of a secret may stand before and its end behind.
fn without_cut_parts(text: &str, secret: &str) -> String {
    let Some(at) = text.find(OMITTED) else { return text.to_owned() };
    let (before, rest) = text.split_at(at);
    let Some(line_end) =
        rest.find('\n').and_then(|first| rest[first + 1..].find('\n').map(|n| first + 1 + n))
    else {
        return text.to_owned();
    };
    let (gap, after) = rest.split_at(line_end + 1);
    let starts = (SHORTEST_PART..secret.len()).rev().filter(|n| secret.is_char_boundary(*n));
    let cut = starts.clone().find(|n| before.ends_with(&secret[..*n]));
    let before = cut.map_or_else(|| before.to_owned(), |n| format!("{}{MASK}", &before[..before.len() - n]));
    let ends = (1..secret.len().saturating_sub(SHORTEST_PART - 1)).filter(|n| secret.is_char_boundary(*n));
    let cut = ends.clone().find(|n| after.starts_with(&secret[*n..]));
    let after = cut.map_or_else(|| after.to_owned(), |n| format!("{MASK}{}", &after[secret.len() - n..]));
    format!("{before}{gap}{after}")
}

/// A secret as text, without the line break that editors leave at its end.
pub(crate) fn secret_text(bytes: Vec<u8>) -> Result<String, String> {
    if bytes.len() > limits::SECRET_BYTES {
        return Err(format!("it is longer than {} bytes; a secret is shorter", limits::SECRET_BYTES));
    }
    let mut text =
        String::from_utf8(bytes).map_err(|_| "it is not UTF-8 text; store it as text".to_owned())?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    if text.contains('\0') {
        return Err("it has a NUL character, which nothing can be given".to_owned());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_patterns_are_hidden_everywhere() {
        let redactor = Redactor::new(&["token=\\S+".to_owned()]);
        redactor.hide("hunter2\n");
        redactor.hide("hunter22 and more");
        let clean = redactor.clean("a hunter2 b hunter22 and more c token=abc d\nhunter2");
        assert_eq!(clean, "a [redacted] b [redacted] c [redacted] d\n[redacted]");
    }

    #[test]
    fn what_a_program_prints_cannot_steer_a_terminal_and_secrets_in_it_are_still_hidden() {
        let redactor = Redactor::default();
        redactor.hide("hunt\u{1b}[31mer2");
        let clean = redactor.clean("a\u{1b}[2Jb\r\nc\thunt\u{1b}[31mer2\u{202e}");
        assert_eq!(clean, "a\\u{1b}[2Jb\nc\t[redacted]\\u{202e}");
    }

    #[test]
    fn each_line_of_a_long_secret_is_hidden() {
        let redactor = Redactor::default();
        redactor.hide("-----BEGIN-----\nMIIabcdef\n-----END-----\n");
        assert_eq!(redactor.clean("x MIIabcdef y"), "x [redacted] y");
    }

    #[test]
    fn a_secret_that_was_cut_in_two_is_hidden() {
        let mut output = crate::output::Output::new(16);
        output.push(b"ab ");
        output.push(b"correct horse battery staple");
        output.push(b" yz");
        let (text, omitted) = output.finish();
        assert!(omitted > 0 && text.contains("corre"), "{text}");
        let redactor = Redactor::default();
        redactor.hide("correct horse battery staple");
        let clean = redactor.clean(&text);
        assert!(!clean.contains("corre") && !clean.contains("aple"), "{clean}");
        assert!(clean.starts_with("ab [redacted]") && clean.ends_with("[redacted] yz"), "{clean}");
    }

    #[test]
    fn what_is_no_pattern_is_refused_in_words() {
        for (text, words) in
            [("(", "unclosed group"), ("a*", "empty text"), ("(?:a{1000}){1000}", "too large")]
        {
            let why = pattern(text).unwrap_err();
            assert!(why.contains(words), "{text}: {why}");
        }
    }
}
