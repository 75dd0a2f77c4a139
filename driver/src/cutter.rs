//! The rules engine's [`Cutter`] over the controller's [`Cuts`], and what a failed run means to a caller.

use async_trait::async_trait;
use stillpoint_rules::failure::{self, Class, Failure};
use stillpoint_rules::ports::{CutError, CutReport, CutRequest, Cutter, OpenCut, SealRequest, StorageLevel};
use stillpoint_rules::run::Run;

use crate::controller::cuts::{self, Barrier, CutOrder, Cuts, Opened, Taken};
use crate::domain::{Code, CutKind, Fault, Level, VolumeId};
use crate::observe::request::{self, RequestId};

/// Takes the cuts of one fleet.
pub struct FleetCutter {
    cuts: Cuts,
    kind: CutKind,
    barrier: Barrier,
}

impl FleetCutter {
    /// Cuts of this kind, with or without the barrier.
    pub fn new(cuts: Cuts, kind: CutKind, barrier: Barrier) -> Self {
        Self { cuts, kind, barrier }
    }
}

#[async_trait]
impl Cutter for FleetCutter {
    async fn open(&self, request: CutRequest) -> Result<Box<dyn OpenCut>, CutError> {
        let volumes = request.volumes.iter().map(|id| id.parse()).collect::<Result<Vec<VolumeId>, _>>();
        let volumes = volumes.map_err(|error| CutError { retry: false, message: error.to_string() })?;
        let order = CutOrder { kind: self.kind, name: request.name, volumes, barrier: self.barrier };
        // The engine runs in a task of its own.
        let request = request::of_cut(&order.name);
        let opened = Box::pin(request::within(request.clone(), self.cuts.open(order)));
        match opened.await.map_err(cut_error)? {
            Opened::Ready(open) => Ok(Box::new(FleetCut { open, taken: None, request })),
            // It was looked for before the run began, so somebody else made it meanwhile. The commands that ran
            // have nothing to do with it, so this run must not claim it.
            Opened::Exists(record) => Err(CutError {
                retry: true,
                message: format!(
                    "the cut {:?} was made by somebody else in the meantime; ask for it again to get it, or choose another name",
                    record.name
                ),
            }),
        }
    }
}

struct FleetCut {
    open: Box<cuts::OpenCut>,
    taken: Option<Taken>,
    /// The request that has asked for it.
    request: Option<RequestId>,
}

#[async_trait]
impl OpenCut for FleetCut {
    async fn cut(&mut self) -> Result<CutReport, CutError> {
        let request = self.request.clone();
        let taken = request::within(request, self.open.cut()).await.map_err(cut_error)?;
        let report = CutReport {
            cut_id: self.open.record().handle().to_string(),
            level: storage_level(taken.level),
            reasons: taken.reasons.clone(),
            hold_requested_at: taken.hold_requested_at,
            window_us: taken.timeline.window_us,
            skew_us: taken.timeline.skew_us,
        };
        self.taken = Some(taken);
        Ok(report)
    }

    async fn seal(self: Box<Self>, request: SealRequest) -> Result<(), CutError> {
        let Some(taken) = self.taken else {
            let message = "a cut cannot be sealed before it was taken; this is a bug".to_owned();
            return Err(CutError { retry: false, message });
        };
        let (level, reasons) = sealed_level(&taken, request);
        let sealed = request::within(self.request, self.open.seal(level, reasons)).await;
        sealed.map(drop).map_err(cut_error)
    }
}

/// What is recorded: the application's part counts only where storage's did.
fn sealed_level(taken: &Taken, request: SealRequest) -> (Level, Vec<String>) {
    let level =
        if request.application && taken.level > Level::Crash { Level::Application } else { taken.level };
    let mut reasons = if level == Level::Application { Vec::new() } else { taken.reasons.clone() };
    for reason in request.reasons {
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    (level, reasons)
}

fn storage_level(level: Level) -> StorageLevel {
    match level {
        Level::Crash => StorageLevel::Crash,
        Level::Group => StorageLevel::Group,
        Level::Filesystem | Level::Application => StorageLevel::Filesystem,
    }
}

/// What the engine must know of a fault: whether to try again.
fn cut_error(fault: Fault) -> CutError {
    let retry = match fault.code {
        Code::Aborted | Code::Unavailable | Code::Deadline | Code::Exhausted => true,
        Code::Invalid
        | Code::NotFound
        | Code::AlreadyExists
        | Code::OutOfRange
        | Code::Precondition
        | Code::Denied
        | Code::Unimplemented
        | Code::Internal => false,
    };
    CutError { retry, message: fault.message }
}

/// Why a run has made no cut. A step that failed or a plan that could not be made is for people to put right; what
/// storage refused may pass.
pub fn run_fault(run: &Run) -> Fault {
    let why = match run.failures.as_slice() {
        [] => "the run ended without a cut and without a reason; report this".to_owned(),
        failures => failure::in_words(failures),
    };
    let owed: Vec<_> = run.owed().map(|debt| format!("{} in {}", debt.step_name, debt.target.pod)).collect();
    let why = match owed.as_slice() {
        [] => why,
        owed => format!("{why}; STILL OWED to the application, look at it: {}", owed.join(", ")),
    };
    let message = format!("no cut was made: {why}");
    let classes: Vec<Class> = run.failures.iter().map(Failure::class).collect();
    if classes.contains(&Class::Fix) {
        Fault::precondition(message)
    } else if classes.contains(&Class::Bug) {
        Fault::internal(message)
    } else {
        Fault::aborted(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::timeline::Timeline;

    fn taken(level: Level) -> Taken {
        Taken {
            level,
            reasons: vec!["storage".into()],
            timeline: Timeline::default(),
            hold_requested_at: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    fn seal(application: bool, reasons: &[&str]) -> SealRequest {
        SealRequest { application, reasons: reasons.iter().map(|reason| (*reason).into()).collect() }
    }

    #[test]
    fn the_application_raises_the_level_only_where_storage_was_at_one_instant() {
        assert_eq!(sealed_level(&taken(Level::Filesystem), seal(true, &[])), (Level::Application, vec![]));
        assert_eq!(sealed_level(&taken(Level::Crash), seal(true, &[])).0, Level::Crash);
        assert_eq!(sealed_level(&taken(Level::Group), seal(false, &[])).0, Level::Group);
    }

    #[test]
    fn reasons_of_storage_and_of_the_rule_are_both_kept_once() {
        let (_, reasons) = sealed_level(&taken(Level::Group), seal(false, &["storage", "a step failed"]));
        assert_eq!(reasons, ["storage", "a step failed"]);
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        assert!(cut_error(Fault::unavailable("x")).retry && cut_error(Fault::aborted("x")).retry);
        assert!(!cut_error(Fault::precondition("x")).retry && !cut_error(Fault::invalid("x")).retry);
    }
}
