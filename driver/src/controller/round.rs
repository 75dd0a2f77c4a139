//! One round over several hosts: the shell around [`crate::domain::round::coordinator`].
//!
//! One stream per host carries orders out and reports back. Dropping a [`Round`] ends all streams, and each host lets
//! go by itself; [`Round::close`] also waits until they have.

use std::collections::BTreeMap;
use std::time::Duration;

use stillpoint_guard::fault::point;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_stream::StreamExt;
use tracing::Span;

use super::clock::{Alignment, Exchange};
use super::fleet::Agent;
use super::lanes::{self, HostView};
use crate::domain::record::{CutMember, CutRecord};
use crate::domain::round::Limits;
use crate::domain::round::coordinator::{self, Action, Cause, Event, Report, State};
use crate::domain::timeline::HostLane;
use crate::domain::{Code, Fault, HostName};
use crate::observe::holds::{self, Held};
use crate::observe::metrics::{self, cuts::Reason};
use crate::observe::request::carried;
use crate::proto::agent::{self as proto, Member, RoundOrder, RoundReport, round_order, round_report};
use crate::wire;

/// Orders of one round: four.
const ORDERS: usize = 8;
/// Letting go takes as long as the kernel takes; a host that has not ended its stream after this is reported.
const CLOSE_LIMIT: Duration = Duration::from_secs(15);

/// The members of one host.
pub struct Part {
    /// The host's agent.
    pub agent: Agent,
    /// Its members.
    pub members: Vec<CutMember>,
}

/// A round under way. All instants are microseconds since `base`.
pub struct Round {
    limits: Limits,
    base: Instant,
    hosts: Vec<Host>,
    state: State,
    seen: mpsc::Receiver<Seen>,
    deadline: Instant,
    faults: BTreeMap<usize, Fault>,
    /// The round in the log.
    span: Span,
    /// The phase in the log.
    phase: Span,
    /// From the first hold requested to the last release.
    held: Option<Held<'static>>,
}

struct Host {
    name: HostName,
    members: Vec<CutMember>,
    /// `None` when the stream was ended by us.
    orders: Option<mpsc::Sender<RoundOrder>>,
    order_sent_us: u64,
    exchanges: Vec<Exchange>,
    reports: lanes::Reports,
    ended: bool,
}

/// Something that came from a host.
struct Seen {
    host: usize,
    at_us: u64,
    what: What,
}

enum What {
    Report(RoundReport),
    Ended(Option<Fault>),
}

impl Round {
    /// Opens a round on all hosts and waits until all are prepared. Nothing is held.
    pub async fn open(
        parts: Vec<Part>,
        record: &CutRecord,
        limits: Limits,
        base: Instant,
    ) -> Result<Self, Fault> {
        let (sender, seen) = mpsc::channel(ORDERS * parts.len().max(1));
        let mut hosts = Vec::new();
        let text = wire::convert::record_to_proto(record)?;
        for (index, part) in parts.into_iter().enumerate() {
            let (orders, queue) = mpsc::channel(ORDERS);
            let open = open_order(record, text.clone(), &part.members, limits);
            tokio::spawn(carried(listen(index, part.agent.clone(), queue, sender.clone(), base)));
            // The channel is new and has room.
            let _ = orders.try_send(open);
            hosts.push(Host {
                name: part.agent.host().clone(),
                members: part.members,
                orders: Some(orders),
                order_sent_us: us_since(base),
                exchanges: Vec::new(),
                reports: lanes::Reports::default(),
                ended: false,
            });
        }
        let state = coordinator::start(hosts.len());
        let deadline = Instant::now() + limits.prepare;
        let mut round = Self {
            limits,
            base,
            hosts,
            state,
            seen,
            deadline,
            faults: BTreeMap::new(),
            held: None,
            span: span_of(record),
            phase: Span::none(),
        };
        match round.drive().await {
            Ok(()) => Ok(round),
            Err(fault) => {
                round.close().await;
                Err(fault)
            }
        }
    }

    /// Holds, cuts and releases. After an error nothing is held, or every host is letting go.
    pub async fn cut(&mut self) -> Result<(), Fault> {
        self.step(Event::Proceed);
        let outcome = self.drive().await;
        self.held = None;
        outcome
    }

    /// Ends all streams and waits until every host has ended its part.
    pub async fn close(&mut self) {
        self.step(Event::GiveUp);
        self.end_streams();
        let limit = Instant::now() + CLOSE_LIMIT;
        while self.hosts.iter().any(|host| !host.ended) {
            match timeout_at(limit, self.seen.recv()).await {
                Ok(Some(seen)) => self.note_end(&seen),
                Ok(None) => return,
                Err(_) => {
                    tracing::warn!(
                        "hosts that did not end their part within {CLOSE_LIMIT:?} let go by their limits"
                    );
                    return;
                }
            }
        }
    }

