//! The pods' part of a run: planning, asking, `before`, debts and `after`.

use std::collections::BTreeSet;

use crate::api::OnFailure;
use crate::failure::{Failure, FailureKind};
use crate::machine::{Event, Outline, StepOutline};
use crate::plan::{Action, Plan, PlannedCommand, PlannedStep, Target};
use crate::ports::PodState;
use crate::run::{Attempt, AttemptFault, Debt, DebtState, keep};

use super::attempt::Job;
use super::conduct::{Conductor, bug};
use super::pods::{Others, STILL_OWED, not_begun, summary};
use super::{PlanningError, make_plan};

impl Conductor {
    pub(super) async fn plan(&mut self) -> Event {
        let Some(request) = &self.request else { return Event::Planned(Err(bug("nothing was asked for"))) };
        let made = tokio::select! {
            biased;
            why = self.stop.clone().wait() => return Event::Cancelled(why),
            made = make_plan(&self.ports, &self.limits, request) => made,
        };
        match made {
            Ok(plan) => {
                let outline = outline(&plan);
                self.say(planned_line(&plan));
                self.run.plan = Some(plan);
                Event::Planned(Ok(outline))
            }
            Err(error) => Event::Planned(Err(planning_failure(&error))),
        }
    }

    pub(super) async fn choose(&mut self) -> Event {
        let Some(plan) = self.run.plan.clone() else { return Event::Chosen(Err(bug("there is no plan"))) };
        let mut jobs = Vec::new();
        let mut places = Vec::new();
        for (index, step) in plan.steps.iter().enumerate() {
            let Some(question) = &step.question else { continue };
            for target in step.doing(Action::Where) {
                jobs.push(job(places.len(), &step.name, Action::Where, target, question));
                places.push((index, target.clone()));
            }
        }
        let (mut yes, mut last) = (Vec::new(), Vec::new());
        let cancel = self.stop.clone().wait();
        let parallel = (0..plan.steps.len()).map(|step| self.parallel(step)).min().unwrap_or(1);
        let pods = self.pods(parallel);
        let attempts = &mut self.run.attempts;
        let ended = pods
            .run(jobs, Others::Spared, cancel, |done| {
                if done.yes {
                    yes.push(places[done.tag].clone());
                }
                last.extend(done.attempts.last().cloned());
                keep(attempts, done.attempts);
            })
            .await;
        if let Err(why) = ended {
            return Event::Cancelled(why);
        }
        for step in &plan.steps {
            let asked: Vec<&Attempt> = last.iter().filter(|attempt| attempt.step == step.name).collect();
            if let Some(why) = summary(&step.name, Action::Where, &asked, not_begun(OnFailure::Abort)) {
                return Event::Chosen(Err(why));
            }
        }
        match plan.answered(|step, target| yes.iter().any(|(at, who)| *at == step && who == target)) {
            Ok(plan) => {
                self.run.plan = Some(plan);
                Event::Chosen(Ok(()))
            }
            Err(error) => Event::Chosen(Err(Failure::new(FailureKind::Where, error.to_string()))),
        }
    }

    /// Writes down what the first `steps` steps will owe.
    pub(super) async fn owe(&mut self, steps: usize) -> Option<Event> {
        let known = self.run.debts.len();
        let first = self.run.debts.iter().map(|debt| debt.step + 1).max().unwrap_or(0);
        let new: Vec<Debt> = self.run.plan.iter().flat_map(|plan| debts(plan, first, steps)).collect();
        self.run.debts.extend(new);
        match self.persist().await {
            Ok(()) => None,
            Err(why) => {
                self.run.debts.truncate(known);
                Some(Event::JournalFailed(why))
            }
        }
    }

