mod actions;

use proptest::prelude::*;

use super::*;
use crate::api::{
    Check, Command, Deed, EnvEntry, Expression, Hold, HttpCall, Invocation, LabelSelector, Method, OnFailure,
    OnLost, Operator, Pick, PodSet, Probe, Retry, SecretRef, Step, Tls, Wait,
};

const CANONICAL: &str = r#"
apiVersion: stillpoint.dev/v1alpha1
kind: Rule
metadata: {name: shop-db, namespace: shop}
spec:
  steps:
  - name: flush-ring
    pods: {selector: {matchLabels: {app: cassandra}}, container: cassandra, min: 3}
    before: {command: [nodetool, flush], timeout: 2m}
  - name: lock-orders
    pods: {selector: {matchLabels: {app: mariadb}}, pick: one, where: {command: [is-primary.sh]}}
    hold:
      command: [mariadb, --batch]
      send: ["SET SESSION wait_timeout=10;", "SELECT 'held';"]
      ready: held
      probe: {send: "SELECT 'held';", expect: held}
      finish: ["BACKUP STAGE END;"]
      limit: 5s
    after: {command: [log-backup-done.sh], timeout: 10s}
"#;

fn shown(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

fn one_step(rule: &Rule) -> &Step {
    assert_eq!(rule.spec.steps.len(), 1);
    &rule.spec.steps[0]
}

#[test]
fn the_canonical_form_is_read_whole() {
    let rule = parse(CANONICAL).unwrap();
    assert_eq!(rule.metadata.namespace.as_deref(), Some("shop"));
    let [flush, lock] = rule.spec.steps.as_slice() else { panic!("two steps") };
    assert_eq!(flush.pods.min, Some(3));
    assert_eq!(flush.before.as_ref().unwrap().invocation().unwrap().argv(), ["nodetool", "flush"]);
    assert_eq!(flush.before.as_ref().unwrap().timeout.unwrap().to_string(), "2m");
    assert_eq!(lock.pods.pick, Pick::One);
    assert_eq!(lock.hold.as_ref().unwrap().probe.as_ref().unwrap().expect, "held");
    assert_eq!(detect(CANONICAL).unwrap(), Form::Canonical);
}

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

/// What is written, and what its error must contain.
const BAD: &[(&str, &[&str])] = &[
    ("", &["the text is empty"]),
    ("# nothing\n", &["the text is empty"]),
    ("null", &["the text is empty"]),
    ("42", &["a rule is a mapping, this is a number"]),
    ("- a\n- b\n", &["a rule is a mapping, this is a list"]),
    ("kind: Pod\nname: x\n", &["line 1, column 7: kind", "not Rule"]),
    ("knd: Rule\n", &["did you mean `kind` where you wrote `knd`?"]),
    ("kind: Rule\napiVersion: v1\n", &["line 2", "`apiVersion` \"v1\" is unknown"]),
    ("kind: Rule\nspec: {steps: []}\n", &["`apiVersion` is missing", "stillpoint.dev/v1alpha1"]),
    ("kind: Rule\nname: x\n---\nkind: Rule\n", &["several documents", "split the file"]),
    ("kind: Rule\nkind: Rule\n", &["line 2, column 1", "`kind` is given twice"]),
    ("kind: Rule\nname: x\npodSelector: {app: a, app: b}\n", &["line 3, column 23", "`app` is given twice"]),
    ("kind: Rule\n\tname: x\n", &["line 2", "not well-formed"]),
    ("kind: Rule\nname: 'x\n", &["not well-formed"]),
    ("kind: !secret Rule\nname: x\npodSelector: {a: b}\nvalue: x\n", &["not well-formed|remove tags"]),
    ("kind: Rule\n1: x\n", &["quote keys"]),
    ("kind: Rule\nname: x\npodSelector: {}\nvalue: x\n", &["line 3", "podSelector: an empty podSelector"]),
    ("kind: Rule\nname: x\nvalue: x\n", &["`podSelector` is missing"]),
    ("kind: Rule\nname: x\npodSelector: {a: b}\n", &["`value` is missing"]),
    (
        "kind: Rule\nname: x\npodselector: {a: b}\nvalue: x\n",
        &["line 3, column 1: podselector: unknown field", "did you mean `podSelector`?"],
    ),
    (
        "kind: Rule\nname: x\npodSelector: {a: b}\ntype: script\nvalue: x\n",
        &["line 4", "type: `script` is unknown", "`command`"],
    ),
    ("kind: Rule\nname: x\npodSelector: {a: b}\nvalue: ''\n", &["line 4", "value: the program is empty"]),
    (
        "kind: Rule\nname: X_y\npodSelector: {a: b}\nvalue: x\n",
        &["line 2, column 7: name: `X_y` is not a valid name"],
    ),
    ("kind: Rule\nname: ../../etc\npodSelector: {a: b}\nvalue: x\n", &["`../../etc` is not a valid name"]),
    ("kind: Rule\nname: x\npodSelector: {a: b}\nvalue: [x]\n", &["value: this is a list; text is expected"]),
    (
        "kind: Rule\nname: x\npodSelector: {a: 1}\nvalue: x\n",
        &["podSelector.a: this is a number", "put it in quotes: \"1\""],
    ),
    ("kind: Rule\nname: x\npodSelector: {'-a': b}\nvalue: x\n", &["`-a` cannot be the name of a label"]),
    ("kind: Rule\nname: x\nmetadata: {name: y}\npodSelector: {a: b}\nvalue: x\n", &["a second name"]),
    ("kind: Rule\nname: x\nspec: []\npodSelector: {a: b}\nvalue: x\n", &["a second body"]),
    ("kind: Rule\nname: x\nspec: []\n", &["0 actions"]),
];

#[test]
fn what_is_wrong_is_said_with_place_reason_and_fix() {
    for (text, expected) in BAD {
        let error = shown(text);
        for words in *expected {
            assert!(
                words.split('|').any(|either| error.contains(either)),
                "{text}\n-> {error}\nlacks {words}"
            );
        }
    }
}

/// A change to one line of a good step, and what its error must contain.
const BAD_STEPS: &[(&str, &[&str])] = &[
    (
        "pods: {selector: {matchLabels: {a: b}}}\n    befor: {command: [x]}",
        &["line 8, column 5: spec.steps[0].befor: unknown field", "did you mean `before`?"],
    ),
    ("pods: {selector: {matchLabels: {a: b}}}", &["the step does nothing"]),
    ("pods: {}\n    before: {command: [x]}", &["no pods are named"]),
    (
        "pods: {selector: {}}\n    before: {command: [x]}",
        &["line 7, column 22: spec.steps[0].pods.selector: an empty selector"],
    ),
    ("pods: {selector: {matchLabel: {a: b}}}\n    before: {command: [x]}", &["did you mean `matchLabels`?"]),
    (
        "pods: {selector: {matchExpressions: [{key: a, operator: in, values: [b]}]}}\n    before: {command: [x]}",
        &["`in` is unknown", "did you mean `In`?"],
    ),
    (
        "pods: {selector: {matchExpressions: [{key: a, operator: In}]}}\n    before: {command: [x]}",
        &["needs at least one value"],
    ),
    (
        "pods: {selector: {matchExpressions: [{key: a, operator: Exists, values: [x]}]}}\n    before: {command: [x]}",
        &["takes no values"],
    ),
    (
        "pods: {fromVolumes: yes please}\n    before: {command: [x]}",
        &["fromVolumes: this is text; true or false is expected"],
    ),
    ("pods: {fromVolumes: true, min: 0}\n    before: {command: [x]}", &["min: 0 is out of bounds"]),
    ("pods: {fromVolumes: true, parallel: 0}\n    before: {command: [x]}", &["parallel: 0 is out of bounds"]),
    (
        "pods: {fromVolumes: true, parallel: 5000}\n    before: {command: [x]}",
        &["parallel: 5000 is out of bounds"],
    ),
    ("pods: {fromVolumes: true, min: -1}\n    before: {command: [x]}", &["min: -1 is out of bounds"]),
    (
        "pods: {fromVolumes: true, pick: leader}\n    before: {command: [x]}",
        &["`pick: leader` without `where`"],
    ),
    ("pods: {fromVolumes: true, pick: al}\n    before: {command: [x]}", &["did you mean `all`?"]),
    ("pods: {fromVolumes: true}\n    before: {command: [x], shell: x}", &["both `command` and `shell`"]),
    ("pods: {fromVolumes: true}\n    before: {timeout: 5s}", &["nothing to do"]),
    ("pods: {fromVolumes: true}\n    before: {command: []}", &["the program is empty"]),
    (
        "pods: {fromVolumes: true}\n    before: {command: nodetool flush}",
        &["command: this is text; a list is expected"],
    ),
    ("pods: {fromVolumes: true}\n    before: {command: [x, \"a\\0b\"]}", &["a NUL character"]),
    (
        "pods: {fromVolumes: true}\n    before: {command: [x], timeout: 10}",
        &["line 8, column 37: spec.steps[0].before.timeout", "`10` has no unit", "write it as `10s`"],
    ),
    ("pods: {fromVolumes: true}\n    before: {command: [x], timeout: -5s}", &["is not a length of time"]),
    ("pods: {fromVolumes: true}\n    before: {command: [x], timeout: 2h}", &["not between 10ms and 1h"]),
    ("pods: {fromVolumes: true}\n    before:", &["`before` is empty"]),
    ("pods: {fromVolumes: true}\n    hold: {command: [x]}", &["`ready` is missing", "a hold needs it"]),
    ("pods: {fromVolumes: true}\n    hold: {command: [x], ready: ''}", &["every output would count"]),
    (
        "pods: {fromVolumes: true}\n    hold: {command: [x], ready: y, limit: 1h}",
        &["hold.limit", "not between 10ms and 1m"],
    ),
    (
        "pods: {fromVolumes: true}\n    hold: {command: [x], ready: y, send: [\"a\\nb\"]}",
        &["has a line break"],
    ),
    (
        "pods: {fromVolumes: true}\n    before: {command: [x], outputLimit: 99999999}",
        &["outputLimit: 99999999 is out of bounds"],
    ),
    (
        "pods: {fromVolumes: true}\n    before: {command: [x]}\n    onFailure: retry",
        &["`retry` is unknown", "`abort`, `degrade` and `ignore`"],
    ),
];

fn with_step(body: &str) -> String {
    format!(
        "apiVersion: {API_VERSION}\nkind: Rule\nmetadata: {{name: r}}\nspec:\n  steps:\n  - name: s\n    {body}\n"
    )
}

#[test]
fn every_mistake_in_a_step_is_named_by_its_path() {
    parse(&with_step("pods: {fromVolumes: true}\n    before: {command: [x]}")).unwrap();
    for (body, expected) in BAD_STEPS {
        let error = shown(&with_step(body));
        for words in *expected {
            assert!(error.contains(words), "{body}\n-> {error}\nlacks {words}");
        }
    }
}

#[test]
fn all_mistakes_are_said_at_once() {
    let error =
        parse(&with_step("pods: {slector: {}, fromVolumes: true}\n    befor: {}\n    after: {comand: [x]}"))
            .unwrap_err();
    let fields: Vec<_> = error.problems.iter().map(|problem| problem.field.as_str()).collect();
    assert!(fields.contains(&"spec.steps[0].pods.slector"), "{fields:?}");
    assert!(fields.contains(&"spec.steps[0].befor"), "{fields:?}");
    assert!(fields.contains(&"spec.steps[0].after.comand"), "{fields:?}");
}

#[test]
fn two_steps_of_one_name_are_refused() {
    let text = with_step(
        "pods: {fromVolumes: true}\n    before: {command: [x]}\n  - name: s\n    pods: {fromVolumes: true}\n    before: {command: [x]}",
    );
    assert!(shown(&text).contains("spec.steps[1]: a second step named `s`"), "{}", shown(&text));
}

#[test]
fn garbage_of_any_size_is_refused_without_being_read() {
    let error = shown(&"x".repeat(10 * 1024 * 1024));
    assert!(error.contains("more than 256 KiB"), "{error}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![0xff; 10 * 1024 * 1024]).unwrap();
    let error = parse_file(file.path(), Role::Before).unwrap_err().to_string();
    assert!(error.contains("more than 256 KiB"), "{error}");
    let error = parse_file(std::path::Path::new("/dev/zero"), Role::Before).unwrap_err().to_string();
    assert!(error.contains("more than 256 KiB"), "{error}");
    let error = parse_file(std::path::Path::new("/nowhere"), Role::Before).unwrap_err().to_string();
    assert!(error.starts_with("/nowhere: cannot be read"), "{error}");
}

/// Each of these would take minutes or all memory if it were taken at its word; the test's own time limit is the
/// check.
#[test]
fn hostile_shapes_are_refused_soon() {
    let bomb = (0..30)
        .map(|level| {
            let earlier = if level == 0 { "x".to_owned() } else { format!("*a{}", level - 1) };
            format!("a{level}: &a{level} [{}]", vec![earlier; 9].join(","))
        })
        .collect::<Vec<_>>()
        .join("\n");
    let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), vec!["*a"; 20_000].join(","));
    let flow = "[".repeat(250_000);
    let spaced = "[ ".repeat(120_000);
    let lines = "[\n".repeat(120_000);
    let maps = "{a: ".repeat(60_000);
    let dashes = "- ".repeat(120_000);
    let questions = "? ".repeat(120_000);
    let lines_in: Vec<String> = (0..700).map(|depth| format!("{}a:", " ".repeat(depth))).collect();
    let tabs = lines_in.join("\n");
    let quoted = "{a: ']', b: ".repeat(20_000);
    let unknown: Vec<String> = (0..15_000).map(|n| format!("k{n}: x")).collect();
    let unknown = format!("kind: Rule\n{}", unknown.join("\n"));
    for text in [quoted, unknown, bomb, long, flow, spaced, lines, maps, dashes, questions, tabs] {
        let error = shown(&text);
        assert!(!error.is_empty() && error.len() < 4000, "{}", error.len());
    }
}

