//! What a command prints, kept within a limit while it is read: the head and the tail.

use std::collections::VecDeque;

/// What begins the line that stands between head and tail.
pub(crate) const OMITTED: &str = "\n… ";

/// Head and tail of a stream of bytes.
#[derive(Debug)]
pub(crate) struct Output {
    half: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: u64,
}

impl Output {
    pub(crate) fn new(limit: usize) -> Self {
        Self { half: limit / 2, head: Vec::new(), tail: VecDeque::new(), total: 0 }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let room = self.half - self.head.len();
        let (first, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(first);
        let rest = &rest[rest.len().saturating_sub(self.half)..];
        let surplus = (self.tail.len() + rest.len()).saturating_sub(self.half);
        self.tail.drain(..surplus);
        self.tail.extend(rest);
    }

    /// Valid UTF-8 and the number of bytes that it lacks.
    pub(crate) fn finish(mut self) -> (String, u64) {
        let kept = (self.head.len() + self.tail.len()) as u64;
        let omitted = self.total - kept;
        if omitted == 0 {
            self.head.extend(&self.tail);
            return (String::from_utf8_lossy(&self.head).into_owned(), 0);
        }
        let tail: Vec<u8> = self.tail.into();
        let text = format!(
            "{}{OMITTED}{omitted} bytes left out …\n{}",
            String::from_utf8_lossy(&self.head),
            String::from_utf8_lossy(&tail)
        );
        (text, omitted)
    }
}

/// Standard output, then standard error.
pub(crate) fn join(out: Output, err: Output) -> (String, u64) {
    let ((mut text, omitted), (more, also)) = (out.finish(), err.finish());
    if !text.is_empty() && !more.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&more);
    (text, omitted + also)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_kept_whole() {
        let mut output = Output::new(10);
        output.push(b"hello");
        output.push(b"world");
        assert_eq!(output.finish(), ("helloworld".to_owned(), 0));
    }

    #[test]
    fn head_and_tail_are_kept_however_the_bytes_arrive() {
        let text: Vec<u8> = (0..1000_u32).flat_map(|n| format!("{n:04}").into_bytes()).collect();
        for chunk in [1, 3, 7, 8, 9, 64, 4000] {
            let mut output = Output::new(16);
            text.chunks(chunk).for_each(|bytes| output.push(bytes));
            let (kept, omitted) = output.finish();
            assert_eq!(omitted, 4000 - 16, "{chunk}");
            assert!(kept.starts_with("00000001\n") && kept.ends_with("\n09980999"), "{chunk}: {kept}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        let mut output = Output::new(100);
        output.push(b"a\xff\xfeb");
        assert_eq!(output.finish().0, "a\u{fffd}\u{fffd}b");
    }

    #[test]
    fn a_limit_of_zero_keeps_nothing_and_counts_everything() {
        let mut output = Output::new(0);
        output.push(b"abc");
        assert_eq!(output.finish().1, 3);
    }
}
