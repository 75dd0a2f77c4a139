//! Bad input, one row per kind: each is refused with its place, the reason and the fix, and nothing is executed.

use super::*;

const HEAD: &str = "apiVersion: stillpoint.dev/v1alpha1\nkind: Rule\nmetadata: {name: r}\nspec:\n  params: [{name: db, default: shop}]\n  steps:\n";

/// A rule of one step of this.
fn step(body: &str) -> String {
    format!("{HEAD}  - name: a\n{body}\n")
}

/// With this `before`.
fn before(action: &str) -> String {
    step(&format!("    pods: {{selector: {{matchLabels: {{app: db}}}}}}\n    before: {action}"))
}

/// With this `hold`.
fn hold(session: &str) -> String {
    step(&format!("    pods: {{selector: {{matchLabels: {{app: db}}}}}}\n    hold: {session}"))
}

/// With these `pods`.
fn pods(set: &str) -> String {
    step(&format!("    pods: {set}\n    before: {{command: [x]}}"))
}

/// What it is, the text, the place, and words of the reason and the fix.
type Row = (&'static str, String, &'static str, &'static [&'static str]);

fn unreadable() -> Vec<Row> {
    let two = "  - name: a\n    pods: {fromVolumes: true}\n    before: {command: [x]}\n";
    let cyclic_text = format!(
        "{HEAD}  - &a\n    name: a\n    pods: {{fromVolumes: true}}\n    before: {{command: [x]}}\n    after: *a\n"
    );
    vec![
        (
            "a misspelt key",
            before("{comand: [x]}"),
            "before.comand",
            &["unknown field", "did you mean `command`?"],
        ),
        (
            "a misspelt key of a step",
            step("    pods: {fromVolumes: true}\n    befor: {command: [x]}"),
            "steps[0].befor",
            &["did you mean `before`?"],
        ),
        (
            "text for a list",
            before("{command: nodetool flush}"),
            "before.command",
            &["this is text; a list is expected"],
        ),
        (
            "text for a number",
            pods("{fromVolumes: true, min: three}"),
            "pods.min",
            &["this is text", "number"],
        ),
        (
            "a number for text",
            before("{shell: 5}"),
            "before.shell",
            &["this is a number", "put it in quotes"],
        ),
        (
            "text for true or false",
            pods("{fromVolumes: yes please}"),
            "pods.fromVolumes",
            &["true or false is expected"],
        ),
        (
            "an unknown action",
            before("{exec: [x]}"),
            "before.exec",
            &["unknown field `exec`", "an action knows"],
        ),
        (
            "both `command` and `shell`",
            before("{command: [x], shell: x}"),
            "before",
            &["both `command` and `shell`", "keep one"],
        ),
        ("a `hold` without `ready`", hold("{command: [psql]}"), "hold", &["`ready` is missing"]),
        (
            "a negative timeout",
            before("{command: [x], timeout: -5s}"),
            "before.timeout",
            &["not a length of time"],
        ),
        (
            "a negative limit",
            hold("{command: [psql], ready: x, limit: -1s}"),
            "hold.limit",
            &["not a length of time"],
        ),
        (
            "a timeout of hours",
            before("{command: [x], timeout: 2h}"),
            "before.timeout",
            &["not between 10ms and 1h"],
        ),
        (
            "an hour-long limit",
            hold("{command: [psql], ready: x, limit: 1h}"),
            "hold.limit",
            &["not between 10ms and 1m"],
        ),
        (
            "a selector that matches everything",
            pods("{selector: {}}"),
            "pods.selector",
            &["an empty selector"],
        ),
        ("empty labels", pods("{selector: {matchLabels: {}}}"), "pods.selector", &["an empty selector"]),
        ("no pods at all", pods("{}"), "pods", &["no pods are named", "fromVolumes: true"]),
        (
            "an unknown parameter",
            before("{command: [dump, \"${params.bd}\"]}"),
            "before.command[1]",
            &["`bd` is unknown", "did you mean `db`?"],
        ),
        (
            "a parameter in a shell's text",
            before("{shell: \"dump ${params.db}\"}"),
            "before.shell",
            &["read as commands", "\"$VALUE\""],
        ),
        (
            "a parameter as the program",
            before("{command: [\"${params.db}\"]}"),
            "before.command[0]",
            &["a parameter as the program"],
        ),
        (
            "two steps of one name",
            format!("{HEAD}{two}{two}"),
            "steps[1]",
            &["a second step named `a`", "name of its own"],
        ),
        ("a step that contains itself", cyclic_text, "", &["nested too deeply"]),
        (
            "a path as a name",
            before("{command: [x]}").replace("{name: r}", "{name: ../../etc/passwd}"),
            "metadata.name",
            &["not a valid name"],
        ),
        (
            "commands as a name",
            before("{command: [x]}").replace("name: a\n", "name: \"a; rm -rf /\"\n"),
            "steps[0].name",
            &["not a valid name"],
        ),
        (
            "a terminal's commands as a name",
            before("{command: [x]}").replace("name: a\n", "name: \"\\e[31m\"\n"),
            "steps[0].name",
            &["not a valid name"],
        ),
        ("a NUL character", before("{command: [x, \"a\\0b\"]}"), "before", &["a NUL character", "remove it"]),
        (
            "a name of a parameter that no shell takes",
            before("{command: [x]}").replace("{name: db,", "{name: \"d$b\","),
            "params[0].name",
            &["letters, digits and _"],
        ),
        (
            "a default that is an option",
            before("{command: [x]}").replace("default: shop", "default: --drop"),
            "params[0].default",
            &["taken for an option"],
        ),
    ]
}