#[test]
fn hostile_keys_do_not_reach_the_terminal() {
    let error = shown(&format!(
        "kind: Rule\nname: x\npodSelector: {{a: b}}\nvalue: x\n\"\\e[31m{}\": 1\n",
        "y".repeat(5000)
    ));
    assert!(!error.contains('\u{1b}') && error.len() < 1500, "{error}");
}

#[test]
fn the_library_and_the_examples_are_readable() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let mut count = 0;
    for entry in std::fs::read_dir(root.join("rules-library")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|kind| kind == "md") {
            continue;
        }
        let rule = parse_file(&path, Role::Before).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(Some(rule.metadata.name.as_str()), path.file_stem().unwrap().to_str());
        count += 1;
    }
    assert!(count >= 2);
    let article = parse_file(&root.join("examples/article-rule.yaml"), Role::Before).unwrap();
    assert_eq!(article.metadata.name, "cassandra-presnap-rule");
    assert_eq!(
        one_step(&article).before.as_ref().unwrap().invocation().unwrap().argv(),
        ["/bin/sh", "-c", "nodetool flush"]
    );
}

fn words() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{1,20}",
        "\\PC{1,12}",
        Just("true".to_owned()),
        Just("0x1F".to_owned()),
        Just("- a: b".to_owned())
    ]
    .prop_filter("a program is not blank", |text| !text.trim().is_empty())
}

