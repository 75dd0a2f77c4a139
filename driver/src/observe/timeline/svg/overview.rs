//! The upper part: the whole run on one axis, commands in pods and flushes of hosts, with the window marked.

use crate::domain::timeline::{HostLane, Phase};
use crate::observe::duration::{human, human_instant};
use crate::observe::plain::shortened;

use super::super::findings::count;
use super::super::scale::Scale;
use super::super::{Moment, Picture, PodCommand, PodLane, length, span_of};
use super::canvas::{Anchor, Area, Canvas, width_of};
use super::{OVERVIEW_RIGHT, PLOT_LEFT};

const TOP: f64 = 58.0;
const POD_ROW: f64 = 22.0;
const STRIPE: f64 = 6.0;

/// Draws it; returns the bottom and the pixels between which the enlarged part lies.
pub(super) fn draw(canvas: &mut Canvas, picture: &Picture, zoom: (i64, i64)) -> (f64, f64, f64) {
    let (from, to) = range(picture, zoom);
    let scale = Scale::new(from, to, PLOT_LEFT, OVERVIEW_RIGHT);
    let heights = picture.timeline.hosts.iter().map(host_height);
    let bottom = TOP + picture.pods.iter().fold(0.0, |sum, _| sum + POD_ROW) + heights.sum::<f64>() + 6.0;
    canvas.text("head", 0.0, 16.0, Anchor::Start, "The whole run");
    let told = format!("{} from the first command to the last", human(to.abs_diff(from)));
    canvas.text("mute", PLOT_LEFT, 16.0, Anchor::Start, &told);
    axis(canvas, &scale, bottom);
    let (left, right) = (scale.x(zoom.0), scale.x(zoom.1).max(scale.x(zoom.0) + 2.0));
    let band = Area { left, top: TOP - 6.0, right, height: bottom - TOP + 6.0 };
    canvas.plain_bar("window", band);
    let mut y = TOP;
    for pod in &picture.pods {
        pod_row(canvas, &scale, pod, y);
        y += POD_ROW;
    }
    for host in &picture.timeline.hosts {
        host_row(canvas, &scale, host, y);
        y += host_height(host);
    }
    (bottom, left, right)
}

fn host_height(host: &HostLane) -> f64 {
    host.volumes.iter().fold(8.0_f64, |sum, _| sum + STRIPE + 1.0).max(22.0)
}

/// Everything that happened, with a little air on both sides.
fn range(picture: &Picture, zoom: (i64, i64)) -> (i64, i64) {
    let commands = || picture.pods.iter().flat_map(|pod| &pod.commands);
    let spans = || picture.lanes().flat_map(|lane| &lane.spans);
    let starts = commands().map(|c| c.start_us).chain(spans().map(|s| s.start_us));
    let ends = commands().map(|c| c.end_us).chain(spans().map(|s| s.end_us));
    let (from, to) = (starts.min().unwrap_or(0).min(zoom.0), ends.max().unwrap_or(0).max(zoom.1));
    let air = to.saturating_sub(from) / 60;
    (from.saturating_sub(air), to.saturating_add(air))
}

fn axis(canvas: &mut Canvas, scale: &Scale, bottom: f64) {
    for tick in scale.ticks(7) {
        let x = scale.x(tick);
        canvas.line("grid", (x, TOP - 10.0), (x, bottom));
        let label = if tick == 0 { "0 = first hold".to_owned() } else { human_instant(tick) };
        canvas.text("tick", x, TOP - 16.0, Anchor::Middle, &label);
    }
}

fn pod_row(canvas: &mut Canvas, scale: &Scale, pod: &PodLane, y: f64) {
    canvas.name("name", 0.0, y + 14.0, 24, &pod.pod);
    canvas.name("mute", 160.0, y + 14.0, 11, &pod.host);
    canvas.line("lane", (PLOT_LEFT, y + POD_ROW - 0.5), (OVERVIEW_RIGHT, y + POD_ROW - 0.5));
    let mut taken = PLOT_LEFT;
    for (index, command) in pod.commands.iter().enumerate() {
        let next = pod.commands.get(index + 1).map_or(OVERVIEW_RIGHT, |next| scale.x(next.start_us));
        let area = command_bar(canvas, scale, command, y + 4.0);
        session_ticks(canvas, scale, command, area);
        taken = command_label(canvas, command, area, (taken, next));
    }
}

