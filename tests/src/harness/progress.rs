//! What people see while something takes longer than a second.

use std::io::IsTerminal;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Without a terminal: the first word after this long, the next ones at this distance.
const FIRST_WORD: Duration = Duration::from_secs(1);
const NEXT_WORD: Duration = Duration::from_secs(15);

/// A step that is under way. On a terminal a spinner, elsewhere plain lines, and only when it takes long.
#[derive(Debug)]
pub struct Step {
    text: String,
    start: Instant,
    shown: Shown,
}

#[derive(Debug)]
enum Shown {
    Spinner(ProgressBar),
    Lines { told: mpsc::Sender<Word> },
}

/// What the thread that prints lines is told.
#[derive(Debug)]
enum Word {
    Detail(String),
    End,
}

impl Step {
    /// Begins a step.
    pub fn begin(text: impl Into<String>) -> Self {
        let text = text.into();
        let shown = if std::io::stderr().is_terminal() { spinner(&text) } else { lines(text.clone()) };
        Self { text, start: Instant::now(), shown }
    }

    /// What is being waited for within the step.
    pub fn detail(&self, detail: &str) {
        match &self.shown {
            Shown::Spinner(bar) => bar.set_message(format!("{} · {detail}", self.text)),
            Shown::Lines { told } => drop(told.send(Word::Detail(detail.to_owned()))),
        }
    }

    /// Ends the step well: one line, with its time.
    pub fn done(self) {
        self.done_with("");
    }

    /// Ends the step well, with something to say about it.
    pub fn done_with(self, detail: &str) {
        let seconds = self.start.elapsed().as_secs_f64();
        let text = if detail.is_empty() { self.text.clone() } else { format!("{} · {detail}", self.text) };
        drop(self);
        let width = text.chars().count();
        println!("  ✓ {text}{:pad$}{seconds:>6.1} s", "", pad = 84_usize.saturating_sub(width));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        match &self.shown {
            Shown::Spinner(bar) => bar.finish_and_clear(),
            Shown::Lines { told } => drop(told.send(Word::End)),
        }
    }
}

fn spinner(text: &str) -> Shown {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.set_message(text.to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
    Shown::Spinner(bar)
}

fn lines(text: String) -> Shown {
    let (told, words) = mpsc::channel();
    std::thread::spawn(move || {
        let start = Instant::now();
        let (mut next, mut shown) = (start + FIRST_WORD, text.clone());
        loop {
            match words.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Word::Detail(detail)) => shown = format!("{text} · {detail}"),
                Ok(Word::End) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    eprintln!("  … {shown} ({} s)", start.elapsed().as_secs());
                    next = Instant::now() + NEXT_WORD;
                }
            }
        }
    });
    Shown::Lines { told }
}