    pub(super) async fn prepare(&mut self, index: usize) -> Event {
        let Some(step) = self.step(index) else { return Event::Prepared(index, Ok(())) };
        let jobs = match &step.before {
            Some(command) => step
                .doing(Action::Before)
                .map(|target| job(0, &step.name, Action::Before, target, command))
                .collect(),
            None => Vec::new(),
        };
        let cancel = self.stop.clone().wait();
        let consequence = not_begun(step.on_failure);
        match self
            .in_pods((index, &step.name), Action::Before, jobs, (Others::Spared, consequence), cancel)
            .await
        {
            Ok(result) => Event::Prepared(index, result),
            Err(why) => Event::Cancelled(why),
        }
    }

    /// Runs jobs of one step; the outer error is the reason to stop, the inner one what failed.
    async fn in_pods(
        &mut self,
        (index, step): (usize, &str),
        action: Action,
        jobs: Vec<Job>,
        (others, consequence): (Others, &str),
        cancel: impl Future<Output = Failure>,
    ) -> Result<Result<(), Failure>, Failure> {
        let pods = self.pods(self.parallel(index));
        let debts = &mut self.run.debts;
        let attempts = &mut self.run.attempts;
        let mut last: Vec<Attempt> = Vec::new();
        let ended = pods
            .run(jobs, others, cancel, |done| {
                if let Some(outcome) = done.attempts.last() {
                    if action == Action::After
                        && let Some(debt) = debts.get_mut(done.tag)
                    {
                        debt.state = paid_by(outcome, debt.command.retry.idempotent);
                    }
                    last.push(outcome.clone());
                }
                keep(attempts, done.attempts);
            })
            .await;
        let tried: Vec<&Attempt> = last.iter().collect();
        let failed = summary(step, action, &tried, consequence);
        let word = if failed.is_some() { "failed" } else { "done" };
        self.say(format!("step {step}: {} {word} in {} pods", action.word(), tried.len()));
        ended.map(|()| failed.map_or(Ok(()), Err))
    }

    /// Steps that are still to be undone when it is the turn of this one.
    fn steps_to_undo(&self, index: usize) -> usize {
        let owing =
            |step: &usize| self.run.owed().any(|debt| debt.step == *step && debt.state.is_collectable());
        (0..=index).filter(owing).count()
    }

    /// Pays the debts of one step. Nothing stops this.
    pub(super) async fn undo(&mut self, index: usize) -> Event {
        if self.is_lost() {
            return Event::Undone(index, Ok(()));
        }
        self.forget_gone(index).await;
        let owed = self.run.debts.iter().enumerate();
        let jobs: Vec<Job> = owed
            .filter(|(_, debt)| debt.step == index && debt.state.is_collectable())
            .map(|(tag, debt)| Job {
                tag,
                step: debt.step_name.clone(),
                action: Action::After,
                target: debt.target.clone(),
                host: debt.host.clone(),
                command: debt.command.clone(),
            })
            .collect();
        let never = std::future::pending();
        let tried = match jobs.first().map(|job| job.step.clone()) {
            None => Ok(()),
            Some(name) => {
                let whole = self.budget.clone();
                self.budget = whole.shared_among(self.steps_to_undo(index));
                let tried = self
                    .in_pods((index, &name), Action::After, jobs, (Others::Done, STILL_OWED), never)
                    .await;
                self.budget = whole;
                tried.unwrap_or_else(Err)
            }
        };
        // What may not be repeated is still owed, also when everything else of the step is paid or gone.
        match (tried, self.unknown(index)) {
            (Err(why), None) => Event::Undone(index, Err(why)),
            (Err(why), Some(_)) if why.kind == FailureKind::After => Event::Undone(index, Err(why)),
            (_, Some(unknown)) => Event::Undone(index, Err(unknown)),
            (Ok(()), None) => Event::Undone(index, Ok(())),
        }
    }

