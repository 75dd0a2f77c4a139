mod actions;
mod forms;
mod made;
mod refused;

use super::*;
use crate::api::{Deed, Hold, Invocation, Method, OnFailure, Pick, Step};

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
