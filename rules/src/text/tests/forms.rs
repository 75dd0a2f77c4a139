//! The forms of others: short, Stork's, Velero's.

use super::*;

#[test]
fn every_reasonable_spelling_of_the_short_form_means_the_same() {
    let spellings = [
        "kind: Rule\nname: cassandra-presnap-rule\npodSelector: {app: cassandra}\ntype: command\nvalue: nodetool flush\n",
        "kind: Rule\nmetadata:\n  name: cassandra-presnap-rule\npodSelector:\n  app: cassandra\ntype: command\nvalue: nodetool flush\n",
        "kind: Rule\nname: cassandra-presnap-rule\nspec:\n  podSelector: {app: cassandra}\n  type: command\n  value: nodetool flush\n",
        "kind: Rule\nname: cassandra-presnap-rule\nspec:\n- podSelector: {app: cassandra}\n  type: command\n  value: nodetool flush\n",
        "kind: Rule\nname: cassandra-presnap-rule\nspec:\n- podSelector:\n    app: cassandra\n  actions:\n  - type: command\n    value: nodetool flush\n",
        "kind: Rule\nname: cassandra-presnap-rule\nrules:\n- podSelector: {app: cassandra}\n  actions: {type: command, value: nodetool flush}\n",
        "kind: Rule\nmetadata: {name: cassandra-presnap-rule}\nspec: {rules: [{podSelector: {app: cassandra}, actions: [{type: command, value: nodetool flush}]}]}\n",
        "kind: Rule\nname: cassandra-presnap-rule\npodSelector: {matchLabels: {app: cassandra}}\nactions: [{value: nodetool flush}]\n",
        "apiVersion: stork.libopenstorage.org/v1alpha1\nkind: Rule\nmetadata: {name: cassandra-presnap-rule}\nrules:\n- podSelector: {app: cassandra}\n  actions:\n  - type: command\n    value: nodetool flush\n",
    ];
    let first = parse(spellings[0]).unwrap();
    let step = one_step(&first);
    assert_eq!(first.metadata.name, "cassandra-presnap-rule");
    assert_eq!(step.name, "cassandra");
    assert_eq!(
        step.before.as_ref().unwrap().invocation().unwrap(),
        &Invocation::Shell("nodetool flush".to_owned())
    );
    assert_eq!(step.pods.selector.as_ref().unwrap().match_labels["app"], "cassandra");
    for text in spellings {
        assert_eq!(parse(text).unwrap(), first, "{text}");
    }
}

#[test]
fn a_rule_of_an_older_form_can_be_meant_for_after_the_cut() {
    let text = "kind: Rule\nname: r\npodSelector: {app: a}\nvalue: unlock\n";
    let rule = parse_as(text, Role::After).unwrap();
    assert!(one_step(&rule).before.is_none() && one_step(&rule).after.is_some());
}

#[test]
fn storks_actions_become_steps_in_their_order() {
    let text = r"
apiVersion: stork.libopenstorage.org/v1alpha1
kind: Rule
metadata: {name: r}
rules:
- podSelector: {app: db}
  container: main
  actions:
  - {type: command, value: first}
  - {type: command, value: second, runInSinglePod: true}
- podSelector: {app: db}
  actions: [{type: command, value: third, background: false}]
";
    let rule = parse(text).unwrap();
    let names: Vec<_> = rule.spec.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["db", "db-2", "db-3"]);
    assert_eq!(rule.spec.steps[1].pods.pick, Pick::One);
    assert_eq!(rule.spec.steps[0].pods.container.as_deref(), Some("main"));
}

