//! Who may do what, asked by the people and accounts themselves.

use stillpoint_tests::cluster::system::NAMESPACE;
use stillpoint_tests::cluster::workspace::Workspace;

use crate::cluster;
use crate::manifests::{READY_TO_USE, allow_exec, claim, pod, rule, snapshot};

const STEP: &str = r#"{name: flush, pods: {selector: {matchLabels: {app: one}}}, before: {command: ["true"]}, after: {command: ["true"]}}"#;

fn error_of(outcome: anyhow::Result<String>) -> String {
    outcome.map_or_else(|error| format!("{error:#}"), |done| panic!("it was allowed: {done}"))
}

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn only_somebody_who_may_exec_writes_a_rule() {
    let space = Workspace::new(&cluster(), "authors").unwrap();
    let role = |name: &str, rules: &str| {
        format!(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{name: {name}}}\nrules:\n{rules}---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {{name: {name}}}\n\
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {name}}}\n\
             subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: author}}]\n---\n"
        )
    };
    let writes = "- {apiGroups: [stillpoint.dev], resources: [rules], verbs: [get, list, create, update, patch, delete]}\n";
    space.apply(&role("writes-rules", writes)).unwrap();
    let as_author = |manifest: &str| space.apply_as("author", manifest);

    let refused = error_of(as_author(&rule("flush", STEP)));
    for word in
        ["a Rule runs commands in pods", "author may not create pods/exec in namespace authors", "grant you"]
    {
        assert!(refused.contains(word), "{word:?} is not in: {refused}");
    }
    space
        .apply(&role("may-exec", "- {apiGroups: [\"\"], resources: [pods/exec], verbs: [create]}\n"))
        .unwrap();
    // The API server's authorizer sees a new binding a moment later.
    space.eventually("the author may exec", || Ok(as_author(&rule("flush", STEP)).is_ok())).unwrap();
    // Without the right again: labels may change, commands may not.
    space.run(&["delete", "rolebinding", "may-exec"]).unwrap();
    let other = STEP.replace("true", "false");
    space
        .eventually("the author may not exec any more", || Ok(as_author(&rule("flush", &other)).is_err()))
        .unwrap();
    space.run(&["--as=author", "label", "rule", "flush", "team=a"]).unwrap();
    space.close().unwrap();
}

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn the_engine_runs_nothing_where_it_was_not_allowed_and_says_which_command_allows_it() {
    let space = Workspace::new(&cluster(), "allowed").unwrap();
    let elsewhere = Workspace::new(&cluster(), "elsewhere").unwrap();
    let labelled = pod("one").replace("metadata: {name: one}", "metadata: {name: one, labels: {app: one}}");
    space.apply(&(claim("one", "") + &labelled + &rule("flush", STEP))).unwrap();
    space.wait("pod/one", "condition=Ready").unwrap();
    let annotated = |name: &str, rule: &str| {
        let annotations = format!("{{name: {name}, annotations: {{stillpoint.dev/rule: {rule}}}}}");
        snapshot(name, "one").replace(&format!("{{name: {name}}}"), &annotations)
    };
    space.apply(&annotated("taken", "flush")).unwrap();
    space.wait("volumesnapshot/taken", "jsonpath={.status.error.message}").unwrap();
    let path = "jsonpath={.status.error.message}";
    let said = space.run(&["get", "volumesnapshot/taken", "-o", path]).unwrap();
    let fix = "kubectl stillpoint allow -n allowed";
    assert!(said.contains("may not run commands in pods in namespace allowed"), "{said}");
    assert!(said.contains(fix), "{said}");
    assert_eq!(space.snapshots().unwrap(), Vec::<String>::new());
    allow_exec(&space).unwrap();
    space.wait("volumesnapshot/taken", READY_TO_USE).unwrap();

    // Pods of another namespace: neither by a selector, which sees only its own namespace, nor by the rule's name.
    elsewhere.apply(&rule("theirs", STEP)).unwrap();
    for name in ["theirs", "elsewhere/theirs"] {
        let snapshot = name.replace('/', "-");
        space.apply(&annotated(&snapshot, name)).unwrap();
        let object = format!("volumesnapshot/{snapshot}");
        space.wait(&object, path).unwrap();
        let said = space.run(&["get", &object, "-o", path]).unwrap();
        let expected = if name == "theirs" { "rule allowed/theirs" } else { "is not the name of a Rule" };
        assert!(said.contains(expected), "{said}");
    }
    let foreign = STEP.replace("pods: {", "pods: {namespace: elsewhere, ");
    let refused = error_of(space.apply(&rule("foreign", &foreign)).map(|()| "applied".to_owned()));
    assert!(refused.contains("namespace"), "{refused}");
    elsewhere.run(&["delete", "rules", "--all"]).unwrap();
    // One after the other: of two unfinished snapshots of a claim that go at once, the snapshot-controller sees the other one
    // in its cache each time, and leaves its finalizer on the claim until its next resync, 15 minutes later.
    for snapshot in ["theirs", "elsewhere-theirs", "taken"] {
        space.run(&["delete", "volumesnapshot", snapshot, "--timeout=120s"]).unwrap();
    }
    space.close().unwrap();
    elsewhere.close().unwrap();
}

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn agent_and_guard_may_do_no_more_than_anybody_who_is_logged_in() {
    let space = Workspace::new(&cluster(), "accounts").unwrap();
    let may = |account: &str| {
        let user = format!("--as=system:serviceaccount:{account}");
        let groups = ["--as-group=system:serviceaccounts", "--as-group=system:authenticated"];
        let asked = [&["-n", NAMESPACE, "auth", "can-i", "--list", &user], &groups[..]].concat();
        let list = space.kubectl.run(&asked).unwrap();
        let mut lines: Vec<String> =
            list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        lines.sort();
        lines
    };
    // An account that nobody has ever bound anything to.
    let nobody = may("accounts:default");
    assert!(nobody.iter().any(|line| line.contains("selfsubjectaccessreviews")), "{nobody:?}");
    for account in ["stillpoint-agent", "stillpoint-guard"] {
        assert_eq!(may(&format!("{NAMESPACE}:{account}")), nobody, "{account}");
    }
    assert_ne!(
        may(&format!("{NAMESPACE}:stillpoint-controller")),
        nobody,
        "the question can be answered otherwise"
    );
    space.close().unwrap();
}
