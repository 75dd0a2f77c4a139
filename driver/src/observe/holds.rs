//! What this process holds right now, and the silence that goes with it.
//!
//! While anything is held nothing may be written to a disk but the snapshots: a log line could block on the very
//! filesystem that is held, or on a disk that is busy with the cut. So every line goes through [`Holds`]: while a
//! [`Held`] lives, lines are kept in memory, at most [`RING_BYTES`] of them; the end of the last one writes them out.
//! A process that dies meanwhile takes them with it.
//!
//! The check and the write are under one lock: a hold begins only after a line that is being written is out.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

/// Lines of a hold: a round logs a few hundred bytes per member.
pub const RING_BYTES: usize = 256 << 10;

/// The holds of a process and where its log goes.
pub struct Holds {
    inner: Mutex<Inner>,
}

struct Inner {
    live: BTreeMap<u64, Instant>,
    next: u64,
    ring: VecDeque<Vec<u8>>,
    ring_bytes: usize,
    lost: u64,
    sink: Box<dyn Write + Send>,
}

/// Something is held while this lives.
#[must_use]
pub struct Held<'a> {
    holds: &'a Holds,
    key: u64,
}

static PROCESS: LazyLock<Holds> = LazyLock::new(|| Holds::new(io::stderr()));

/// The holds of this process, whose log is standard error.
pub fn process() -> &'static Holds {
    &PROCESS
}

impl Holds {
    /// None, with the log going there.
    pub fn new(sink: impl Write + Send + 'static) -> Self {
        Self {
            inner: Mutex::new(Inner {
                live: BTreeMap::new(),
                next: 0,
                ring: VecDeque::new(),
                ring_bytes: 0,
                lost: 0,
                sink: Box::new(sink),
            }),
        }
    }

    /// A hold begins: from here on nothing is written.
    pub fn begin(&self) -> Held<'_> {
        let mut inner = self.lock();
        let key = inner.next;
        inner.next += 1;
        inner.live.insert(key, Instant::now());
        Held { holds: self, key }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().live.len()
    }

    /// How long the oldest has lasted.
    pub fn oldest(&self) -> Option<Duration> {
        self.lock().live.values().min().map(Instant::elapsed)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is complete after one statement; a sink that panics loses its own lines only.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut inner = self.holds.lock();
        inner.live.remove(&self.key);
        if inner.live.is_empty() {
            inner.flush();
        }
    }
}

impl Inner {
    fn keep(&mut self, line: &[u8]) {
        if self.ring_bytes + line.len() > RING_BYTES {
            self.lost += 1;
            return;
        }
        self.ring_bytes += line.len();
        self.ring.push_back(line.to_vec());
    }

    /// Who reads the log may be gone: then there is nobody to tell.
    fn flush(&mut self) {
        for line in self.ring.drain(..) {
            let _ = self.sink.write_all(&line);
        }
        self.ring_bytes = 0;
        if self.lost > 0 {
            let lost = std::mem::take(&mut self.lost);
            let _ = writeln!(self.sink, "{lost} lines of a hold were dropped: more than {RING_BYTES} bytes");
        }
        let _ = self.sink.flush();
    }
}

/// One line; a writer of [`Holds`].
pub struct Line<'a> {
    holds: &'a Holds,
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut inner = self.holds.lock();
        if inner.live.is_empty() {
            inner.sink.write_all(line)?;
        } else {
            inner.keep(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut inner = self.holds.lock();
        if inner.live.is_empty() { inner.sink.flush() } else { Ok(()) }
    }
}

impl<'a> MakeWriter<'a> for &'static Holds {
    type Writer = Line<'static>;

    fn make_writer(&'a self) -> Self::Writer {
        Line { holds: self }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Shared {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn holds() -> (&'static Holds, Shared) {
        let sink = Shared::default();
        (Box::leak(Box::new(Holds::new(sink.clone()))), sink)
    }

    #[test]
    fn what_is_logged_during_a_hold_is_written_after_it() {
        let (holds, sink) = holds();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).without_time().with_writer(holds).finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("before");
            assert!(sink.text().contains("before"));
            let first = holds.begin();
            tracing::info_span!("round", cut = 7).in_scope(|| tracing::info!("inside"));
            let second = holds.begin();
            drop(first);
            tracing::info!("second line");
            assert!(
                !sink.text().contains("inside") && !sink.text().contains("second line"),
                "{}",
                sink.text()
            );
            drop(second);
            assert!(sink.text().contains("inside") && sink.text().contains("second line"), "{}", sink.text());
        });
    }

    #[test]
    fn a_hold_that_talks_too_much_loses_lines_and_says_so() {
        let (holds, sink) = holds();
        let held = holds.begin();
        let line = vec![b'x'; 1 << 10];
        for _ in 0..RING_BYTES / line.len() + 3 {
            Line { holds }.write_all(&line).unwrap();
        }
        drop(held);
        assert!(sink.text().contains("3 lines of a hold were dropped"));
        Line { holds }.write_all(b"after").unwrap();
        assert!(sink.text().ends_with("after"));
    }

    #[test]
    fn the_oldest_hold_is_known() {
        let (holds, _) = holds();
        assert_eq!((holds.count(), holds.oldest()), (0, None));
        let first = holds.begin();
        std::thread::sleep(Duration::from_millis(20));
        let _second = holds.begin();
        assert!(holds.oldest().unwrap() >= Duration::from_millis(20));
        drop(first);
        assert_eq!(holds.count(), 1);
    }
}
