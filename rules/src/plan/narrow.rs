//! What makes a plan smaller: answers to `where`, and actions that another step does already.

use std::collections::BTreeMap;

use crate::api::Pick;
use crate::ports::PodTarget;

use super::{Action, LeftOut, Plan, PlanError, PlannedCommand, PlannedHold, PlannedStep, Target};

impl Plan {
    /// The plan after the `where` commands were answered: `yes` tells for step and target whether it said yes.
    pub fn answered(mut self, yes: impl Fn(usize, &Target) -> bool) -> Result<Self, PlanError> {
        for (index, step) in self.steps.iter_mut().enumerate() {
            if step.question.take().is_none() {
                continue;
            }
            let asked = step.targets.len();
            let (mut chosen, refused): (Vec<Target>, Vec<Target>) =
                std::mem::take(&mut step.targets).into_iter().partition(|target| yes(index, target));
            let undecided = |wanted| {
                Err(PlanError::Undecided { step: step.name.clone(), yes: chosen.len(), asked, wanted })
            };
            match (step.pick, chosen.len()) {
                (Pick::Leader, 1) | (Pick::All | Pick::One, 1..) => {}
                (Pick::Leader, _) => return undecided("exactly one leader is wanted"),
                (Pick::All | Pick::One, 0) => return undecided("at least one is wanted"),
            }
            let keep = if step.pick == Pick::One { 1 } else { chosen.len() };
            let spare = chosen.split_off(keep);
            let out = |(target, why): (Target, &str)| LeftOut { pod: target.name(), why: why.to_owned() };
            step.left_out.extend(refused.into_iter().map(|t| out((t, "it answered no to `where`"))));
            step.left_out.extend(spare.into_iter().map(|t| out((t, "an earlier pod answered yes first"))));
            step.targets = chosen;
        }
        self.never_twice();
        Ok(self)
    }

    /// Whether pods must be asked before the targets are known.
    pub fn has_questions(&self) -> bool {
        self.steps.iter().any(|step| step.question.is_some())
    }

    /// Two steps whose selectors overlap do the same action in the same container only once: in the earlier step.
    /// A step that still has a question is left alone until it is answered.
    pub(super) fn never_twice(&mut self) {
        let mut done: BTreeMap<(PodTarget, Action, String), String> = BTreeMap::new();
        for step in &mut self.steps {
            if step.question.is_some() {
                continue;
            }
            let actions = [Action::Before, Action::Hold, Action::After];
            let prints: Vec<(Action, String)> =
                actions.into_iter().filter_map(|action| Some((action, step.fingerprint(action)?))).collect();
            let (name, mut kept) = (step.name.clone(), Vec::new());
            for mut target in std::mem::take(&mut step.targets) {
                let mut by = None;
                for (action, print) in &prints {
                    let key = (target.at.clone(), *action, print.clone());
                    match done.get(&key) {
                        Some(earlier) if *earlier != name => {
                            target.done_earlier.insert(*action);
                            by = Some(earlier.clone());
                        }
                        Some(_) => {}
                        None => {
                            done.insert(key, name.clone());
                        }
                    }
                }
                match by {
                    Some(earlier) if target.done_earlier.len() == prints.len() => {
                        let why = format!("step `{earlier}` does the same in it already");
                        step.left_out.push(LeftOut { pod: target.name(), why });
                    }
                    Some(_) | None => kept.push(target),
                }
            }
            step.targets = kept;
        }
    }
}

impl PlannedStep {
    /// What exactly an action does, so that two steps can be compared.
    fn fingerprint(&self, action: Action) -> Option<String> {
        match action {
            Action::Where => None,
            Action::Before => self.before.as_ref().map(PlannedCommand::fingerprint),
            Action::After => self.after.as_ref().map(PlannedCommand::fingerprint),
            Action::Hold => self.hold.as_ref().map(PlannedHold::fingerprint),
        }
    }
}