#[test]
fn every_listed_kind_of_bad_text_is_refused_with_place_reason_and_fix() {
    for (what, text, place, words) in unreadable() {
        let error = parse(&text).expect_err(what);
        let said = error.to_string();
        assert!(error.problems.iter().any(|problem| problem.field.contains(place)), "{what}: {said}");
        for problem in &error.problems {
            assert!(problem.line.is_some(), "{what} has no place: {said}");
            assert!(
                !problem.what.is_empty() && !problem.why.is_empty() && !problem.fix.is_empty(),
                "{what}: {said}"
            );
        }
        for word in words {
            assert!(word.split('|').any(|either| said.contains(either)), "{what}: {said}\nlacks {word}");
        }
        assert!(!said.contains('\u{1b}') && !said.contains('\0'), "{what}: {said:?}");
        // A rule is a parsed one: what is refused here cannot be run by anybody.
    }
}

#[test]
fn a_rule_of_a_megabyte_is_refused_for_its_length_alone() {
    let error = parse(&before(&format!("{{command: [x, \"{}\"]}}", "y".repeat(1 << 20)))).unwrap_err();
    let problem = &error.problems[0];
    assert!(problem.what.contains("more than 256 KiB"), "{error}");
    assert!(!problem.why.is_empty() && !problem.fix.is_empty(), "{error}");
}

/// What it is, the rule, a parameter that is given, and words of the reason and the fix.
type Unfit<'a> = (&'static str, String, Option<(&'a str, &'a str)>, &'static [&'static str]);

/// What can only be known with the pods and the values at hand.
#[tokio::test(start_paused = true)]
async fn what_does_not_fit_the_pods_or_the_parameters_executes_nothing() {
    let good = before("{command: [x, \"${params.db}\"]}");
    let table: [Unfit<'_>; 7] = [
        (
            "a selector that matches nothing",
            good.replace("app: db", "app: bd"),
            None,
            &["no pod matches app=bd", "app=db", "correct the step"],
        ),
        (
            "too few pods",
            pods("{selector: {matchLabels: {app: db}}, min: 3}"),
            None,
            &["2 of at least 3 pods match", "lower `min`"],
        ),
        (
            "a container that is not there",
            pods("{selector: {matchLabels: {app: db}}, container: nginx}"),
            None,
            &["has no container `nginx`; it has main"],
        ),
        (
            "a parameter that the rule does not have",
            good.clone(),
            Some(("bd", "x")),
            &["no parameter `bd`; it has db"],
        ),
        (
            "a value that is an option",
            good.clone(),
            Some(("db", "--drop-all")),
            &["taken for an option", "give another value"],
        ),
        (
            "a value with control characters",
            good.clone(),
            Some(("db", "a\n; rm -rf /")),
            &["control characters"],
        ),
        ("a value without end", good, Some(("db", &"x".repeat(5000))), &["longer than 4096 bytes"]),
    ];
    for (what, text, given, words) in table {
        let world = World::new();
        let params = given.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect();
        let run = world.engine().run(RunRequest { params, ..request(&text) }, Control::default()).await;
        let said = &run.failures[0].message;
        for word in words {
            assert!(said.contains(word), "{what}: {said}\nlacks {word}");
        }
        assert_eq!((world.deeds(), run.attempts.len(), run.phase), (vec![], 0, Phase::Failed), "{what}");
    }
}

/// Hostile values that are allowed are values and nothing else.
#[tokio::test(start_paused = true)]
async fn a_hostile_value_is_one_argument() {
    let hostile = "x'; $(rm -rf /) `id` ${params.db} && \"";
    let world = World::new();
    let params = [("db".to_owned(), hostile.to_owned())].into();
    let text = before("{command: [dump, \"${params.db}\"]}");
    let run = world.engine().run(RunRequest { params, ..request(&text) }, Control::default()).await;
    assert_eq!(run.phase, Phase::Succeeded, "{:?}", run.failures);
    assert_eq!(world.deeds()[0], format!("db-1 dump {hostile}"));
}
