//! The lower part: the window enlarged, one lane per volume, with the two instants that make it one cut
//! ("all held", "all cut") drawn through all lanes.

use crate::domain::timeline::{HostLane, Phase, Span, VolumeLane};
use crate::observe::duration::{human, human_instant};

use super::super::findings::{Barrier, barrier};
use super::super::scale::Scale;
use super::super::{Picture, length, phase_name, span_of, stall};
use super::canvas::{Anchor, Area, Canvas, width_of};
use super::{PLOT_LEFT, WIDTH, WINDOW_RIGHT};

const HOST_ROW: f64 = 26.0;
const VOLUME_ROW: f64 = 25.0;
const BAR: f64 = 17.0;
/// Right edges of the columns of figures.
const COLUMNS: [(&str, f64); 5] =
    [("flush", 918.0), ("freeze", 984.0), ("cut", 1044.0), ("thaw", 1106.0), ("stall", WIDTH - 8.0)];

/// What is enlarged: the window and all that was held or cut, with a little air.
pub(super) fn range(picture: &Picture) -> (i64, i64) {
    let spans = || {
        picture.lanes().flat_map(|lane| &lane.spans).filter(|span| match span.phase {
            Phase::Flush => false,
            Phase::Freeze | Phase::Cut | Phase::Thaw => true,
        })
    };
    let window = i64::try_from(picture.timeline.window_us).unwrap_or(i64::MAX);
    let from = spans().map(|span| span.start_us).min().unwrap_or(0).min(0);
    let to = spans().map(|span| span.end_us).max().unwrap_or(0).max(window).max(1);
    let air = (to.saturating_sub(from) / 40).max(1);
    // More on the right: the word "thaw" stands there.
    (from.saturating_sub(air), to.saturating_add(air.saturating_mul(3)))
}

/// Draws it below `top`; returns its bottom.
pub(super) fn draw(canvas: &mut Canvas, picture: &Picture, zoom: (i64, i64), top: f64) -> f64 {
    let scale = Scale::new(zoom.0, zoom.1, PLOT_LEFT, WINDOW_RIGHT);
    let guides = guides(picture);
    let levels = label_rows(&scale, &guides);
    let depth = levels.iter().copied().max().map_or(0.0, |level| f64::from(level) + 1.0);
    let axis_y = top + 14.0 + depth * 15.0 + 22.0;
    let rows = picture.timeline.hosts.iter().map(height);
    let bottom = axis_y + 8.0 + rows.sum::<f64>();
    backdrop(canvas, &scale, picture, (top, bottom));
    canvas.text("head", 0.0, axis_y - 20.0, Anchor::Start, "The window, enlarged");
    let told = format!("{} in all", human(picture.timeline.window_us));
    canvas.text("mute", 0.0, axis_y - 4.0, Anchor::Start, &told);
    axis(canvas, &scale, axis_y, bottom);
    let mut y = axis_y + 8.0;
    for host in &picture.timeline.hosts {
        host_lanes(canvas, &scale, host, y);
        y += height(host);
    }
    for (guide, level) in guides.iter().zip(&levels) {
        let label_y = top + 14.0 + f64::from(*level) * 15.0 + 2.0;
        draw_guide(canvas, &scale, guide, label_y, bottom);
    }
    bottom
}

fn height(host: &HostLane) -> f64 {
    host.volumes.iter().fold(HOST_ROW, |sum, _| sum + VOLUME_ROW)
}

fn backdrop(canvas: &mut Canvas, scale: &Scale, picture: &Picture, (top, bottom): (f64, f64)) {
    canvas.plain_bar("panel", Area { left: PLOT_LEFT, top, right: WINDOW_RIGHT, height: bottom - top });
    let window = i64::try_from(picture.timeline.window_us).unwrap_or(i64::MAX);
    let held = Area { left: scale.x(0), top, right: scale.x(window), height: bottom - top };
    canvas.plain_bar("span", held);
}

fn axis(canvas: &mut Canvas, scale: &Scale, y: f64, bottom: f64) {
    for tick in scale.ticks(8) {
        let x = scale.x(tick);
        canvas.line("grid", (x, y), (x, bottom));
        let label = if tick == 0 { "0".to_owned() } else { human_instant(tick) };
        canvas.text("tick", x, y - 5.0, Anchor::Middle, &label);
    }
    for (title, right) in COLUMNS {
        canvas.text("tick", right, y - 5.0, Anchor::End, title);
    }
}

fn host_lanes(canvas: &mut Canvas, scale: &Scale, host: &HostLane, top: f64) {
    canvas.name("host", 0.0, top + 17.0, 22, host.host.as_str());
    let clock = format!("clock ±{}", human(host.clock_error_us));
    canvas.text("mute", PLOT_LEFT - 8.0, top + 17.0, Anchor::End, &clock);
    canvas.line("lane", (0.0, top + 0.5), (WIDTH, top + 0.5));
    let mut y = top + HOST_ROW - 2.0;
    for lane in &host.volumes {
        volume_lane(canvas, scale, lane, y);
        y += VOLUME_ROW;
    }
}

