//! Drives the participant machine: events in, deeds out. One conductor per round; its [`Crew`] gives it its thread.
//!
//! [`Crew`]: super::crew::Crew

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use stillpoint_guard::fault::point;
use tokio::sync::mpsc as outbound;
use tokio::time::Instant;
use tonic::Status;
use tracing::Span;

use super::RoundContext;
use super::crew::Inbox;
use super::hold::Hold;
use super::member::{Answer, Work};
use super::prepare::{OpenRequest, Preparation, prepare};
use crate::agent::pool::Fence;
use crate::domain::round::participant::{Action, Cause, Deed, Event, Order, State, step};
use crate::domain::round::{LONGEST_HOLD, Limits};
use crate::domain::{Code, Fault};
use crate::observe::holds::{self, Held};
use crate::observe::metrics::rounds;
use crate::proto::agent::{RoundOrder, RoundReport, round_order, round_report};
use crate::wire;

/// A prepared round whose controller never says `Hold` is given up after this; nothing is held meanwhile.
const WAIT_FOR_HOLD: Duration = Duration::from_mins(2);

/// What reaches a conductor.
pub enum Input {
    /// An order, with the instant of its arrival on this host's monotonic clock.
    Order {
        /// The order.
        order: RoundOrder,
        /// Microseconds.
        received_us: u64,
    },
    /// The controller is gone.
    StreamEnded,
    /// A member's worker has done what it was told.
    Answer(Answer),
}

/// One round on this host.
pub struct Conductor {
    context: Arc<RoundContext>,
    inbox: Inbox,
    reports: outbound::Sender<Result<RoundReport, Status>>,
    state: State,
    request: Result<OpenRequest, Fault>,
    limits: Limits,
    preparation: Preparation,
    hold: Option<Hold>,
    /// The deed under way; an undo takes the place of what it interrupts.
    pending: Option<Deed>,
    /// Events that deeds have caused, before anything from outside.
    caused: VecDeque<Event>,
    /// When the present state has lasted too long.
    deadline: Option<Instant>,
    /// When the last order arrived, for the report that answers it.
    received_us: u64,
    /// The first thing that went wrong, and with which volume.
    fault: Option<(String, Fault)>,
    /// From before the first freeze to after the last thaw.
    held: Option<Held<'static>>,
    /// The round in the log.
    span: Span,
}

impl Conductor {
    /// A conductor that lets members answer through `inbox`.
    pub fn new(
        context: Arc<RoundContext>,
        inbox: Inbox,
        reports: outbound::Sender<Result<RoundReport, Status>>,
    ) -> Self {
        Self {
            context,
            inbox,
            reports,
            state: State::Idle,
            request: Err(Fault::invalid("round refused: nothing was opened")),
            limits: Limits::default(),
            preparation: Preparation::default(),
            hold: None,
            pending: None,
            caused: VecDeque::new(),
            deadline: None,
            received_us: 0,
            fault: None,
            held: None,
            span: Span::none(),
        }
    }

    /// Whether nothing is held, nothing is under way and nothing more can come.
    pub fn is_over(&self) -> bool {
        self.state.is_final()
    }

    /// When to call [`Conductor::deadline_passed`].
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The deadline has passed and nothing else came before.
    pub fn deadline_passed(&mut self) {
        self.deadline = None;
        self.advance(Event::LimitPassed);
    }

    /// Takes what came next.
    pub fn take(&mut self, input: Input) {
        if let Some(event) = self.event(input) {
            self.advance(event);
        }
    }

    fn advance(&mut self, event: Event) {
        self.step(event);
        while let Some(event) = self.caused.pop_front() {
            self.step(event);
        }
    }

    fn event(&mut self, input: Input) -> Option<Event> {
        match input {
            Input::Order { order, received_us } => {
                self.received_us = received_us;
                self.order(order)
            }
            Input::StreamEnded => Some(Event::StreamEnded),
            Input::Answer(answer) => {
                let quiet = self.hold.as_mut().is_some_and(|hold| hold.take(answer));
                quiet.then(|| self.complete()).flatten()
            }
        }
    }

    fn order(&mut self, order: RoundOrder) -> Option<Event> {
        Some(Event::Order(match order.order? {
            round_order::Order::Open(open) => {
                self.limits = limits(&open);
                self.request = OpenRequest::parse(&open);
                self.span = self.open_span();
                point("agent.cut.opened");
                Order::Open
            }
            round_order::Order::Hold(_) => Order::Hold,
            round_order::Order::Cut(_) => Order::Cut,
            round_order::Order::Release(_) => Order::Release,
        }))
    }

