//! What the command line is told of schedules. The same types on both ends of the socket, and the JSON of the commands.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use stillpoint_rules::executor::{Entry, MadeCut, OpenRun, Protection};

/// All schedules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    /// When it was looked.
    pub now: Timestamp,
    /// By name.
    pub schedules: Vec<ScheduleReport>,
    /// Volumes that no schedule cuts, by name.
    pub unscheduled: Vec<String>,
    /// Why something is not known: hosts that did not answer.
    pub silent: Vec<String>,
}

/// One schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleReport {
    /// Its name.
    pub name: String,
    /// When it runs, in words.
    pub when: String,
    /// In which wall clocks are read.
    pub time_zone: String,
    /// Who suspended it; `None` when nobody did.
    pub suspended: Option<Suspension>,
    /// When the next run starts.
    pub next: Option<Timestamp>,
    /// The run that has not ended.
    pub running: Option<OpenRun>,
    /// The newest cut that can be restored.
    pub last_good: Option<MadeCut>,
    /// How the last run ended.
    pub last_run: Option<Entry>,
    /// Cuts that it made and that are not deleted.
    pub kept: usize,
    /// Whether its newest good cut is as young as the schedule says.
    pub protection: Protection,
    /// Each volume that it cuts now.
    pub volumes: Vec<VolumeReport>,
    /// Why these volumes are not known.
    pub volumes_fault: Option<String>,
    /// Why the retention could not delete everything.
    pub retention_fault: Option<String>,
    /// The last that happened, newest first.
    pub history: Vec<Entry>,
    /// As it is configured.
    pub configuration: serde_json::Value,
}

/// Who suspended a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Suspension {
    /// `suspend: true`.
    Configuration,
    /// Somebody, then.
    ByHand(Timestamp),
}

/// A volume that a schedule cuts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeReport {
    /// Its name.
    pub name: String,
    /// Its host.
    pub host: String,
    /// The newest good cut of this schedule that has it, and whether that is young enough.
    pub protection: Protection,
}

/// What will be due, and what becomes of the cuts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanReport {
    /// The schedule.
    pub name: String,
    /// Whether nothing starts because it is suspended.
    pub suspended: bool,
    /// The next runs.
    pub due: Vec<DueReport>,
    /// What the retention says now, newest first.
    pub cuts: Vec<FateReport>,
    /// Cuts of which it is not known whether they exist.
    pub unknown: Vec<String>,
}

/// A run to come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DueReport {
    /// By the calendar.
    pub due: Timestamp,
    /// With the jitter.
    pub start: Timestamp,
    /// By the wall clock of its zone.
    pub local: String,
}

/// A cut and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FateReport {
    /// The cut.
    pub cut: MadeCut,
    /// Whether it would be deleted.
    pub deleted: bool,
    /// Kept or deleted, and why.
    pub why: String,
}

impl Overview {
    /// What is not protected as its schedule says, in words.
    pub fn overdue(&self) -> Vec<String> {
        let of = |schedule: &ScheduleReport| {
            let volumes: Vec<&str> = schedule
                .volumes
                .iter()
                .filter(|volume| volume.protection.overdue)
                .map(|volume| volume.name.as_str())
                .collect();
            match (volumes.as_slice(), schedule.protection.overdue) {
                ([], false) => None,
                ([], true) => Some(schedule.name.clone()),
                (volumes, _) => Some(format!("{} ({})", schedule.name, volumes.join(", "))),
            }
        };
        self.schedules.iter().filter_map(of).collect()
    }
}
