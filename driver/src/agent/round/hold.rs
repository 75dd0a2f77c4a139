//! What exists from `Hold` to the end of a round: the members' threads, the guard, the expedited grace periods, and
//! what was seen.

use std::sync::Arc;

use stillpoint_guard::expedite::Lease;
use stillpoint_guard::fault::point;

use super::RoundContext;
use super::crew::{Alarm, Errands};
use super::member::{Answer, Grip, Member, Quiesce, Work, Worker};
use super::raw::{self, RawDevice};
use super::watchdog::{Armed, Charge, Fired};
use crate::domain::Fault;
use crate::domain::round::Limits;
use crate::observe::metrics::rounds;
use crate::proto::agent::{MemberReleased, MemberSpan};

/// The members of one round on this host, from the moment when they may be held.
pub struct Hold {
    members: Vec<Member>,
    workers: Vec<Errands>,
    guard: Option<Box<dyn Armed>>,
    expedited: Option<Lease>,
    /// Resumes all members at the soft limit while their threads are in kernel calls. Nobody needs it where nothing is
    /// quiesced.
    alarm: Option<Alarm>,
    answers: Vec<Answer>,
    outstanding: usize,
    /// Why the hold did not last, for all members.
    fired: Option<String>,
}

impl Hold {
    /// Starts a worker per member; they wait.
    pub fn new(
        context: &RoundContext,
        members: Vec<Member>,
        answer: impl Fn(Answer) + Clone + Send + 'static,
    ) -> Result<Self, Fault> {
        let quiesces: Vec<_> = members.iter().map(|member| Quiesce::of(member, &context.host)).collect();
        let start = |(index, member): (usize, &Member)| {
            let worker = Worker::of(index, member, Arc::clone(&quiesces[index]));
            let reply = Box::new(answer.clone());
            if members.len() == 1 {
                context.crew.employ_alone(worker, reply)
            } else {
                context.crew.employ(worker, reply)
            }
        };
        let workers: Vec<_> = members
            .iter()
            .enumerate()
            .map(start)
            .collect::<std::io::Result<_>>()
            .map_err(|error| Fault::unavailable(format!("cannot start a thread per member: {error}")))?;
        let ring = move || quiesces.iter().for_each(|quiesce| quiesce.expire());
        let alarm = if members.iter().any(Member::is_held) {
            let made = context.crew.alarm(Box::new(ring));
            Some(made.map_err(|error| {
                Fault::unavailable(format!("cannot start a thread for the limit: {error}"))
            })?)
        } else {
            None
        };
        let answers = Vec::with_capacity(members.len() * 4);
        Ok(Self {
            members,
            workers,
            guard: None,
            expedited: None,
            alarm,
            answers,
            outstanding: 0,
            fired: None,
        })
    }

    /// The members.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Arms the guard over all members, then lets them freeze.
    pub fn freeze(&mut self, context: &RoundContext, limits: &Limits) -> Result<(), Fault> {
        point("agent.cut.hold-ordered");
        // A rule may have run for minutes since the round was prepared, and writers went on.
        for member in self.members.iter().filter(|member| member.is_held()) {
            member.pool.check_copy_time(&member.volume)?;
        }
        let devices = self.raw_devices();
        raw::refresh(context, &devices)?;
        let throttles: Vec<_> = devices.iter().map(|raw| raw.throttle()).collect();
        let mounts = self.members.iter().filter_map(|member| match &member.grip {
            Grip::Freeze(mount) => Some(&**mount),
            Grip::None | Grip::Throttle(_) => None,
        });
        let charge =
            Charge { mounts: mounts.collect(), throttles: throttles.iter().map(|it| &**it).collect() };
        let freezes = !charge.mounts.is_empty();
        if freezes || !charge.throttles.is_empty() {
            self.guard = Some(context.watchdog.arm(&charge, limits.hard)?);
            point("agent.cut.armed");
        }
        if freezes {
            // Without the lease a freeze takes longer and is as good.
            self.expedited = context.expedite.as_ref().and_then(|expedite| expedite.lease().ok());
        }
        if let Some(alarm) = &self.alarm {
            alarm(limits.soft);
        }
        self.order(Work::Freeze);
        Ok(())
    }

    fn raw_devices(&self) -> Vec<&Arc<RawDevice>> {
        let raw = self.members.iter().filter_map(|member| match &member.grip {
            Grip::Throttle(raw) => Some(raw),
            Grip::None | Grip::Freeze(_) => None,
        });
        raw.collect()
    }