fn volume_lane(canvas: &mut Canvas, scale: &Scale, lane: &VolumeLane, y: f64) {
    let base = y + BAR / 2.0 + 4.0;
    canvas.name("name", 12.0, base, 34, &lane.name);
    flush_mark(canvas, scale, lane, y);
    held_band(canvas, scale, lane, y);
    for phase in [Phase::Freeze, Phase::Cut, Phase::Thaw] {
        if let Some(span) = span_of(lane, phase) {
            phase_bar(canvas, scale, lane, span, y);
        }
    }
    if stall(lane).is_none() && span_of(lane, Phase::Cut).is_some() {
        let from = span_of(lane, Phase::Cut).map_or(PLOT_LEFT, |cut| scale.x(cut.end_us));
        canvas.text("beside", from + 6.0, base, Anchor::Start, "nothing mounted: not frozen");
    }
    let figures = [
        span_of(lane, Phase::Flush).map(length),
        span_of(lane, Phase::Freeze).map(length),
        span_of(lane, Phase::Cut).map(length),
        span_of(lane, Phase::Thaw).map(length),
        stall(lane),
    ];
    for ((title, right), figure) in COLUMNS.iter().zip(figures) {
        let class = if *title == "stall" { "figure strong" } else { "figure" };
        canvas.text(class, *right, base, Anchor::End, &figure.map_or_else(|| "–".to_owned(), human));
    }
}

/// The flush lies left of what is enlarged, or reaches into it.
fn flush_mark(canvas: &mut Canvas, scale: &Scale, lane: &VolumeLane, y: f64) {
    let Some(flush) = span_of(lane, Phase::Flush) else { return };
    let right = scale.x(flush.end_us).max(PLOT_LEFT + 4.0);
    let area = Area { left: scale.x(flush.start_us), top: y + 4.0, right, height: BAR - 8.0 };
    let tooltip = format!(
        "flush of {}: {} to {}, took {}",
        lane.name,
        human_instant(flush.start_us),
        human_instant(flush.end_us),
        human(length(flush))
    );
    canvas.bar("flush", area, &tooltip);
}

fn held_band(canvas: &mut Canvas, scale: &Scale, lane: &VolumeLane, y: f64) {
    let (Some(freeze), Some(thaw)) = (span_of(lane, Phase::Freeze), span_of(lane, Phase::Thaw)) else {
        return;
    };
    let area =
        Area { left: scale.x(freeze.end_us), top: y + 3.0, right: scale.x(thaw.start_us), height: BAR - 6.0 };
    let took = u64::try_from(thaw.start_us.saturating_sub(freeze.end_us)).unwrap_or(0);
    canvas.bar("held", area, &format!("{} held for {}: writers wait", lane.name, human(took)));
}

fn phase_bar(canvas: &mut Canvas, scale: &Scale, lane: &VolumeLane, span: &Span, y: f64) {
    let area = Area { left: scale.x(span.start_us), top: y, right: scale.x(span.end_us), height: BAR };
    let area = area.at_least(2.5);
    let name = phase_name(span.phase);
    let tooltip = format!(
        "{name} of {}: {} to {}, took {}",
        lane.name,
        human_instant(span.start_us),
        human_instant(span.end_us),
        human(length(span))
    );
    canvas.bar(name, area, &tooltip);
    let long = format!("{name} {}", human(length(span)));
    for label in [long.as_str(), name] {
        if width_of(label) + 6.0 < area.width() {
            let middle = f64::midpoint(area.left, area.right);
            canvas.text("inbar", middle, y + 12.5, Anchor::Middle, label);
            return;
        }
    }
    if span.phase == Phase::Thaw && area.right + width_of(name) + 4.0 < WINDOW_RIGHT {
        canvas.text("thawlabel", area.right + 4.0, y + 12.5, Anchor::Start, name);
    }
}

/// An instant that concerns all lanes.
struct Guide {
    at_us: i64,
    label: String,
}

fn guides(picture: &Picture) -> Vec<Guide> {
    let window = i64::try_from(picture.timeline.window_us).unwrap_or(i64::MAX);
    let guide = |at_us, label: &str| Guide { at_us, label: label.to_owned() };
    let mut guides = vec![guide(0, "hold requested")];
    match barrier(picture) {
        Barrier::Proven { all_held_us, all_cut_us } => {
            guides.push(guide(all_held_us, "all held"));
            guides.push(guide(all_cut_us, "all cut"));
        }
        Barrier::Broken => guides[0] = guide(0, "first hold"),
        Barrier::NothingHeld => {}
    }
    guides.push(guide(window, "all released"));
    guides
}

/// For each guide the row of its label, so that labels do not cover each other.
fn label_rows(scale: &Scale, guides: &[Guide]) -> Vec<u8> {
    let mut ends: Vec<f64> = Vec::new();
    let mut rows = Vec::new();
    for guide in guides {
        let half = width_of(&guide.label) / 2.0 + 5.0;
        let x = label_middle(scale, guide);
        let free = ends.iter().position(|end| *end < x - half).unwrap_or(ends.len());
        if free == ends.len() {
            ends.push(0.0);
        }
        ends[free] = x + half;
        rows.push(u8::try_from(free).unwrap_or(u8::MAX));
    }
    rows
}

fn draw_guide(canvas: &mut Canvas, scale: &Scale, guide: &Guide, label_y: f64, bottom: f64) {
    let x = scale.x(guide.at_us);
    canvas.line("guide", (x, label_y + 4.0), (x, bottom));
    canvas.text("guidelabel", label_middle(scale, guide), label_y, Anchor::Middle, &guide.label);
}

/// Above its line, but within the plot.
fn label_middle(scale: &Scale, guide: &Guide) -> f64 {
    let half = width_of(&guide.label) / 2.0;
    scale.x(guide.at_us).clamp(PLOT_LEFT + half, WINDOW_RIGHT - half)
}
