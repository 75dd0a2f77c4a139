//! The timeline as one self-contained HTML file: no script, no font, no picture from elsewhere. Names are escaped.

use std::fmt::Write as _;

use crate::domain::timeline::Phase;
use crate::observe::duration::{human, human_instant};

use super::svg::{draw, escape};
use super::{Picture, findings, length, phase_name, span_of, stall};

const STYLE: &str = include_str!("style.css");
const LEGEND: [(&str, &str); 11] = [
    ("before", "command before the cut"),
    ("flush", "flush: dirty pages written while writers go on"),
    ("freeze", "freeze: the call that stops writes"),
    ("held", "held: writers wait"),
    ("cut", "cut: the snapshot"),
    ("thaw", "thaw: writers go on"),
    ("hold", "session kept open across the cut"),
    ("taken", "tick: the session said that it holds"),
    ("lost", "tick: the session was lost"),
    ("after", "command after the cut"),
    ("failed", "a command that failed"),
];

/// The whole page.
pub fn render(picture: &Picture) -> String {
    let body = if picture.lanes().next().is_none() {
        String::new()
    } else {
        format!(
            "<div class=card><div class=legend>{}</div>{}</div>{}",
            legend(picture),
            draw(picture),
            table(picture)
        )
    };
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <meta name=color-scheme content=\"light dark\"><meta http-equiv=Content-Security-Policy \
         content=\"default-src 'none'; style-src 'unsafe-inline'\"><title>Cut {name}</title><style>{STYLE}</style>\
         <main><h1>{name}<span class=\"level {level}\">{level}</span></h1><p class=id>{id} · {at}</p>\
         <div class=tiles>{tiles}</div><ul>{sentences}</ul>{body}{footer}</main></html>\n",
        name = escape(&picture.name),
        level = picture.level,
        id = escape(&picture.id),
        at = escape(&picture.cut_at),
        tiles = tiles(picture),
        sentences = sentences(picture),
        footer = FOOTER,
    )
}

const FOOTER: &str = "<footer>Instants are relative to the moment when the controller asked for the first hold. \
    Each host measures on its own monotonic clock; clocks are aligned by the request with the shortest round trip \
    to each host, and half of that round trip is the error shown beside the host. Point at a bar for its exact \
    start, end and length.</footer>";

fn tiles(picture: &Picture) -> String {
    let timeline = &picture.timeline;
    let volumes = picture.lanes().count();
    let sessions = picture.session_skew_us.map(|skew| (human(skew), "skew between first and last session"));
    [
        (human(timeline.window_us), "window: first hold to last release"),
        (human(timeline.longest_stall_us), "longest stall of one volume"),
        (human(timeline.skew_us), "skew between first and last cut"),
        (format!("±{}", human(picture.clock_error_us())), "clock error between hosts"),
        (format!("{volumes} / {}", timeline.hosts.len()), "volumes / hosts"),
    ]
    .into_iter()
    .chain(sessions)
    .fold(String::new(), |mut all, (figure, label)| {
        // Writing to a String cannot fail.
        let _ = write!(all, "<div class=tile><b>{figure}</b><span>{label}</span></div>");
        all
    })
}

fn sentences(picture: &Picture) -> String {
    findings::sentences(picture)
        .iter()
        .fold(String::new(), |all, sentence| all + "<li>" + &escape(sentence) + "</li>")
}

/// Only what occurs in this picture.
fn legend(picture: &Picture) -> String {
    let commands = || picture.pods.iter().flat_map(|pod| &pod.commands);
    let occurs = |class: &str| match class {
        "before" | "hold" | "after" => {
            commands().any(|command| command.failure.is_empty() && command.moment.word() == class)
        }
        "taken" => commands().any(|command| command.held_us.is_some()),
        "lost" => commands().any(|command| command.lost),
        "failed" => commands().any(|command| !command.failure.is_empty()),
        "held" => picture.lanes().any(|lane| stall(lane).is_some()),
        name => picture.lanes().flat_map(|lane| &lane.spans).any(|span| phase_name(span.phase) == name),
    };
    LEGEND.iter().filter(|(class, _)| occurs(class)).fold(String::new(), |mut all, (class, label)| {
        // Writing to a String cannot fail.
        let _ = write!(all, "<span><i class={class}></i>{label}</span>");
        all
    })
}

/// All figures, for those who cannot or do not want to read the picture.
fn table(picture: &Picture) -> String {
    const PHASES: [Phase; 4] = [Phase::Flush, Phase::Freeze, Phase::Cut, Phase::Thaw];
    let mut rows = String::new();
    for host in &picture.timeline.hosts {
        for lane in &host.volumes {
            let cells = PHASES.iter().fold(String::new(), |all, phase| {
                let text = span_of(lane, *phase).map_or_else(
                    || "–".to_owned(),
                    |span| format!("{} + {}", human_instant(span.start_us), human(length(span))),
                );
                all + "<td>" + &text + "</td>"
            });
            let stalled = stall(lane).map_or_else(|| "–".to_owned(), human);
            // Writing to a String cannot fail.
            let _ = write!(
                rows,
                "<tr><td>{}</td><td>{}</td>{cells}<td>{stalled}</td></tr>",
                escape(host.host.as_str()),
                escape(&lane.name)
            );
        }
    }
    format!(
        "<details><summary>All figures as a table</summary><div class=card><table><tr><th>host</th><th>volume</th>\
         <th>flush: start + length</th><th>freeze</th><th>cut</th><th>thaw</th><th>stall</th></tr>{rows}</table></div></details>"
    )
}