fn length() -> impl Strategy<Value = Option<crate::api::Length>> {
    prop::option::of((10_u64..60_000).prop_map(|ms| format!("{ms}ms").parse().unwrap()))
}

fn command() -> impl Strategy<Value = Command> {
    let run = prop_oneof![
        prop::collection::vec(words(), 1..4).prop_map(Invocation::Argv),
        words().prop_map(Invocation::Shell)
    ];
    let call = (1_u16.., "/[a-z]{0,5}", prop::option::of(100_u16..600), prop::option::of(words()), entries())
        .prop_map(|(port, path, status, body, headers)| HttpCall {
            method: Method::Post,
            port,
            path,
            status,
            headers,
            body,
            tls: status.map(|_| Tls {
                ca: SecretRef { name: "ca".into(), key: "ca.crt".into() },
                server_name: None,
            }),
        })
        .boxed();
    let check = prop_oneof![run.clone().prop_map(Check::Run), call.clone().prop_map(Check::Http)];
    let deed = prop_oneof![
        run.prop_map(Deed::Run),
        call.prop_map(Deed::Http),
        (check, length()).prop_map(|(until, every)| Deed::Wait(Wait { until, every })),
    ];
    let retry = (1_u32..10, length()).prop_map(|(times, pause)| Retry { times, pause });
    (
        deed,
        entries(),
        length(),
        prop::option::of(0_u32..1000),
        prop::option::of(retry),
        prop::option::of(any::<bool>()),
    )
        .prop_map(|(run, env, timeout, output_limit, retry, idempotent)| {
            let mut command = Command { run, env, timeout, output_limit, retry, idempotent };
            if command.invocation().is_none() {
                command.env.clear();
            }
            command
        })
}

