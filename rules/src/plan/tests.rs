use super::*;
use crate::api::{Command, Invocation, Length, Metadata, RuleSpec};
use crate::select::parse_selector;

pub(super) fn pod(name: &str, labels: &str, volumes: &[&str]) -> Pod {
    let labels = labels.split(',').filter_map(|pair| pair.split_once('='));
    Pod {
        namespace: "shop".into(),
        name: name.into(),
        uid: format!("uid-{name}"),
        labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        host: format!("host-{}", &name[name.len() - 1..]),
        containers: vec!["main".into()].into(),
        volumes: volumes.iter().map(|v| (*v).to_owned()).collect(),
        state: PodState::Ready,
    }
}

fn volumes(ids: &[&str]) -> Vec<CutVolume> {
    let one = |id: &&str| CutVolume {
        id: (*id).to_owned(),
        name: format!("name-{id}"),
        host: format!("host-{}", &id[id.len() - 1..]),
    };
    ids.iter().map(one).collect()
}

fn command(argv: &[&str]) -> Command {
    Command::new(Invocation::Argv(argv.iter().map(|arg| (*arg).to_owned()).collect()))
}

fn step(name: &str, selector: &str) -> Step {
    Step {
        name: name.into(),
        pods: PodSet {
            selector: Some(parse_selector(selector).unwrap()),
            from_volumes: false,
            container: None,
            min: None,
            parallel: None,
            pick: Pick::All,
            where_: None,
        },
        before: Some(command(&["flush"])),
        hold: None,
        after: None,
        on_failure: OnFailure::Abort,
    }
}

fn rule(steps: Vec<Step>) -> Rule {
    Rule {
        metadata: Metadata { name: "rule".into(), namespace: None },
        spec: RuleSpec { params: Vec::new(), redact: Vec::new(), steps },
    }
}

fn ring() -> Vec<Pod> {
    vec![
        pod("db-2", "app=db", &["v2"]),
        pod("db-1", "app=db", &["v1"]),
        pod("db-3", "app=db", &["v3"]),
        pod("web-1", "app=web", &[]),
    ]
}

fn target_names(step: &PlannedStep) -> Vec<String> {
    step.targets.iter().map(Target::name).collect()
}

fn fails(steps: Vec<Step>, pods: &[Pod]) -> String {
    plan(Some(&rule(steps)), pods, &volumes(&["v1"])).unwrap_err().to_string()
}

#[test]
fn pods_are_pinned_and_sorted_and_volumes_grouped_by_host() {
    let plan =
        plan(Some(&rule(vec![step("flush", "app=db")])), &ring(), &volumes(&["v2", "v1", "v1"])).unwrap();
    assert_eq!(target_names(&plan.steps[0]), ["shop/db-1", "shop/db-2", "shop/db-3"]);
    assert_eq!(plan.steps[0].targets[0].at.uid, "uid-db-1");
    assert_eq!(plan.steps[0].targets[0].at.container, "main");
    let hosts: Vec<_> = plan.hosts.iter().map(|h| (h.host.as_str(), h.volumes.len())).collect();
    assert_eq!(hosts, [("host-1", 1), ("host-2", 1)]);
    assert_eq!(plan.notes, ["step `flush`: shop/db-3 mounts no volume of this cut"]);
    assert_eq!(plan.steps[0].before.as_ref().unwrap().timeout(), defaults::COMMAND_TIMEOUT);
}

#[test]
fn no_match_says_what_is_there_instead() {
    let error = fails(vec![step("flush", "app=dbs")], &ring());
    assert_eq!(
        error,
        "step `flush`: no pod matches app=dbs; 4 pods were looked at, they have app=db, app=web; correct the step or start the application"
    );
    assert!(fails(vec![step("s", "tier=x")], &ring()).contains("none has a label `tier`"));
    assert!(fails(vec![step("s", "app=db")], &[]).contains("0 pods were looked at"));
}

#[test]
fn a_namespace_of_the_rule_keeps_others_out() {
    let mut rule = rule(vec![step("flush", "app=db")]);
    rule.metadata.namespace = Some("elsewhere".into());
    let error = plan(Some(&rule), &ring(), &volumes(&["v1"])).unwrap_err().to_string();
    assert!(error.contains("no pod matches"), "{error}");
}

#[test]
fn fewer_pods_than_min_are_named() {
    let mut few = step("flush", "app=db");
    few.pods.min = Some(4);
    let error = fails(vec![few], &ring());
    assert!(error.contains("3 of at least 4 pods match (shop/db-1, shop/db-2, shop/db-3)"), "{error}");
}

