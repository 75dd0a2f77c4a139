//! Reads what a session prints, keeps what fits, and tells whoever waits for a text.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::oneshot;

use crate::output::Output;

/// A line longer than this is looked through in parts.
const MAX_LINE: usize = 64 * 1024;

/// The text that is being waited for, and who waits.
#[derive(Clone, Default)]
pub(crate) struct Awaited(Arc<Mutex<Option<Waiting>>>);

type Waiting = (String, oneshot::Sender<()>);

impl Awaited {
    /// From now on a line with this text counts.
    pub(crate) fn expect_text(&self, text: &str) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((text.to_owned(), tell));
        told
    }

    /// Whoever still waits learns that nothing will come.
    pub(crate) fn give_up(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn tell(&self, line: &[u8]) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = waiting
            .as_ref()
            .is_some_and(|(text, _)| line.windows(text.len().max(1)).any(|part| part == text.as_bytes()));
        if found && let Some((_, tell)) = waiting.take() {
            // Nobody waits any more: nobody needs to know.
            let _ = tell.send(());
        }
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
