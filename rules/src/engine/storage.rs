//! The hosts' part of a run: preparing, cutting, sealing.

use crate::failure::{Failure, FailureKind};
use crate::machine::Event;
use crate::ports::{CutError, CutReport, CutRequest, SealRequest, StorageLevel};
use crate::run::{CutOutcome, Level};

use super::conduct::{Conductor, bug, too_slow};

impl Conductor {
    pub(super) async fn open(&mut self) -> Event {
        let Some(request) = &self.request else { return Event::Opened(Err(bug("nothing was asked for"))) };
        let volumes = request.volumes.iter().map(|volume| volume.id.clone()).collect();
        let asked = CutRequest { name: request.name.clone(), volumes };
        let cutter = std::sync::Arc::clone(&self.ports.cutter);
        let opened = tokio::select! {
            biased;
            why = self.stop.clone().wait() => return Event::Cancelled(why),
            opened = self.budget.within(self.limits.open, cutter.open(asked)) => opened,
        };
        match opened {
            Ok(Ok(cut)) => {
                self.cut = Some(cut);
                self.say("hosts are prepared".to_owned());
                Event::Opened(Ok(()))
            }
            Ok(Err(error)) => {
                Event::Opened(Err(refused(FailureKind::Open, "hosts could not be prepared", &error)))
            }
            Err(late) => {
                let why = too_slow("hosts were not prepared", late);
                Event::Opened(Err(Failure::new(FailureKind::Open, why)))
            }
        }
    }

    pub(super) async fn take_cut(&mut self) -> Event {
        let Some(cut) = &mut self.cut else { return Event::Cut(Err(bug("no cut was prepared"))) };
        let ended = tokio::select! {
            biased;
            why = self.stop.clone().wait() => return Event::Cancelled(why),
            ended = self.budget.within(self.limits.cut, cut.cut()) => ended,
        };
        match ended {
            Ok(Ok(report)) => {
                self.say(format!("cut: window {} µs, skew {} µs", report.window_us, report.skew_us));
                self.record_cut(report);
                Event::Cut(Ok(()))
            }
            Ok(Err(error)) => {
                Event::Cut(Err(refused(FailureKind::Cut, "the cut failed and nothing is held", &error)))
            }
            Err(late) => {
                Event::Cut(Err(Failure::new(FailureKind::Cut, too_slow("the cut did not end", late))))
            }
        }
    }

    fn record_cut(&mut self, report: CutReport) {
        self.run.reasons.extend(report.reasons);
        self.run.cut = Some(CutOutcome {
            id: report.cut_id,
            sealed: false,
            level: report.level,
            hold_requested_at: report.hold_requested_at,
            window_us: report.window_us,
            skew_us: report.skew_us,
        });
    }

    pub(super) async fn seal(&mut self) -> Event {
        let Some(cut) = self.cut.take() else { return Event::Sealed(Err(bug("there is no cut to seal"))) };
        let at_one_instant = self.run.cut.as_ref().is_some_and(|cut| cut.level != StorageLevel::Crash);
        let application = self.machine.application() && at_one_instant;
        let reasons: Vec<String> = self.machine.degraded().iter().map(ToString::to_string).collect();
        let request = SealRequest { application, reasons: reasons.clone() };
        match self.budget.within(self.limits.seal, cut.seal(request)).await {
            Ok(Ok(())) => {
                self.run.reasons.extend(reasons);
                self.record_seal(application);
                Event::Sealed(Ok(()))
            }
            Ok(Err(error)) => {
                Event::Sealed(Err(refused(FailureKind::Seal, "the cut could not be made real", &error)))
            }
            // Its fate is told by the list of cuts.
            Err(late) => {
                let why = too_slow("the cut was not made real", late);
                Event::Sealed(Err(Failure::new(FailureKind::Seal, why).passing(true)))
            }
        }
    }

    fn record_seal(&mut self, application: bool) {
        if self.run.rehearsal {
            self.run.cut = None;
            self.say("nothing was cut: the rule was only tried".to_owned());
            return;
        }
        if let Some(cut) = &mut self.run.cut {
            cut.sealed = true;
            self.run.level = Some(if application { Level::Application } else { cut.level.into() });
        }
        self.say("the cut is sealed".to_owned());
    }
}

fn refused(kind: FailureKind, what: &str, error: &CutError) -> Failure {
    Failure::new(kind, format!("{what}: {error}")).passing(error.retry)
}
