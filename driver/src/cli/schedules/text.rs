//! Schedules for people.

use jiff::Timestamp;
use stillpoint_rules::executor::{Entry, Event, OpenRun, Protection};

use crate::observe::duration::human;
use crate::observe::plain::shortened;
use crate::observe::table::{right_align, with_header};
use crate::standalone::schedules::report::{Overview, PlanReport, ScheduleReport, Suspension, VolumeReport};

/// Names of volumes in a line.
const LISTED: usize = 8;

/// One line per schedule, then what is not protected.
pub(super) fn overview(overview: &Overview) -> String {
    if overview.schedules.is_empty() {
        return "no schedules; `schedules:` in the controller's configuration makes them".to_owned();
    }
    let mut table =
        with_header(&["NAME", "WHEN", "NEXT", "LAST GOOD", "LAST RUN", "KEPT", "VOLUMES", "STATE"]);
    for one in &overview.schedules {
        table.add_row([
            shortened(&one.name, 40),
            format!("{} {}", one.when, one.time_zone),
            next(one, overview.now),
            one.last_good.as_ref().map_or("never".to_owned(), |cut| ago(cut.at, overview.now)),
            one.last_run.as_ref().map_or("-".to_owned(), |entry| word(&entry.event).to_owned()),
            one.kept.to_string(),
            if one.volumes_fault.is_some() { "?".to_owned() } else { one.volumes.len().to_string() },
            state(one),
        ]);
    }
    right_align(&mut table, 5..7);
    let mut lines = vec![table.to_string()];
    lines.extend(overview.schedules.iter().filter_map(|one| unprotected(one, overview.now)));
    lines.extend(faults(&overview.schedules));
    if !overview.unscheduled.is_empty() {
        lines.push(format!("in no schedule: {}", listed(overview.unscheduled.iter().map(String::as_str))));
    }
    lines.extend(
        overview.silent.iter().map(|why| format!("not everything is known: {}", shortened(why, 400))),
    );
    lines.join("\n")
}

/// One schedule with the last that happened.
pub(super) fn detail(one: &ScheduleReport, now: Timestamp) -> String {
    let mut lines = vec![
        format!("{}: {} {}, {}", one.name, one.when, one.time_zone, state(one)),
        format!("next run: {}", next(one, now)),
    ];
    if let Some(run) = &one.running {
        lines.push(format!("running: {} for {}", run.cut, since(run.started, now)));
    }
    let good = one.last_good.as_ref();
    lines.push(good.map_or("no good cut yet".to_owned(), |cut| {
        format!("last good cut: {} ({}, level {})", cut.name, ago(cut.at, now), cut.level)
    }));
    lines.push(format!("cuts kept: {}", one.kept));
    lines.extend(one.retention_fault.as_ref().map(|why| format!("retention: {}", shortened(why, 400))));
    lines.extend(one.volumes_fault.as_ref().map(|why| format!("volumes: {}", shortened(why, 400))));
    if !one.volumes.is_empty() {
        let mut table = with_header(&["VOLUME", "HOST", "NEWEST GOOD CUT", "PROTECTED"]);
        for volume in &one.volumes {
            table.add_row([
                shortened(&volume.name, 40),
                shortened(&volume.host, 40),
                volume.protection.newest_good.map_or("never".to_owned(), |at| ago(at, now)),
                if volume.protection.overdue { "OVERDUE" } else { "yes" }.to_owned(),
            ]);
        }
        lines.push(table.to_string());
    }
    if !one.history.is_empty() {
        let mut table = with_header(&["AT", "WHAT", "CUT OR DUE", "WHY"]);
        for entry in &one.history {
            table.add_row(line(entry));
        }
        lines.push(table.to_string());
    }
    lines.join("\n")
}

/// What is to come, and what becomes of the cuts.
pub(super) fn plan(plan: &PlanReport) -> String {
    let mut due = with_header(&["DUE", "STARTS", "LOCAL TIME"]);
    for one in &plan.due {
        due.add_row([one.due.to_string(), one.start.to_string(), one.local.clone()]);
    }
    let mut lines = Vec::new();
    if plan.suspended {
        lines.push(format!("{} is suspended: nothing of this starts until it is resumed", plan.name));
    }
    lines.push(due.to_string());
    if plan.cuts.is_empty() {
        lines.push("no cuts yet".to_owned());
    } else {
        let mut cuts = with_header(&["CUT", "CUT AT", "LEVEL", "RETENTION"]);
        for one in &plan.cuts {
            cuts.add_row([
                shortened(&one.cut.name, 90),
                one.cut.at.to_string(),
                one.cut.level.clone(),
                one.why.clone(),
            ]);
        }
        lines.push(cuts.to_string());
    }
    lines.extend(plan.unknown.iter().map(|name| format!("whether {name} exists is not known yet")));
    lines.join("\n")
}