    fn step(&mut self, event: Event) {
        let before = self.state;
        let (state, actions) = step(before, event);
        self.state = state;
        if state != before {
            self.deadline = self.deadline_of(state);
        }
        for action in actions {
            match action {
                Action::Begin(deed) => self.begin(deed),
                Action::Report(deed) => self.report(deed),
                Action::ReportFailure(cause) => self.report_failure(cause),
            }
        }
    }

    /// The soft limit counts from the beginning of the freeze to the end of the release.
    fn deadline_of(&self, state: State) -> Option<Instant> {
        match state {
            State::Prepared => Some(Instant::now() + WAIT_FOR_HOLD),
            State::Freezing => Some(Instant::now() + self.limits.soft),
            State::Held | State::Copying | State::Copied => self.deadline,
            State::Idle | State::Preparing => None,
            State::Releasing | State::Released | State::GivingUp(_) | State::Over => None,
        }
    }

    fn begin(&mut self, deed: Deed) {
        self.pending = Some(deed);
        let _phase = self.span.in_scope(|| tracing::debug_span!("phase", name = phase(deed))).entered();
        tracing::debug!("begun");
        let begun = match deed {
            Deed::Prepare => self.prepare(),
            Deed::Freeze => self.freeze(),
            Deed::Copy => {
                self.tell(Work::Copy);
                Ok(())
            }
            Deed::Release | Deed::Undo => {
                self.tell(Work::Thaw);
                Ok(())
            }
        };
        if let Err(fault) = begun {
            self.fault.get_or_insert((String::new(), fault));
        }
        // Nothing to wait for: it has failed already, or there is no thread to answer.
        if self.hold.as_ref().is_none_or(Hold::is_quiet) {
            let event = self.complete();
            self.caused.extend(event);
        }
    }

    fn prepare(&mut self) -> Result<(), Fault> {
        let request = self.request.as_ref().map_err(Clone::clone)?;
        prepare(&self.context, request, &mut self.preparation)?;
        let members = std::mem::take(&mut self.preparation.members);
        let inbox = self.inbox.clone();
        let answer = move |answer| {
            // Without a conductor nobody waits for the answer.
            let _ = inbox.put(Input::Answer(answer));
        };
        self.hold = Some(Hold::new(&self.context, members, answer)?);
        Ok(())
    }

    fn freeze(&mut self) -> Result<(), Fault> {
        self.held = Some(holds::process().begin());
        let limits = self.limits;
        self.hold.as_mut().map_or(Ok(()), |hold| hold.freeze(&self.context, &limits))
    }

    fn tell(&mut self, work: Work) {
        if let Some(hold) = &mut self.hold {
            hold.order(work);
        }
    }

    /// All members have answered: how did the deed end?
    fn complete(&mut self) -> Option<Event> {
        let deed = self.pending.take()?;
        match deed {
            Deed::Prepare => {}
            Deed::Freeze => self.note_failure(Work::Freeze),
            Deed::Copy => self.note_failure(Work::Copy),
            Deed::Release => self.finish_release(),
            Deed::Undo => {
                self.finish_undo();
                return Some(Event::Done(deed));
            }
        }
        Some(if self.fault.is_some() { Event::Failed(deed) } else { Event::Done(deed) })
    }

    /// What follows a round through all logs is its attempt: the controller names it, every host's lines carry it.
    fn open_span(&self) -> Span {
        if let Ok(request) = &self.request {
            let record = &request.record;
            tracing::info_span!("round", cut = %record.id, attempt = %record.attempt, name = record.name)
        } else {
            tracing::info_span!("round")
        }
    }

    fn note_failure(&mut self, work: Work) {
        let failure = self.hold.as_ref().and_then(|hold| hold.failure(work));
        if let (None, Some((member, fault))) = (&self.fault, failure) {
            self.fault = Some((member.volume.to_string(), fault.clone()));
        }
    }

    /// Members are thawed; writers go on. Now the snapshots are made durable, before anybody may seal them.
    fn finish_release(&mut self) {
        point("agent.cut.released");
        if let Some(hold) = &mut self.hold {
            hold.disarm();
        }
        point("agent.cut.disarmed");
        // Everybody writes again; so may we.
        self.held = None;
        for pool in &self.preparation.pools {
            if let Err(error) = pool.settle() {
                self.fault
                    .get_or_insert((String::new(), Fault::from(error).context("make the snapshots durable")));
            }
        }
    }