#[test]
fn a_missing_container_names_those_that_exist() {
    let mut wrong = step("flush", "app=db");
    wrong.pods.container = Some("cassandra".into());
    let error = fails(vec![wrong], &ring());
    assert!(error.contains("pod shop/db-1 has no container `cassandra`; it has main"), "{error}");
}

#[test]
fn a_pod_with_several_containers_is_refused_unless_somebody_names_one() {
    let mut pods = ring();
    pods[0].containers.ordinary = vec!["injected".into(), "main".into()];
    let error = fails(vec![step("flush", "app=db")], &pods);
    assert!(
        error.contains("pod shop/db-2 has the containers injected, main") && error.contains("`container:`"),
        "{error}"
    );
    pods[0].containers.default = Some("gone".into());
    let error = fails(vec![step("flush", "app=db")], &pods);
    assert!(error.contains("names `gone`, and it has injected, main"), "{error}");
    pods[0].containers.default = Some("main".into());
    let plan = plan(Some(&rule(vec![step("flush", "app=db")])), &pods, &volumes(&["v1"])).unwrap();
    let text = plan.to_string();
    assert!(text.contains("shop/db-2  container main (named by the pod's annotation)  host"), "{text}");
    assert!(text.contains("shop/db-1  container main (the only one)  host"), "{text}");
}

#[test]
fn the_container_is_looked_up_in_each_pod_anew() {
    let mut pods = ring();
    pods[0].containers = vec!["other".into()].into();
    let plan = plan(Some(&rule(vec![step("flush", "app=db")])), &pods, &volumes(&["v1"])).unwrap();
    let containers: Vec<_> = plan.steps[0].targets.iter().map(|t| t.at.container.as_str()).collect();
    assert_eq!(containers, ["main", "other", "main"]);
}

#[test]
fn a_pod_that_is_not_ready_fails_the_plan_by_name() {
    let mut pods = ring();
    pods[0].state = PodState::NotReady("CrashLoopBackOff".into());
    let error = fails(vec![step("flush", "app=db")], &pods);
    assert!(error.contains("pod shop/db-2 is not ready: CrashLoopBackOff"), "{error}");
}

#[test]
fn where_one_is_chosen_the_others_may_be_away() {
    let mut pods = ring();
    pods[1].state = PodState::NotReady("starting".into());
    let mut one = step("flush", "app=db");
    one.pods.pick = Pick::One;
    let plan = plan(Some(&rule(vec![one])), &pods, &volumes(&["v1"])).unwrap();
    assert_eq!(target_names(&plan.steps[0]), ["shop/db-2"]);
    let out: Vec<_> = plan.steps[0].left_out.iter().map(|l| l.pod.as_str()).collect();
    assert_eq!(out, ["shop/db-1", "shop/db-3"]);
}

#[test]
fn finished_pods_never_match_and_do_not_count() {
    let mut pods = ring();
    pods[0].state = PodState::Finished;
    let plan_of = |min| {
        let mut step = step("flush", "app=db");
        step.pods.min = Some(min);
        plan(Some(&rule(vec![step])), &pods, &volumes(&["v1"]))
    };
    let plan = plan_of(2).unwrap();
    assert_eq!(target_names(&plan.steps[0]), ["shop/db-1", "shop/db-3"]);
    assert!(plan.steps[0].left_out[0].why.contains("finished"));
    assert!(matches!(plan_of(3), Err(PlanError::TooFew { found: 2, .. })));
}

#[test]
fn pods_can_be_found_by_the_volumes_that_they_mount() {
    let mut mounting = step("flush", "app=db");
    mounting.pods = PodSet { selector: None, from_volumes: true, ..mounting.pods };
    let plan = plan(Some(&rule(vec![mounting.clone()])), &ring(), &volumes(&["v3"])).unwrap();
    assert_eq!(target_names(&plan.steps[0]), ["shop/db-3"]);
    let error = super::plan(Some(&rule(vec![mounting])), &ring(), &volumes(&["v9"])).unwrap_err().to_string();
    assert!(error.contains("no pod mounts a volume of this cut"), "{error}");
}