    /// Tells all members; each answers once.
    pub fn order(&mut self, work: Work) {
        for (index, worker) in self.workers.iter().enumerate() {
            if worker(work) {
                self.outstanding += 1;
            } else {
                let fault = Fault::internal(format!("the thread of {} is gone", self.members[index].volume));
                // Its thread thaws before it ends, but nobody saw it.
                let stuck = work == Work::Thaw;
                let answer = Answer { index, work, start_us: 0, end_us: 0, result: Err(fault), stuck };
                self.answers.push(answer);
            }
        }
    }

    /// Takes an answer; true when no other is awaited.
    pub fn take(&mut self, answer: Answer) -> bool {
        self.outstanding = self.outstanding.saturating_sub(1);
        self.measure(&answer);
        self.answers.push(answer);
        self.is_quiet()
    }

    /// A member that is not in use is only copied.
    fn measure(&self, answer: &Answer) {
        let held = self.members[answer.index].is_held();
        let phase = match answer.work {
            Work::Freeze if held => rounds::Phase::freeze,
            Work::Copy => rounds::Phase::cut,
            Work::Thaw if held => rounds::Phase::thaw,
            Work::Freeze | Work::Thaw => return,
        };
        rounds::phase(phase, answer.start_us, answer.end_us);
    }

    /// Whether no answer is awaited.
    pub fn is_quiet(&self) -> bool {
        self.outstanding == 0
    }

    /// The first failure of this work, with its member.
    pub fn failure(&self, work: Work) -> Option<(&Member, &Fault)> {
        let mut of_work = self.answers.iter().filter(|answer| answer.work == work);
        of_work.find_map(|answer| Some((&self.members[answer.index], answer.result.as_ref().err()?)))
    }

    /// What was seen of this work, per member.
    pub fn spans(&self, work: Work) -> Vec<MemberSpan> {
        let of = |answer: &Answer| MemberSpan {
            volume_id: self.members[answer.index].volume.to_string(),
            start_us: answer.start_us,
            end_us: answer.end_us,
        };
        self.answers.iter().filter(|answer| answer.work == work).map(of).collect()
    }

    /// After all members were thawed: lets the guard and the grace periods go. A member that resists is the guard's:
    /// it is not disarmed, so it lets go of all of them.
    pub fn disarm(&mut self) {
        self.alarm = None;
        self.expedited = None;
        let Some(guard) = self.guard.take() else { return };
        let resists = self.answers.iter().any(|answer| answer.stuck);
        let fired = if resists {
            drop(guard);
            Fired::Yes("a member could not be let go, so the guard was told to".into())
        } else {
            guard.disarm()
        };
        if let Fired::Yes(why) = fired {
            rounds::guard_fired();
            self.fired.get_or_insert(why);
        }
    }

    /// Whether the guard had let go by itself, or may have.
    pub fn guard_fired(&self) -> bool {
        self.fired.is_some()
    }

    /// For each member whether its hold was there until its release. A member that was not in use must still not be.
    pub fn releases(&self, context: &RoundContext) -> Vec<MemberReleased> {
        let thaws = self.answers.iter().filter(|answer| answer.work == Work::Thaw);
        let released: Vec<_> = thaws.map(|answer| self.release(context, answer)).collect();
        rounds::lapsed(released.iter().filter(|member| !member.clean).count());
        released
    }

    fn release(&self, context: &RoundContext, thaw: &Answer) -> MemberReleased {
        let member = &self.members[thaw.index];
        let why = match (&thaw.result, &self.fired) {
            (Err(fault), _) => Some(fault.message.clone()),
            (Ok(()), Some(fired)) if member.is_held() => Some(fired.clone()),
            (Ok(()), _) if member.is_idle() => came_into_use(context, member),
            (Ok(()), _) => None,
        };
        MemberReleased {
            volume_id: member.volume.to_string(),
            start_us: thaw.start_us,
            end_us: thaw.end_us,
            clean: why.is_none(),
            why: why.unwrap_or_default(),
        }
    }
}

fn came_into_use(context: &RoundContext, member: &Member) -> Option<String> {
    let image = member.pool.image(&member.volume).map_err(Fault::from);
    let devices = image
        .and_then(|image| context.host.attached(&image).map_err(|error| Fault::internal(error.to_string())));
    match devices {
        Ok(devices) if devices.iter().all(|device| device.read_only) => None,
        Ok(_) => Some(format!("volume {} came into use during the cut", member.volume)),
        Err(error) => Some(format!("whether volume {} came into use is unknown: {error}", member.volume)),
    }
}