fn state(one: &ScheduleReport) -> String {
    let mut words = Vec::new();
    if is_overdue(one) {
        words.push("OVERDUE");
    }
    match &one.suspended {
        Some(Suspension::Configuration) => words.push("suspended by configuration"),
        Some(Suspension::ByHand(_)) => words.push("suspended"),
        None => {}
    }
    if one.running.is_some() {
        words.push("running");
    }
    if words.is_empty() { "ok".to_owned() } else { words.join(", ") }
}

fn is_overdue(one: &ScheduleReport) -> bool {
    one.protection.overdue || one.volumes.iter().any(|volume| volume.protection.overdue)
}

fn unprotected(one: &ScheduleReport, now: Timestamp) -> Option<String> {
    let age = |protection: &Protection| protection.newest_good.map_or("never".to_owned(), |at| ago(at, now));
    let volume =
        |volume: &VolumeReport| format!("{} ({})", shortened(&volume.name, 40), age(&volume.protection));
    let volumes: Vec<String> =
        one.volumes.iter().filter(|volume| volume.protection.overdue).map(volume).collect();
    is_overdue(one).then(|| match volumes.as_slice() {
        [] => format!("OVERDUE {}: newest good cut {}", one.name, age(&one.protection)),
        volumes => {
            format!("OVERDUE {}: newest good cut of {}", one.name, listed(volumes.iter().map(String::as_str)))
        }
    })
}

fn faults(schedules: &[ScheduleReport]) -> impl Iterator<Item = String> {
    schedules.iter().flat_map(|one| {
        let volumes = one.volumes_fault.as_ref().map(|why| format!("{}: {}", one.name, shortened(why, 400)));
        let retention = one
            .retention_fault
            .as_ref()
            .map(|why| format!("{}: retention: {}", one.name, shortened(why, 400)));
        [volumes, retention].into_iter().flatten()
    })
}

fn next(one: &ScheduleReport, now: Timestamp) -> String {
    match one.next {
        None => "-".to_owned(),
        Some(next) if next <= now => "now".to_owned(),
        Some(next) => format!("in {}", since(now, next)),
    }
}

fn ago(at: Timestamp, now: Timestamp) -> String {
    format!("{} ago", since(at, now))
}

/// From `a` to `b`, in whole seconds.
fn since(a: Timestamp, b: Timestamp) -> String {
    let seconds = u64::try_from(b.duration_since(a).as_secs()).unwrap_or(0);
    match seconds / 86_400 {
        0 => human(seconds * 1_000_000),
        1..3 => human(seconds * 1_000_000),
        days => format!("{days} days"),
    }
}

fn word(event: &Event) -> &'static str {
    match event {
        Event::Succeeded { remark, .. } if remark.is_empty() => "good",
        Event::Succeeded { .. } => "good, with remarks",
        Event::Failed { .. } => "FAILED",
        Event::Skipped { .. } => "skipped",
        Event::Suspended => "suspended",
        Event::Resumed => "resumed",
        Event::ClockSetBack { .. } => "clock set back",
    }
}

fn line(entry: &Entry) -> [String; 4] {
    let (what, why) = match &entry.event {
        Event::Succeeded { run, level, remark } => {
            (run_words(run), if remark.is_empty() { format!("level {level}") } else { remark.clone() })
        }
        Event::Failed { run, why } => (run_words(run), why.clone()),
        Event::Skipped { through, missed, why, .. } => {
            let what =
                if *missed == 1 { format!("due {through}") } else { format!("{missed} until {through}") };
            (what, why.in_words().to_owned())
        }
        Event::Suspended | Event::Resumed => (String::new(), "by hand".to_owned()),
        Event::ClockSetBack { from } => (
            from.map_or(String::new(), |from| format!("after {from}")),
            "due instants are counted anew".to_owned(),
        ),
    };
    [entry.at.to_string(), word(&entry.event).to_owned(), shortened(&what, 90), shortened(&why, 300)]
}

fn run_words(run: &OpenRun) -> String {
    match run.tries {
        0 | 1 => run.cut.clone(),
        tries => format!("{} (started {tries} times)", run.cut),
    }
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    let shown: Vec<String> = names.iter().take(LISTED).map(|name| shortened(name, 60)).collect();
    match names.len().saturating_sub(LISTED) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests;