fn entries() -> impl Strategy<Value = Vec<EnvEntry>> {
    let entry = prop_oneof![
        words().prop_map(|value| (Some(value.replace(['\n', '\r'], " ")), None)),
        Just((None, Some(SecretRef { name: "db".into(), key: "password".into() }))),
    ];
    prop::collection::vec(entry, 0..3).prop_map(|entries| {
        let named = |(index, (value, secret))| EnvEntry { name: format!("V{index}"), value, secret };
        entries.into_iter().enumerate().map(named).collect()
    })
}

fn expressions() -> impl Strategy<Value = Vec<Expression>> {
    let one = (
        "[a-z]{1,5}",
        prop::sample::select(vec![Operator::In, Operator::NotIn, Operator::Exists]),
        "[a-z]{1,5}",
    );
    prop::collection::vec(
        one.prop_map(|(key, operator, value)| {
            let values = if operator == Operator::Exists { vec![] } else { vec![value] };
            Expression { key, operator, values }
        }),
        0..2,
    )
}

fn pod_set() -> impl Strategy<Value = PodSet> {
    let selector = (prop::collection::btree_map("[a-z]{1,5}", "[a-z0-9]{0,5}", 1..3), expressions())
        .prop_map(|(match_labels, match_expressions)| LabelSelector { match_labels, match_expressions });
    (
        prop::option::of(selector),
        any::<bool>(),
        prop::option::of("[a-z]{1,5}"),
        prop::option::of(1_u32..9),
        command(),
    )
        .prop_map(|(selector, leader, container, min, where_)| PodSet {
            from_volumes: selector.is_none(),
            selector,
            container,
            min,
            parallel: min,
            pick: if leader { Pick::Leader } else { Pick::All },
            where_: leader.then_some(where_),
        })
}