    fn finish_undo(&mut self) {
        if let Some(hold) = &mut self.hold {
            hold.disarm();
        }
        self.held = None;
        let Ok(request) = &self.request else { return };
        // Another attempt under the same name may be why this one failed.
        let fence = Fence::Attempt(request.record.attempt);
        for pool in &self.preparation.pools {
            if let Err(error) = pool.void_of(&request.record.id, &fence) {
                tracing::warn!(cut = %request.record.id, %error, "could not remove what was cut; the next sweep does");
            }
        }
    }

    fn report(&mut self, deed: Deed) {
        let received_us = self.received_us;
        let Some(hold) = &self.hold else { return };
        point(match deed {
            Deed::Prepare => "agent.cut.prepared",
            Deed::Freeze => "agent.cut.held",
            Deed::Copy => "agent.cut.cut",
            Deed::Release => "agent.cut.settled",
            // Reported with its cause, below.
            Deed::Undo => return,
        });
        let report = match deed {
            Deed::Prepare => {
                let members: Vec<_> = hold.members().iter().map(|member| member.prepared.clone()).collect();
                for flushed in members.iter().filter(|member| member.flush_passes > 0) {
                    rounds::phase(rounds::Phase::flush, flushed.flush_start_us, flushed.flush_end_us);
                }
                round_report::Report::Prepared(round_report::Prepared { members, received_us })
            }
            Deed::Freeze => round_report::Report::Held(round_report::Held {
                members: hold.spans(Work::Freeze),
                received_us,
            }),
            Deed::Copy => round_report::Report::Cut(round_report::CutDone {
                members: hold.spans(Work::Copy),
                received_us,
            }),
            Deed::Release => round_report::Report::Released(round_report::Released {
                members: hold.releases(&self.context),
                received_us,
                guard_fired: hold.guard_fired(),
            }),
            // An undo is reported with its cause.
            Deed::Undo => return,
        };
        if deed == Deed::Release {
            self.preparation.let_go();
            self.span.in_scope(|| tracing::info!(members = hold.members().len(), "held, cut and released"));
        }
        self.send(report);
    }

    fn report_failure(&mut self, cause: Cause) {
        let (phase, said) = match cause {
            Cause::Failed(deed) => (phase(deed), None),
            Cause::LimitPassed => {
                let limit = self.limits.soft;
                ("hold", Some(Fault::new(Code::Deadline, format!("the hold was given up after {limit:?}"))))
            }
            Cause::StreamEnded => ("hold", Some(Fault::aborted("the controller went away"))),
            Cause::OutOfOrder(order) => {
                ("order", Some(Fault::internal(format!("{order:?} cannot come now"))))
            }
        };
        let unknown = || (String::new(), Fault::internal("failed without a reason"));
        let (volume_id, fault) =
            said.map(|fault| (String::new(), fault)).or_else(|| self.fault.take()).unwrap_or_else(unknown);
        self.preparation.let_go();
        self.span.in_scope(|| tracing::warn!(phase, volume = volume_id, "given up: {fault}"));
        let message = fault.message.clone();
        let code = i32::from(wire::status_of(fault).code());
        let phase = phase.to_owned();
        self.send(round_report::Report::Failed(round_report::Failed { phase, volume_id, code, message }));
    }

    fn send(&self, report: round_report::Report) {
        let report = RoundReport { report: Some(report), sent_us: self.context.host.monotonic_us() };
        // A controller that is gone is noticed as the end of the stream; the channel holds all reports of a round.
        let _ = self.reports.try_send(Ok(report));
    }
}

fn phase(deed: Deed) -> &'static str {
    match deed {
        Deed::Prepare => "prepare",
        Deed::Freeze => "hold",
        Deed::Copy => "cut",
        Deed::Release => "release",
        Deed::Undo => "undo",
    }
}

/// The controller's limits, cut to what is allowed on any host.
fn limits(open: &round_order::Open) -> Limits {
    let bounded = |ms: u32| Duration::from_millis(u64::from(ms).max(1)).min(LONGEST_HOLD);
    Limits { soft: bounded(open.soft_limit_ms), hard: bounded(open.hard_limit_ms), ..Limits::default() }
}
