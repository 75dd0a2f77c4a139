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
    let converted = convert(&stork(mysql), None).unwrap();
    let hold = converted.rule.spec.steps[0].hold.as_ref().unwrap();
    let line = "mysql -e \"flush tables with read lock; system cat;\"";
    assert_eq!(hold.run, Invocation::Shell(line.into()));
    assert_eq!(hold.send, [hold.ready.as_str()], "`cat` answers it when the lock is held");
    assert!(converted.rule.spec.steps[0].before.is_none() && noted(&converted, "rule lint"));
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
    let rule = convert(VELERO, None).unwrap().rule;
    let step = &rule.spec.steps[0];
    assert_eq!((rule.metadata.name.as_str(), rule.metadata.namespace.as_deref()), ("pg", Some("shop")));
    assert_eq!(step.before.as_ref().unwrap().invocation().unwrap().argv(), ["psql", "-c", "CHECKPOINT"]);
    assert_eq!(step.before.as_ref().unwrap().timeout.unwrap().to_string(), "90s");
    assert_eq!(step.after.as_ref().unwrap().invocation().unwrap().argv(), ["/done.sh"]);
    assert_eq!((step.on_failure, step.pods.container.as_deref()), (OnFailure::Degrade, Some("pg")));
    let apart =
        convert(&VELERO.replace("post.hook.backup.velero.io/container: pg", "x: y"), None).unwrap().rule;
    let names: Vec<&str> = apart.spec.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["post-hook", "pre-hook"]);
}

#[test]
fn a_pods_own_labels_select_its_siblings_too() {
    let pod = "kind: Pod\nmetadata:\n  name: pg-0\n  labels: {app: pg, controller-revision-hash: x, statefulset.kubernetes.io/pod-name: pg-0}\n  annotations: {pre.hook.backup.velero.io/command: /flush}\n";
    let rule = convert(pod, None).unwrap().rule;
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
        let error = convert(&text, None).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let half = convert(&VELERO.replace("psql", "fsfreeze"), None).unwrap();
    assert!(half.rule.spec.steps[0].before.is_none() && noted(&half, "fsfreeze is left out"));
}

fn noted(converted: &Converted, words: &str) -> bool {
    converted.notes.iter().any(|note| note.contains(words))
}

fn stork(name: &str, actions: &[&str]) -> String {
    let actions = actions
        .iter()
        .map(|action| format!("  - {{type: command, {action}}}\n"))
        .collect::<Vec<_>>()
        .concat();
    format!(
        "apiVersion: stork.libopenstorage.org/v1alpha1\nkind: Rule\nmetadata: {{name: {name}}}\nrules:\n- podSelector: {{app: db}}\n  actions:\n{actions}"
    )
}

#[test]
fn storks_post_rules_run_after_the_snapshot_in_their_order() {
    let text = stork("mysql-postsnap-rule", &["value: first", "value: second"]);
    let by_name = convert(&text, None).unwrap();
    assert!(noted(&by_name, "runs after the snapshot, by its name"), "{:?}", by_name.notes);
    let text = stork("r", &["value: first", "value: second"]);
    for rule in [by_name.rule, convert(&text, Some(Role::After)).unwrap().rule] {
        let lines: Vec<String> = rule
            .spec
            .steps
            .iter()
            .map(|step| step.after.as_ref().unwrap().invocation().unwrap().argv()[2].clone())
            .collect();
        assert_eq!(lines, ["second", "first"], "what comes after is done from the last step to the first");
        assert!(rule.spec.steps.iter().all(|step| step.before.is_none()));
    }
    let untold = convert(&text, None).unwrap();
    assert!(untold.rule.spec.steps[0].before.is_some() && noted(&untold, "`--role post`"));
    let direct = shown(&stork("mysql-post-rule", &["value: x"]));
    assert!(direct.contains("runs after the snapshot") && direct.contains("rule convert"), "{direct}");
    for name in ["postgres-rule", "postgresql-presnap", "my-postgres", "composter", "cassandra-presnap-rule"]
    {
        assert!(parse(&stork(name, &["value: x"])).is_ok(), "{name}");
    }
}