#[test]
fn overlapping_selectors_never_do_the_same_twice_in_one_pod() {
    let mut second = step("again", "app in (db,web)");
    second.after = Some(command(&["unlock"]));
    let mut third = step("third", "app=db");
    third.before = Some(command(&["other"]));
    let twice = rule(vec![step("flush", "app=db"), second, third, step("last", "app=db")]);
    let plan = plan(Some(&twice), &ring(), &volumes(&["v1"])).unwrap();
    let again = &plan.steps[1];
    let flushed: Vec<_> = again.doing(Action::Before).map(Target::name).collect();
    assert_eq!(flushed, ["shop/web-1"], "the databases are flushed by the first step");
    assert_eq!(again.doing(Action::After).count(), 4, "the undo of the step is its own");
    assert_eq!(plan.steps[2].doing(Action::Before).count(), 3, "another command is another action");
    assert!(plan.steps[3].targets.is_empty());
    assert!(plan.steps[3].left_out[0].why.contains("step `flush` does the same"));
}

#[test]
fn the_same_command_in_another_container_is_not_the_same() {
    let mut other = step("side", "app=db");
    other.pods.container = Some("side".into());
    let mut pods = ring();
    for pod in &mut pods {
        pod.containers.sidecars = vec!["side".into()];
    }
    let plan = plan(Some(&rule(vec![step("flush", "app=db"), other])), &pods, &volumes(&["v1"])).unwrap();
    assert_eq!(plan.steps[1].doing(Action::Before).count(), 3);
}

fn asking(pick: Pick) -> Plan {
    let mut asking = step("flush", "app=db");
    asking.pods.pick = pick;
    asking.pods.where_ = Some(command(&["is-leader"]));
    plan(Some(&rule(vec![asking, step("later", "app=db")])), &ring(), &volumes(&["v1"])).unwrap()
}

#[test]
fn answers_narrow_the_candidates() {
    let second = |_: usize, target: &Target| target.at.pod == "db-2";
    for pick in [Pick::All, Pick::One, Pick::Leader] {
        let open = asking(pick);
        assert!(open.has_questions());
        assert_eq!(open.steps[0].targets.len(), 3);
        assert_eq!(open.steps[1].targets.len(), 3, "nothing is decided before the answers");
        let plan = open.answered(second).unwrap();
        assert_eq!(target_names(&plan.steps[0]), ["shop/db-2"]);
        assert_eq!(target_names(&plan.steps[1]), ["shop/db-1", "shop/db-3"], "db-2 is flushed already");
        assert!(!plan.has_questions());
    }
    let plan = asking(Pick::One).answered(|_, _| true).unwrap();
    assert_eq!(target_names(&plan.steps[0]), ["shop/db-1"]);
    let error = asking(Pick::Leader).answered(|_, _| true).unwrap_err().to_string();
    assert!(error.contains("3 of 3 pods answered yes to `where`, exactly one leader"), "{error}");
    for pick in [Pick::All, Pick::One, Pick::Leader] {
        assert!(matches!(asking(pick).answered(|_, _| false), Err(PlanError::Undecided { yes: 0, .. })));
    }
}

#[test]
fn without_a_rule_only_the_cut_is_planned_and_without_volumes_nothing() {
    let plan = plan(None, &[], &volumes(&["v1"])).unwrap();
    assert!(plan.steps.is_empty() && plan.rule.is_none());
    assert_eq!(super::plan(None, &[], &[]), Err(PlanError::NoVolumes));
}

#[test]
fn a_plan_reads_like_a_list_of_what_will_happen() {
    let mut first = step("flush", "app=db");
    first.before =
        Some(Command { timeout: Some("2m".parse::<Length>().unwrap()), ..command(&["nodetool", "flush"]) });
    let mut lock = step("lock", "app=web");
    lock.before = Some(command(&["sh", "-c", "it's locked"]));
    lock.after = Some(command(&["unlock"]));
    let mut pods = ring();
    pods[2].state = PodState::Finished;
    let plan = plan(Some(&rule(vec![first, lock])), &pods, &volumes(&["v1", "v2"])).unwrap();
    let text = plan.to_string();
    let expected = "\
rule rule
step 1 flush: before, in 2 pods: nodetool flush (at most 120000 ms)
    shop/db-1  container main (the only one)  host host-1
    shop/db-2  container main (the only one)  host host-2
    left out: shop/db-3: it has finished and is never selected
step 2 lock: before, in 1 pod: sh -c 'it'\\''s locked' (at most 120000 ms)
    shop/web-1  container main (the only one)  host host-1
cut: 2 volumes on 2 hosts
  host host-1: name-v1
  host host-2: name-v2
step 2 lock: after, in 1 pod: unlock (at most 120000 ms)
    shop/web-1  container main (the only one)  host host-1
note: step `lock`: shop/web-1 mounts no volume of this cut
";
    assert_eq!(text, expected);
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
}