    /// What may not be repeated ends with its pod: where that is gone there is nothing to undo any more.
    async fn forget_gone(&mut self, index: usize) {
        let stuck = |debt: &Debt| debt.step == index && debt.state == DebtState::Unknown;
        let namespaces: BTreeSet<String> = self
            .run
            .debts
            .iter()
            .filter(|debt| stuck(debt))
            .map(|debt| debt.target.namespace.clone())
            .collect();
        if namespaces.is_empty() {
            return;
        }
        let namespaces: Vec<String> = namespaces.into_iter().collect();
        let inventory = std::sync::Arc::clone(&self.ports.inventory);
        // What cannot be listed is there.
        let Ok(Ok(pods)) = self.budget.within(self.limits.plan, inventory.pods(&namespaces)).await else {
            return;
        };
        let exists = |debt: &Debt| {
            pods.iter().any(|pod| pod.uid == debt.target.uid && pod.state != PodState::Finished)
        };
        for debt in self.run.debts.iter_mut().filter(|debt| stuck(debt) && !exists(debt)) {
            debt.state = DebtState::Gone;
        }
    }

    /// That the outcome of an `after` of this step is not known, and will not be by trying.
    fn unknown(&self, index: usize) -> Option<Failure> {
        let stuck = |debt: &&Debt| debt.step == index && !debt.state.is_collectable();
        let stuck: Vec<&Debt> = self.run.owed().filter(stuck).collect();
        let name = &stuck.first()?.step_name;
        let words: Vec<String> = stuck.iter().map(|debt| debt.in_words()).collect();
        let why = format!(
            "step `{name}`: whether its `after` was done is not known, and it may not be repeated: {}; look at the application, then give its cleanup up (docs/rules.md says how)",
            words.join(", ")
        );
        Some(Failure::of_step(FailureKind::After, name, why))
    }
}

fn paid_by(outcome: &Attempt, idempotent: bool) -> DebtState {
    match outcome.fault {
        None => DebtState::Paid,
        Some(AttemptFault::PodChanged) => DebtState::Gone,
        Some(fault) if fault.is_uncertain() && !idempotent => DebtState::Unknown,
        Some(_) => DebtState::Unpaid,
    }
}

pub(super) fn planning_failure(error: &PlanningError) -> Failure {
    let (kind, retry) = match error {
        PlanningError::Inventory(_) | PlanningError::TooSlow(_) => (FailureKind::Inventory, true),
        PlanningError::Plan(_) => (FailureKind::Plan, false),
    };
    Failure::new(kind, error.to_string()).passing(retry)
}

pub(super) fn outline(plan: &Plan) -> Outline {
    let step = |step: &PlannedStep| StepOutline {
        before: step.before.is_some(),
        hold: step.hold.as_ref().map(|hold| hold.take),
        after: step.after.is_some(),
        on_failure: step.on_failure,
    };
    Outline { steps: plan.steps.iter().map(step).collect(), questions: plan.has_questions() }
}

fn debts(plan: &Plan, from: usize, to: usize) -> Vec<Debt> {
    let mut debts = Vec::new();
    for (index, step) in plan.steps.iter().enumerate().take(to).skip(from) {
        let Some(command) = &step.after else { continue };
        debts.extend(step.doing(Action::After).map(|target| Debt {
            step: index,
            step_name: step.name.clone(),
            target: target.at.clone(),
            host: target.host.clone(),
            command: command.clone(),
            state: DebtState::Owed,
        }));
    }
    debts
}

fn job(tag: usize, step: &str, action: Action, target: &Target, command: &PlannedCommand) -> Job {
    Job {
        tag,
        step: step.to_owned(),
        action,
        target: target.at.clone(),
        host: target.host.clone(),
        command: command.clone(),
    }
}

fn planned_line(plan: &Plan) -> String {
    let pods: usize = plan.steps.iter().map(|step| step.targets.len()).sum();
    let volumes: usize = plan.hosts.iter().map(|host| host.volumes.len()).sum();
    format!(
        "planned: {} steps in {pods} pods, {volumes} volumes on {} hosts",
        plan.steps.len(),
        plan.hosts.len()
    )
}