#[test]
fn a_waiting_that_a_session_cannot_reach_is_refused_with_the_reason() {
    let table = [
        ("background: true, value: \"echo 'lock; system ${WAIT_CMD};' | mysql\"", "a pipe takes the place"),
        (
            "background: true, value: \"mysql <<EOF\\nsystem ${WAIT_CMD}\\nEOF\"",
            "a here-document takes the place",
        ),
        ("background: true, value: 'mysql -e \"system ${WAIT_CMD}\" >/dev/null'", "the output is redirected"),
        ("background: true, value: 'a; ${WAIT_CMD}; b; ${WAIT_CMD}'", "more than once"),
        ("value: 'a; ${WAIT_CMD}; b'", "without `background: true`"),
        ("background: false, value: 'a; ${WAIT_CMD}; b'", "without `background: true`"),
    ];
    for (action, words) in table {
        let error = convert(&stork("r", &[action]), None).unwrap_err().to_string();
        assert!(error.contains(words), "{action}: {error}");
    }
    let waiting = stork("r", &["background: true, value: 'a; ${WAIT_CMD}; b'"]);
    let error = convert(&waiting, Some(Role::After)).unwrap_err().to_string();
    assert!(error.contains("in a rule that runs after the snapshot"), "{error}");
}

#[test]
fn nothing_of_another_form_vanishes_without_a_word() {
    let labelled = stork("r", &["value: x"])
        .replace("{name: r}", "{name: r, labels: {team: db}, annotations: {a/b: c}}");
    let converted = convert(&labelled, None).unwrap();
    assert!(
        noted(&converted, "labels are left out") && noted(&converted, "team") && noted(&converted, "a/b")
    );
    let refused = [
        "kind: Rule\nmetadata: {name: r}\nnamespace: shop\npodSelector: {app: a}\nvalue: x\n",
        "kind: Rule\nname: r\ncontainer: db\nrules: [{podSelector: {app: a}, actions: [{value: x}]}]\n",
        "kind: Rule\nname: r\nbackground: true\nspec: [{podSelector: {app: a}, value: x}]\n",
        "kind: Rule\nname: r\npodSelector: {app: a}\nrunInSinglePod: true\nactions: [{value: x}]\n",
    ];
    for text in refused {
        assert!(convert(text, None).is_err(), "{text}");
    }
}

#[test]
fn of_veleros_hooks_each_one_is_translated_named_or_refused() {
    let restore = "        post.hook.restore.velero.io/command: /load.sh\n        init.hook.restore.velero.io/container-image: x\n    spec:";
    let both = convert(&VELERO.replace("    spec:", restore), None).unwrap();
    for key in ["post.hook.restore.velero.io/command", "init.hook.restore.velero.io/container-image"] {
        assert!(noted(&both, key), "{:?}", both.notes);
    }
    let first = VELERO
        .replace("containers: []", "containers: [{name: sidecar}, {name: pg}]")
        .replace("backup.velero.io/container: pg", "x: y");
    let rule = convert(&first.replacen("pre.hook.x", "a", 1).replace("post.hook.x", "b"), None).unwrap().rule;
    assert_eq!(rule.spec.steps[0].pods.container.as_deref(), Some("sidecar"), "as Velero chooses");
    let old = VELERO.replace("pre.hook.backup", "hook.backup");
    assert_eq!(convert(&old, None).unwrap().rule, convert(VELERO, None).unwrap().rule);
    let late = VELERO
        .replace("post.hook.backup.velero.io/container: pg", "post.hook.backup.velero.io/on-error: Continue");
    assert!(noted(&convert(&late, None).unwrap(), "`on-error: Continue` of the post hook"));
    let table = [
        (VELERO.replace("namespace: shop", "namespace: Shop_1"), "is not a valid name"),
        (
            VELERO.replace(
                "metadata: {name: pg, namespace: shop}",
                "metadata: {name: pg, annotations: {pre.hook.backup.velero.io/command: /x}}",
            ),
            "on pods only",
        ),
        (
            VELERO.replace(
                "'[\"psql\", \"-c\", \"CHECKPOINT\"]'",
                "'[\"sh\", \"-c\", \"flush; fsfreeze -f /data\"]'",
            ),
            "take fsfreeze out",
        ),
        (VELERO.replace(".backup.velero.io", ".restore.velero.io"), "the hooks are for restores"),
        (
            VELERO.replace(
                "        post.hook.backup.velero.io/command",
                "        hook.backup.velero.io/command: /x\n        post.hook.backup.velero.io/command",
            ),
            "two spellings",
        ),
    ];
    for (text, words) in table {
        let error = convert(&text, None).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let labels = "kind: Pod\nmetadata:\n  name: pg-0\n  labels: {app: 1}\n  annotations: {pre.hook.backup.velero.io/command: /flush}\n";
    assert!(convert(labels, None).is_err(), "a label that is a number does not vanish");
    let one = labels.replace("{app: 1}", "{app: pg, job-name: x}");
    assert!(noted(&convert(&one, None).unwrap(), "job-name"));
}
