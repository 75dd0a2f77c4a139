//! Fault points: named places between two steps where a test can end or stop this process.
//!
//! They exist in debug builds only (`debug_assertions`): there [`point`] looks for a file `<directory>/<point>` in
//! the directory that the environment names. In a release build `point` is empty, and neither the switch nor the
//! names are in the binary; a test and `make build` look for them.
//!
//! The file holds what is to be done, once:
//!
//! | it says | the process |
//! |---|---|
//! | `kill` | dies by SIGKILL, here |
//! | `stop` | stops by SIGSTOP; whoever armed the point sends SIGCONT |
//! | `wait` | waits here until `<point>.go` exists, for a minute at most |
//!
//! The file is renamed to `<point>.hit` first, so that of several threads one acts, and the test sees that it did.

/// Environment variable with the directory in which points are armed.
pub const SWITCH: &str = "STILLPOINT_FAULT_POINTS";

/// All points, by process, deed and what was just done or is just about to be done.
pub const POINTS: &[&str] = &[
    // One host's part of a cut.
    "agent.cut.opened",
    "agent.cut.locked",
    "agent.cut.recorded",
    "agent.cut.flushed",
    "agent.cut.prepared",
    "agent.cut.hold-ordered",
    "agent.cut.armed",
    "agent.cut.freezing",
    "agent.cut.frozen",
    "agent.cut.held",
    "agent.cut.copying",
    "agent.cut.copied",
    "agent.cut.cut",
    "agent.cut.thawing",
    "agent.cut.thawed",
    "agent.cut.released",
    "agent.cut.disarmed",
    "agent.cut.settled",
    "agent.seal.checked",
    "agent.seal.settled",
    "agent.seal.sealed",
    // Giving a cut up, and deleting one.
    "agent.void.begun",
    "agent.void.trees-gone",
    "agent.void.record-gone",
    "agent.uncut.begun",
    "agent.uncut.record-gone",
    "agent.uncut.trees-gone",
    // Volumes of one host.
    "agent.create.claimed",
    "agent.create.made",
    "agent.create.renamed",
    "agent.create.published",
    "agent.delete.begun",
    "agent.delete.renamed",
    "agent.delete.gone",
    "agent.stage.begun",
    "agent.stage.attached",
    "agent.stage.mounted",
    "agent.stage.detached",
    // Volumes that go from host to host.
    "agent.copy.sending",
    "agent.copy.writing",
    "agent.copy.whole",
    "agent.copy.published",
    "agent.move.begun",
    "agent.move.leaving",
    "agent.move.kept",
    "agent.move.checked",
    "agent.move.left",
    "agent.move.discarded",
    "agent.move.gone",
    // The guard's side of a hold.
    "guard.hold.accepted",
    "guard.hold.checked",
    "guard.hold.armed",
    "guard.hold.disarming",
    "guard.hold.disarmed",
    // The controller.
    "controller.cut.looked-up",
    "controller.cut.prepared",
    "controller.cut.hold-ordered",
    "controller.cut.held",
    "controller.cut.cut-ordered",
    "controller.cut.cut",
    "controller.cut.release-ordered",
    "controller.cut.released",
    "controller.seal.begun",
    "controller.seal.home-sealed",
    "controller.seal.sealed",
    "controller.uncut.begun",
    "controller.uncut.home-gone",
    "controller.create.placed",
    "controller.create.made",
    "controller.delete.deleted",
    "controller.copy.granted",
    "controller.copy.arrived",
    "controller.move.begun",
    "controller.move.arrived",
    "controller.move.left",
    "controller.move.adopted",
    "controller.move.finished",
    // A run of a schedule: it is on record; its cut was made, and that is not on record.
    "controller.schedule.recorded",
    "controller.schedule.cut",
];

/// Does what a test has armed here; nothing otherwise, and nothing at all in a release build.
#[cfg(not(debug_assertions))]
#[inline(always)]
#[allow(clippy::inline_always)] // So that the name of the point is gone, too.
pub fn point(_name: &'static str) {}

/// Does what a test has armed here; nothing otherwise, and nothing at all in a release build.
///
/// # Panics
/// When the point is not in [`POINTS`], so that no test waits for a point that does not exist.
#[cfg(debug_assertions)]
pub fn point(name: &'static str) {
    use std::path::PathBuf;
    use std::sync::OnceLock;

    static DIRECTORY: OnceLock<Option<PathBuf>> = OnceLock::new();
    assert!(POINTS.contains(&name), "the fault point {name} is not in the list");
    let directory = DIRECTORY.get_or_init(|| std::env::var_os(SWITCH).map(PathBuf::from));
    if let Some(directory) = directory {
        reached(directory, name);
    }
}

/// Longest `wait`.
#[cfg(debug_assertions)]
const WAIT_LIMIT: std::time::Duration = std::time::Duration::from_mins(1);

#[cfg(debug_assertions)]
fn reached(directory: &std::path::Path, name: &str) {
    use nix::sys::signal::{Signal, raise};

    let armed = directory.join(name);
    let hit = directory.join(format!("{name}.hit"));
    // Read before the rename: afterwards whoever watches may clear the directory.
    let Ok(order) = std::fs::read_to_string(&armed) else { return };
    if std::fs::rename(&armed, &hit).is_err() {
        return;
    }
    let go = directory.join(format!("{name}.go"));
    match order.trim() {
        // A signal to oneself is not refused.
        "kill" => drop(raise(Signal::SIGKILL)),
        "stop" => drop(raise(Signal::SIGSTOP)),
        _ => {
            let end = std::time::Instant::now() + WAIT_LIMIT;
            while !go.exists() && std::time::Instant::now() < end {
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_that_waits_goes_on_when_told_and_acts_once() {
        let directory = std::env::temp_dir().join(format!("fault-points-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("x.y"), "wait").unwrap();
        let waiting = std::thread::spawn({
            let directory = directory.clone();
            move || reached(&directory, "x.y")
        });
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !directory.join("x.y.hit").exists() {
            assert!(std::time::Instant::now() < end, "it is never hit");
        }
        assert!(!waiting.is_finished());
        std::fs::write(directory.join("x.y.go"), "").unwrap();
        waiting.join().unwrap();
        reached(&directory, "x.y");
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn points_have_different_names_and_name_their_process() {
        let different: std::collections::BTreeSet<_> = POINTS.iter().collect();
        assert_eq!(different.len(), POINTS.len());
        for point in POINTS {
            let process = point.split('.').next();
            assert!(matches!(process, Some("agent" | "guard" | "controller")), "{point}");
        }
    }
}