#[test]
fn storks_background_actions_become_sessions() {
    let stork = |action: &str| {
        format!(
            "apiVersion: stork.libopenstorage.org/v1alpha1\nkind: Rule\nmetadata: {{name: r}}\nrules:\n- podSelector: {{app: db}}\n  actions:\n  - {{type: command, {action}}}\n"
        )
    };
    let mysql = "background: true, value: 'mysql -e \"flush tables with read lock; system ${WAIT_CMD};\"'";
    let converted = convert(&stork(mysql)).unwrap();
    let hold = converted.rule.spec.steps[0].hold.as_ref().unwrap();
    let line = "mysql -e \"flush tables with read lock; system cat;\"";
    assert_eq!(hold.run, Invocation::Shell(line.into()));
    assert_eq!(hold.send, [hold.ready.as_str()], "`cat` answers it when the lock is held");
    assert!(converted.rule.spec.steps[0].before.is_none() && converted.notes[0].contains("rule lint"));
    assert_eq!(parse(&to_yaml(&converted.rule).unwrap()).unwrap(), converted.rule);
    let error = shown(&stork("background: true, value: lock"));
    assert!(error.contains("rules[0].actions[0].value") && error.contains("write it as `hold`"), "{error}");
}

const VELERO: &str = "
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: pg, namespace: shop}
spec:
  selector: {matchLabels: {app: pg}}
  template:
    metadata:
      labels: {app: pg}
      annotations:
        pre.hook.backup.velero.io/command: '[\"psql\", \"-c\", \"CHECKPOINT\"]'
        pre.hook.backup.velero.io/container: pg
        pre.hook.backup.velero.io/on-error: Continue
        pre.hook.backup.velero.io/timeout: 1m30s
        post.hook.backup.velero.io/command: /done.sh
        post.hook.backup.velero.io/container: pg
    spec: {containers: []}
";

#[test]
fn veleros_annotations_become_a_rule() {
    let rule = convert(VELERO).unwrap().rule;
    let step = &rule.spec.steps[0];
    assert_eq!((rule.metadata.name.as_str(), rule.metadata.namespace.as_deref()), ("pg", Some("shop")));
    assert_eq!(step.before.as_ref().unwrap().invocation().unwrap().argv(), ["psql", "-c", "CHECKPOINT"]);
    assert_eq!(step.before.as_ref().unwrap().timeout.unwrap().to_string(), "90s");
    assert_eq!(step.after.as_ref().unwrap().invocation().unwrap().argv(), ["/done.sh"]);
    assert_eq!((step.on_failure, step.pods.container.as_deref()), (OnFailure::Degrade, Some("pg")));
    let apart = convert(&VELERO.replace("post.hook.backup.velero.io/container: pg", "x: y")).unwrap().rule;
    let names: Vec<&str> = apart.spec.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["post-hook", "pre-hook"]);
}

#[test]
fn a_pods_own_labels_select_its_siblings_too() {
    let pod = "kind: Pod\nmetadata:\n  name: pg-0\n  labels: {app: pg, controller-revision-hash: x, statefulset.kubernetes.io/pod-name: pg-0}\n  annotations: {pre.hook.backup.velero.io/command: /flush}\n";
    let rule = convert(pod).unwrap().rule;
    let selector = rule.spec.steps[0].pods.selector.clone().unwrap();
    assert_eq!(selector.match_labels.into_iter().collect::<Vec<_>>(), [("app".into(), "pg".into())]);
}

#[test]
fn hooks_that_would_not_do_what_they_seem_to_are_refused_or_left_out() {
    let table = [
        (
            VELERO.replace("'[\"psql\", \"-c\", \"CHECKPOINT\"]'", "psql -c CHECKPOINT"),
            "one program with spaces",
        ),
        (VELERO.replace("io/timeout", "io/timeuot"), "did you mean `timeout`?"),
        (VELERO.replace("1m30s", "forever"), "not a length of time"),
        (VELERO.replace("pre.hook.backup.velero.io/command", "x"), "without a command"),
        (VELERO.replace("Continue", "Ignore"), "`Fail` and `Continue`"),
        (VELERO.replace("psql", "fsfreeze").replace("/done.sh", "fsfreeze"), "no rule is needed"),
    ];
    for (text, words) in table {
        let error = convert(&text).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let half = convert(&VELERO.replace("psql", "fsfreeze")).unwrap();
    assert!(half.rule.spec.steps[0].before.is_none() && half.notes[0].contains("fsfreeze is left out"));
}
