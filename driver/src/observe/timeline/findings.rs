//! What a picture shows, in plain sentences. Each sentence is computed from the figures; none is a promise.

use crate::domain::Level;
use crate::domain::timeline::Phase;
use crate::observe::duration::human;
use crate::observe::plain::printable;

use super::{Moment, Picture, length};

/// What the order of holds, cuts and releases over all members proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Barrier {
    /// Every member was held before the first cut began, and the last cut ended before the first release.
    Proven {
        /// The last hold was complete, relative to the first hold requested.
        all_held_us: i64,
        /// The last cut was complete.
        all_cut_us: i64,
    },
    /// Some member was cut while another one was not held.
    Broken,
    /// Nothing was held (no member was in use), or nothing is recorded.
    NothingHeld,
}

/// Whether all members were held together. Instants of different hosts are compared with their clock error as
/// tolerance: what could be an error of measurement alone is not called broken.
pub fn barrier(picture: &Picture) -> Barrier {
    let all_held = picture.spans(Phase::Freeze).map(|span| span.end_us).max();
    let first_cut = picture.spans(Phase::Cut).map(|span| span.start_us).min();
    let all_cut = picture.spans(Phase::Cut).map(|span| span.end_us).max();
    let first_release = picture.spans(Phase::Thaw).map(|span| span.start_us).min();
    let (Some(all_held_us), Some(first_cut), Some(all_cut_us), Some(first_release)) =
        (all_held, first_cut, all_cut, first_release)
    else {
        return Barrier::NothingHeld;
    };
    let tolerance = i64::try_from(picture.clock_error_us().saturating_mul(2)).unwrap_or(i64::MAX);
    if all_held_us.saturating_sub(first_cut) <= tolerance
        && all_cut_us.saturating_sub(first_release) <= tolerance
    {
        Barrier::Proven { all_held_us, all_cut_us }
    } else {
        Barrier::Broken
    }
}

/// The sentences, most important first.
pub fn sentences(picture: &Picture) -> Vec<String> {
    if picture.lanes().next().is_none() {
        return vec!["This cut has no recorded timeline.".to_owned()];
    }
    let mut all = vec![barrier_sentence(picture), level_sentence(picture)];
    all.extend(flush_sentence(picture));
    all.extend(slowest_sentence(picture));
    all.extend(pods_sentence(picture));
    all.extend(sessions_sentence(picture));
    all.extend(clock_sentence(picture));
    all
}

fn barrier_sentence(picture: &Picture) -> String {
    let volumes = count(picture.lanes().count(), "volume");
    let hosts = count(picture.timeline.hosts.len(), "host");
    let window = human(picture.timeline.window_us);
    match barrier(picture) {
        Barrier::Proven { .. } => format!(
            "{volumes} on {hosts} were held together for {window}: every volume was held before the first cut \
             began, and none was released before the last cut was done."
        ),
        Barrier::Broken => format!(
            "{volumes} on {hosts} were NOT held together: a volume was cut while another one could still be \
             written. The cuts lie {} apart, so what was written in between may be in one volume and missing in \
             another.",
            human(picture.timeline.skew_us)
        ),
        Barrier::NothingHeld => {
            format!("{volumes} on {hosts} were cut; none was mounted, so no filesystem had to be held.")
        }
    }
}

fn level_sentence(picture: &Picture) -> String {
    let meaning = match picture.level {
        Level::Crash => "each volume is what a power failure at its own cut would have left of it",
        Level::Group => "all volumes are what one power failure would have left of them",
        Level::Filesystem => "all volumes are at one instant, with their filesystems flushed and frozen",
        Level::Application => {
            "all volumes are at one instant, frozen, and the application did what its rule says before the cut"
        }
    };
    let reasons: Vec<_> = picture.reasons.iter().map(|reason| printable(reason)).collect();
    match reasons.as_slice() {
        [] => format!("Level reached: {}; {meaning}.", picture.level),
        reasons => {
            format!(
                "Level reached: {}; {meaning}. Not higher because: {}.",
                picture.level,
                reasons.join("; ")
            )
        }
    }
}

fn flush_sentence(picture: &Picture) -> Option<String> {
    let longest = picture.spans(Phase::Flush).map(length).max()?;
    Some(format!(
        "Dirty pages were flushed before the hold, while writers went on; the longest flush took {}.",
        human(longest)
    ))
}

/// Names the member whose freeze took longest: it is what everybody else waited for.
fn slowest_sentence(picture: &Picture) -> Option<String> {
    let lanes =
        picture.timeline.hosts.iter().flat_map(|host| host.volumes.iter().map(move |lane| (host, lane)));
    let (host, lane, freeze) = lanes
        .filter_map(|(host, lane)| Some((host, lane, super::span_of(lane, Phase::Freeze)?)))
        .max_by_key(|(_, _, span)| length(span))?;
    Some(format!(
        "The slowest freeze was {} on volume {} of host {}; the longest time any one volume could not be written \
         was {}.",
        human(length(freeze)),
        printable(&lane.name),
        printable(host.host.as_str()),
        human(picture.timeline.longest_stall_us)
    ))
}

fn pods_sentence(picture: &Picture) -> Option<String> {
    let commands = || picture.pods.iter().flat_map(|pod| &pod.commands);
    let of = |moment| commands().filter(move |command| command.moment == moment).count();
    let failed = commands().filter(|command| !command.failure.is_empty()).count();
    if picture.pods.is_empty() {
        return None;
    }
    let verdict = match failed {
        0 => "all succeeded".to_owned(),
        failed => format!("{failed} FAILED"),
    };
    let sessions = match of(Moment::Hold) {
        0 => String::new(),
        sessions => format!(", kept {} open across it", count(sessions, "session")),
    };
    let after = match of(Moment::After) {
        0 => String::new(),
        commands => format!(" and {} after it", count(commands, "command")),
    };
    Some(format!(
        "The rule ran {} before the cut{sessions}{after} in {}; {verdict}.",
        count(of(Moment::Before), "command"),
        count(picture.pods.len(), "pod")
    ))
}

/// When sessions were taken, and which were lost.
fn sessions_sentence(picture: &Picture) -> Option<String> {
    let lanes = || picture.pods.iter().flat_map(|pod| pod.commands.iter().map(move |command| (pod, command)));
    let taken: Vec<i64> = lanes().filter_map(|(_, command)| command.held_us).collect();
    let last = taken.iter().max()?;
    let apart = match picture.session_skew_us {
        Some(skew) if taken.len() > 1 => format!(", {} between the first and the last", human(skew)),
        Some(_) | None => String::new(),
    };
    let lost: Vec<_> =
        lanes().filter(|(_, command)| command.lost).map(|(pod, _)| printable(&pod.pod)).collect();
    let lost = match lost.as_slice() {
        [] => "each was still there after the cut".to_owned(),
        pods => format!("LOST: {}", pods.join(", ")),
    };
    Some(format!(
        "{} taken{apart}; the last one held at {}; {lost}.",
        count(taken.len(), "session"),
        crate::observe::duration::human_instant(*last)
    ))
}

fn clock_sentence(picture: &Picture) -> Option<String> {
    (picture.timeline.hosts.len() > 1).then(|| {
        format!(
            "Hosts have clocks of their own; their instants are aligned to within ±{}, which is also how exact the \
             skew of {} is.",
            human(picture.clock_error_us()),
            human(picture.timeline.skew_us)
        )
    })
}

/// `1 volume`, `3 volumes`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}