    /// What was seen, per host, on the controller's clock.
    pub fn views(&self) -> Vec<HostView<'_>> {
        let view = |host| {
            let Host { name, members, exchanges, reports, .. }: &Host = host;
            HostView { host: name, members, clock: Alignment::of(exchanges), reports }
        };
        self.hosts.iter().map(view).collect()
    }

    /// One lane per host; instants relative to `zero_us` on the controller's clock.
    pub fn lanes(&self, zero_us: u64) -> Vec<HostLane> {
        self.views().iter().map(|view| lanes::host_lane(view, zero_us)).collect()
    }

    /// Until the round is ready, clean or failed.
    async fn drive(&mut self) -> Result<(), Fault> {
        loop {
            match &self.state {
                State::Ready | State::Clean => return Ok(()),
                State::Failed(cause) => return Err(self.failed(&cause.clone())),
                State::Opening(_) | State::Holding(_) | State::Cutting(_) | State::Releasing(..) => {}
            }
            let event = match timeout_at(self.deadline, self.seen.recv()).await {
                Ok(Some(seen)) => self.note(seen),
                // Every host's task is gone, so every host has been noted as ended; nothing more will come.
                Ok(None) => Some(Event::GiveUp),
                Err(_) => Some(Event::LimitPassed),
            };
            if let Some(event) = event {
                self.step(event);
            }
        }
    }

    fn step(&mut self, event: Event) {
        let state = std::mem::replace(&mut self.state, State::Failed(Cause::GivenUp));
        let (state, actions) = coordinator::step(self.hosts.len(), state, event);
        self.state = state;
        for action in actions {
            self.phase = self.span.in_scope(|| tracing::info_span!("phase", ordered = ?action));
            self.phase.in_scope(|| tracing::debug!("begun"));
            match action {
                Action::Hold => {
                    self.deadline = Instant::now() + self.limits.soft;
                    self.held = Some(holds::process().begin());
                    self.order(round_order::Order::Hold(round_order::Hold {}));
                    point("controller.cut.hold-ordered");
                }
                Action::Cut => {
                    point("controller.cut.held");
                    self.order(round_order::Order::Cut(round_order::Cut {}));
                    point("controller.cut.cut-ordered");
                }
                Action::Release => {
                    point("controller.cut.cut");
                    // Hosts thaw first and then make the snapshots durable, which nobody is held for.
                    self.deadline = Instant::now() + self.limits.prepare;
                    self.order(round_order::Order::Release(round_order::Release {}));
                    point("controller.cut.release-ordered");
                }
                Action::Close => self.end_streams(),
            }
        }
    }

    fn order(&mut self, order: round_order::Order) {
        for host in &mut self.hosts {
            host.order_sent_us = us_since(self.base);
            if let Some(orders) = &host.orders {
                // A host whose stream has ended is noticed by its report of that.
                let _ = orders.try_send(RoundOrder { order: Some(order.clone()) });
            }
        }
    }

    fn end_streams(&mut self) {
        for host in &mut self.hosts {
            host.orders = None;
        }
    }

    fn note_end(&mut self, seen: &Seen) {
        if matches!(seen.what, What::Ended(_)) {
            self.hosts[seen.host].ended = true;
        }
    }

    fn note(&mut self, seen: Seen) -> Option<Event> {
        self.note_end(&seen);
        let index = seen.host;
        let host = &mut self.hosts[index];
        let report = match seen.what {
            // The end of a stream is news only where the host had not said its last word.
            What::Ended(None) if host.reports.released.is_some() => return None,
            What::Ended(fault) => {
                let lost =
                    || Fault::unavailable(format!("host {}: its part of the round ended early", host.name));
                self.faults.entry(index).or_insert_with(|| fault.unwrap_or_else(lost));
                return Some(Event::HostFailed(index));
            }
            What::Report(report) => report,
        };
        let mut answered = |received_us: u64| {
            host.exchanges.push(Exchange {
                sent_us: host.order_sent_us,
                host_received_us: received_us,
                host_answered_us: report.sent_us,
                answered_us: seen.at_us,
            });
        };
        let event = match report.report? {
            round_report::Report::Prepared(prepared) => {
                answered(prepared.received_us);
                host.reports.prepared = prepared.members;
                Report::Prepared
            }
            round_report::Report::Held(held) => {
                answered(held.received_us);
                host.reports.held = held.members;
                Report::Held
            }
            round_report::Report::Cut(cut) => {
                answered(cut.received_us);
                host.reports.cut = cut.members;
                Report::Cut
            }
            round_report::Report::Released(released) => {
                answered(released.received_us);
                // Every member must be accounted for; silence about one is not a clean release of it.
                let all = released.members.len() == host.members.len();
                let clean =
                    all && !released.guard_fired && released.members.iter().all(|member| member.clean);
                host.reports.released = Some(released.members);
                if clean { Report::ReleasedClean } else { Report::ReleasedLapsed }
            }
            round_report::Report::Failed(failed) => {
                let fault =
                    wire::fault_of(tonic::Status::new(tonic::Code::from_i32(failed.code), failed.message));
                self.faults.entry(index).or_insert(fault.context(format!("host {}", host.name)));
                return Some(Event::HostFailed(index));
            }
        };
        Some(Event::Reported(index, event))
    }

    fn failed(&self, cause: &Cause) -> Fault {
        let fault = self.fault_of(cause);
        let reason = match cause {
            Cause::Host(_) if fault.code == Code::Deadline => Reason::deadline,
            Cause::Host(_) => Reason::host,
            Cause::TooLong(_) => Reason::deadline,
            Cause::Lapsed(_) => Reason::lapse,
            Cause::OutOfOrder(_) => Reason::order,
            Cause::GivenUp => Reason::given_up,
        };
        metrics::cuts::void(reason);
        self.phase.in_scope(|| tracing::warn!(?reason, "void: {fault}"));
        fault
    }

    fn fault_of(&self, cause: &Cause) -> Fault {
        let name = |host: &usize| self.hosts[*host].name.to_string();
        let names = |hosts: &mut dyn Iterator<Item = &usize>| hosts.map(name).collect::<Vec<_>>().join(", ");
        match cause {
            Cause::Host(host) => self.faults.get(host).cloned().unwrap_or_else(|| {
                Fault::unavailable(format!("host {}: its part of the round ended early", name(host)))
            }),
            Cause::OutOfOrder(host) => Fault::internal(format!(
                "host {} reported something that was not its turn; run the same version on all hosts",
                name(host)
            )),
            Cause::TooLong(hosts) => Fault::new(
                Code::Deadline,
                format!(
                    "{} did not answer within the limit ({:?} to prepare, {:?} to hold); everything was let go",
                    names(&mut hosts.iter()),
                    self.limits.prepare,
                    self.limits.soft
                ),
            ),
            Cause::Lapsed(hosts) => Fault::aborted(format!(
                "the hold on {} had ended before it was released, so the cut is void: {}",
                names(&mut hosts.iter()),
                self.lapses().join("; ")
            )),
            Cause::GivenUp => Fault::aborted("the round was given up"),
        }
    }

    fn lapses(&self) -> Vec<String> {
        let released = self.hosts.iter().filter_map(|host| host.reports.released.as_ref());
        released.flatten().filter(|member| !member.clean).map(|member| member.why.clone()).collect()
    }
}

