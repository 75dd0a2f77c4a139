//! Reads what a session prints, keeps what fits, and tells whoever waits for a text.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::oneshot;

use crate::output::Output;

/// A line longer than this is looked through in parts.
const MAX_LINE: usize = 64 * 1024;

/// The text that is being waited for, and who waits.
#[derive(Clone, Default)]
pub(crate) struct Awaited(Arc<Mutex<Expectation>>);

#[derive(Default)]
enum Expectation {
    #[default]
    Nothing,
    Text(String, oneshot::Sender<()>),
    /// Nothing more will be heard, also by those who begin to wait now.
    Ended,
}

impl Awaited {
    /// From now on a line with this text counts.
    pub(crate) fn expect_text(&self, text: &str) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        let mut expectation = self.expectation();
        if !matches!(*expectation, Expectation::Ended) {
            *expectation = Expectation::Text(text.to_owned(), tell);
        }
        told
    }

    /// Whoever waits, now or later, learns that nothing will come.
    pub(crate) fn give_up(&self) {
        *self.expectation() = Expectation::Ended;
    }

    fn tell(&self, line: &[u8]) {
        let mut expectation = self.expectation();
        let found = match &*expectation {
            Expectation::Text(text, _) => line.windows(text.len().max(1)).any(|part| part == text.as_bytes()),
            Expectation::Nothing | Expectation::Ended => false,
        };
        if found && let Expectation::Text(_, tell) = std::mem::take(&mut *expectation) {
            // Nobody waits any more: nobody needs to know.
            let _ = tell.send(());
        }
    }

    fn expectation(&self) -> MutexGuard<'_, Expectation> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads to the end. A text is also found in a line that has not ended yet: prompts do not end.
pub(crate) async fn hear(stream: &mut (impl AsyncRead + Unpin), awaited: &Awaited, output: &mut Output) {
    let mut chunk = vec![0; 16 * 1024];
    let mut line = Vec::new();
    while let Ok(length @ 1..) = stream.read(&mut chunk).await {
        output.push(&chunk[..length]);
        for part in chunk[..length].split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(part);
            awaited.tell(&line);
            if line.ends_with(b"\n") || line.len() > MAX_LINE {
                line.clear();
            }
        }
    }
    awaited.give_up();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_begins_to_wait_after_the_end_is_told_at_once() {
        let awaited = Awaited::default();
        let first = awaited.expect_text("held");
        hear(&mut &b"held\n"[..], &awaited, &mut Output::new(100)).await;
        first.await.unwrap();
        awaited.expect_text("again").await.unwrap_err();
    }
}