fn hold() -> impl Strategy<Value = Hold> {
    (command(), prop::collection::vec(words(), 0..3), words(), prop::option::of((words(), words())), length())
        .prop_map(|(command, lines, ready, probe, limit)| Hold {
            run: command.invocation().cloned().unwrap_or_else(|| Invocation::Shell("x".into())),
            env: command.env,
            send: lines.clone(),
            ready,
            probe: probe.map(|(send, expect)| Probe { send, expect }),
            finish: lines,
            limit,
            heartbeat: limit,
            on_lost: if limit.is_some() { OnLost::Degrade } else { OnLost::Abort },
        })
}

fn rules() -> impl Strategy<Value = Rule> {
    let step = (
        pod_set(),
        command(),
        prop::option::of(hold()),
        prop::option::of(command()),
        prop::sample::select(vec![OnFailure::Abort, OnFailure::Degrade, OnFailure::Ignore]),
    );
    (prop::collection::vec(step, 1..4), prop::option::of("[a-z]{1,9}")).prop_map(|(steps, namespace)| {
        let steps = steps
            .into_iter()
            .enumerate()
            .map(|(index, (pods, before, hold, after, on_failure))| Step {
                name: format!("s{index}"),
                pods,
                before: Some(before),
                hold,
                after,
                on_failure,
            })
            .collect();
        Rule {
            metadata: Metadata { name: "r.x-1".to_owned(), namespace },
            spec: RuleSpec { params: vec![], redact: vec!["a+b".into()], steps },
        }
    })
}

proptest! {
    #[test]
    fn a_rule_that_is_written_is_read_back_as_it_was(rule in rules()) {
        let text = to_yaml(&rule).unwrap();
        prop_assert_eq!(parse(&text).map_err(|error| format!("{error}\n{text}")), Ok(rule.clone()));
        // The derived reader, which records and other adapters use, agrees.
        let json = serde_json::to_value(&rule).unwrap();
        prop_assert_eq!(serde_json::from_value::<Rule>(json).unwrap(), rule);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn pieces_of_yaml_never_panic(pieces in prop::collection::vec(prop::sample::select(vec![
        "kind: Rule", "name: x", "\n", "  ", "- ", "podSelector:", "{", "}", "[", "]", "&a ", "*a", "!!t ", "---\n",
        "value: x", "spec:", "steps:", "'", "\"", "|\n", ": ", "? ", "apiVersion: stillpoint.dev/v1alpha1", "\u{feff}", "\t", "#",
        "rules:", "actions:", "~",
    ]), 0..30)) {
        let _ = parse(&pieces.concat());
    }

    #[test]
    fn a_good_rule_with_a_byte_changed_never_panics(at in 0_usize..900, byte in any::<u8>()) {
        let mut bytes = CANONICAL.as_bytes().to_vec();
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = parse(&String::from_utf8_lossy(&bytes));
    }
}