fn command_bar(canvas: &mut Canvas, scale: &Scale, command: &PodCommand, top: f64) -> Area {
    let class = command.moment.word();
    let when = match command.moment {
        Moment::Before => "before the cut",
        Moment::Hold => "kept open across the cut",
        Moment::After => "after the cut",
    };
    let (class, result) =
        if command.failure.is_empty() { (class, "succeeded") } else { ("failed", command.failure.as_str()) };
    let area = Area { left: scale.x(command.start_us), top, right: scale.x(command.end_us), height: 14.0 };
    let area = area.at_least(3.0);
    let tooltip = format!(
        "{when}: {}\nstep {}\nstart {}, took {}\n{result}",
        command.command,
        command.step,
        human_instant(command.start_us),
        human(took(command))
    );
    canvas.bar(class, area, &tooltip);
    area
}

/// When a session said that it holds, and when it was found to be lost.
fn session_ticks(canvas: &mut Canvas, scale: &Scale, command: &PodCommand, bar: Area) {
    let Some(held_us) = command.held_us else { return };
    let tick = |at_us| {
        let left = scale.x(at_us);
        Area { left, top: bar.top - 3.0, right: left + 2.0, height: bar.height + 6.0 }
    };
    let said = format!("the session said that it holds at {}", human_instant(held_us));
    canvas.bar("taken", tick(held_us), &said);
    if command.lost {
        let lost = format!("the session was lost, noticed at {}", human_instant(command.end_us));
        canvas.bar("lost", tick(command.end_us), &lost);
    }
}

/// Writes what ran into its bar, or right of it, or left of it, wherever there is room between `free`; the long
/// label where it fits, else the short one. Returns what is taken on the left from now on.
fn command_label(canvas: &mut Canvas, command: &PodCommand, bar: Area, free: (f64, f64)) -> f64 {
    let (left_limit, right_limit) = free;
    let short = human(took(command));
    let long = format!("{} · {short}", shortened(&command.command, 40));
    let base = bar.top + 11.0;
    for label in [&long, &short] {
        let width = width_of(label) + 6.0;
        if width + 4.0 < bar.width() {
            canvas.text("inbar", bar.left + 6.0, base, Anchor::Start, label);
            return bar.right;
        }
        if bar.right + width < right_limit - 4.0 {
            canvas.text("beside", bar.right + 5.0, base, Anchor::Start, label);
            return bar.right + width;
        }
        if bar.left - width > left_limit + 4.0 {
            canvas.text("beside", bar.left - 5.0, base, Anchor::End, label);
            return bar.right;
        }
    }
    bar.right
}

fn took(command: &PodCommand) -> u64 {
    u64::try_from(command.end_us.saturating_sub(command.start_us)).unwrap_or(0)
}

fn host_row(canvas: &mut Canvas, scale: &Scale, host: &HostLane, y: f64) {
    let height = host_height(host);
    canvas.name("name", 0.0, y + height / 2.0 + 4.0, 24, host.host.as_str());
    canvas.text("mute", 160.0, y + height / 2.0 + 4.0, Anchor::Start, &count(host.volumes.len(), "volume"));
    canvas.line("lane", (PLOT_LEFT, y + height - 0.5), (OVERVIEW_RIGHT, y + height - 0.5));
    let mut top = y + 4.0;
    let mut longest: Option<(u64, f64)> = None;
    for lane in &host.volumes {
        if let Some(flush) = span_of(lane, Phase::Flush) {
            let area =
                Area { left: scale.x(flush.start_us), top, right: scale.x(flush.end_us), height: STRIPE };
            let took = length(flush);
            let tooltip = format!(
                "flush of {}\nstart {}, took {}",
                lane.name,
                human_instant(flush.start_us),
                human(took)
            );
            canvas.bar("flush", area.at_least(2.0), &tooltip);
            let left = longest.map_or(area.left, |(_, left)| left.min(area.left));
            longest = Some((longest.map_or(took, |(most, _)| most.max(took)), left));
        }
        top += STRIPE + 1.0;
    }
    if let Some((took, left)) = longest {
        let label = format!("flush · {}", human(took));
        if left - 6.0 - width_of(&label) > PLOT_LEFT {
            canvas.text("beside", left - 5.0, y + height / 2.0 + 4.0, Anchor::End, &label);
        }
    }
}
