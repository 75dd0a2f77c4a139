mod books;
mod fates;
mod forms;
mod steps;
mod world;
mod year;

use std::time::Duration;

use jiff::Timestamp;

use super::*;
use crate::retain::Verdict;
use crate::schedule::{Activity, SkipReason};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// One job with these lines, which cuts `app=db`.
fn job(lines: &str) -> Job {
    let indented = lines.replace('\n', "\n  ");
    let text = format!("schedules:\n- name: s\n  {indented}\n  cut: {{selectors: [app=db]}}\n");
    in_config(&text).unwrap_or_else(|error| panic!("{text}: {error}")).remove(0)
}

fn found(id: &str, at: Timestamp, verdict: Verdict) -> FoundCut {
    let remark = if verdict == Verdict::Good { String::new() } else { "a session was lost".to_owned() };
    FoundCut { id: id.to_owned(), at, level: "filesystem".to_owned(), verdict, remark }
}