/// What follows a cut through all logs is its attempt: hosts are sent it and log it, too.
fn span_of(record: &CutRecord) -> Span {
    tracing::info_span!("cut", cut = %record.id, attempt = %record.attempt, name = record.name)
}

fn us_since(base: Instant) -> u64 {
    u64::try_from(base.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// The record's text is the same for all hosts.
fn open_order(
    record: &CutRecord,
    text: proto::CutRecord,
    members: &[CutMember],
    limits: Limits,
) -> RoundOrder {
    let ms = |limit: Duration| u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
    let member = |member: &CutMember| Member {
        volume_id: member.volume.to_string(),
        snapshot_id: member.snapshot.to_string(),
    };
    RoundOrder {
        order: Some(round_order::Order::Open(round_order::Open {
            cut_id: record.id.to_string(),
            attempt: record.attempt.to_string(),
            members: members.iter().map(member).collect(),
            soft_limit_ms: ms(limits.soft),
            hard_limit_ms: ms(limits.hard),
            record: Some(text),
        })),
    }
}

/// Carries one host's reports until its stream ends.
async fn listen(
    host: usize,
    agent: Agent,
    orders: mpsc::Receiver<RoundOrder>,
    seen: mpsc::Sender<Seen>,
    base: Instant,
) {
    let mut end = None;
    match agent.round(orders).await {
        Err(fault) => end = Some(fault),
        Ok(mut reports) => {
            while let Some(report) = reports.next().await {
                let at_us = us_since(base);
                let what = match report {
                    Ok(report) => What::Report(report),
                    Err(status) => {
                        end = Some(wire::fault_of(status).context(format!("host {}", agent.host())));
                        break;
                    }
                };
                if seen.send(Seen { host, at_us, what }).await.is_err() {
                    return;
                }
            }
        }
    }
    // Nobody listens to a round that was dropped.
    let _ = seen.send(Seen { host, at_us: us_since(base), what: What::Ended(end) }).await;
}
