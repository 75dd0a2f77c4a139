//! What must never be accepted in actions and parameters: each is refused with its place, the reason and the fix.

use super::*;

fn rule(spec: &str, before: &str) -> String {
    format!(
        "apiVersion: stillpoint.dev/v1alpha1\nkind: Rule\nmetadata: {{name: r}}\nspec:\n  params: [{{name: db, default: shop}}]\n{spec}  steps:\n  - name: a\n    pods: {{selector: {{matchLabels: {{app: db}}}}}}\n    {before}\n"
    )
}

/// Action, field of the place, words of the reason or fix.
const REFUSED: &[(&str, &str, &[&str])] = &[
    ("before: {command: [x], http: {port: 1}}", "before", &["both `command` and `http`", "keep one"]),
    ("before: {}", "before", &["nothing to do", "give `command"]),
    ("before: {exec: [x]}", "before.exec", &["unknown field `exec`", "an action knows"]),
    ("before: {comand: [x]}", "before.comand", &["did you mean `command`?"]),
    ("before: {http: {prt: 80}}", "before.http.prt", &["did you mean `port`?"]),
    ("before: {http: {port: 0}}", "before.http.port", &["from 1 to 65535"]),
    ("before: {http: {port: 80, path: flush}}", "before.http.path", &["begin with `/`"]),
    ("before: {http: {port: 80, path: \"/a b\"}}", "before.http.path", &["write %20 for a space"]),
    ("before: {http: {port: 80, method: FETCH}}", "before.http.method", &["`FETCH` is unknown", "`GET`"]),
    ("before: {http: {port: 80, status: 9999}}", "before.http.status", &["from 100 to 599"]),
    (
        "before: {http: {port: 80, headers: [{name: \"a b\", value: x}]}}",
        "headers[0].name",
        &["a header's name"],
    ),
    (
        "before: {http: {port: 80, headers: [{name: a, value: \"x\\ny\"}]}}",
        "headers[0].value",
        &["on one line"],
    ),
    ("before: {http: {port: 80, tls: {}}}", "before.http.tls", &["`ca` is missing"]),
    ("before: {http: {port: 80}, env: [{name: A, value: b}]}", "before", &["use `headers`"]),
    ("before: {wait: {every: 1s}}", "before.wait", &["nothing to do"]),
    ("before: {wait: {command: [x], every: 1}}", "before.wait.every", &["no unit", "`1s`"]),
    ("before: {command: [x], env: {A: b}}", "before.env", &["a list is expected"]),
    (
        "before: {command: [x], env: [{name: 1A, value: b}]}",
        "before.env[0].name",
        &["does not begin with a digit"],
    ),
    (
        "before: {command: [x], env: [{name: A}]}",
        "before.env[0]",
        &["neither or both", "`secret: {name, key}`"],
    ),
    (
        "before: {command: [x], env: [{name: A, value: b}, {name: A, value: c}]}",
        "before.env[1]",
        &["a second `A`"],
    ),
    (
        "before: {command: [x], env: [{name: A, secret: {name: db, key: ../x}}]}",
        "secret.key",
        &["a Secret's key"],
    ),
    ("before: {command: [x], retry: {times: 100}}", "before.retry.times", &["from 1 to 10"]),
    ("before: {command: [x], timeout: 2h}", "before.timeout", &["not between 10ms and 1h"]),
    ("before: {command: [x], timeout: -5s}", "before.timeout", &["not a length of time"]),
    (
        "before: {command: [dump, \"${params.bd}\"]}",
        "before.command[1]",
        &["`bd` is unknown", "did you mean `db`?"],
    ),
    ("before: {command: [dump, \"${params.db\"]}", "before.command[1]", &["close it with `}`"]),
    ("before: {command: [\"${params.db}\", x]}", "before.command[0]", &["a parameter as the program"]),
    (
        "before: {shell: \"dump ${params.db}\"}",
        "before.shell",
        &["read as commands", "env: [{name: VALUE", "\"$VALUE\""],
    ),
    ("before: {command: [bash, -ec, \"dump ${params.db}\"]}", "before.command[2]", &["read as commands"]),
    (
        "before: {command: [/bin/busybox, sh, -c, \"dump ${params.db}\"]}",
        "before.command[3]",
        &["read as commands"],
    ),
    ("before: {http: {port: 80, body: \"${params.db}\"}}", "before.http.body", &["not an argument"]),
    (
        "hold: {command: [psql], send: [\"USE ${params.db}\"], ready: x}",
        "hold.send[0]",
        &["that text's own language"],
    ),
    ("hold: {command: [psql]}", "hold", &["`ready` is missing"]),
    ("hold: {command: [psql], ready: x, limit: 1h}", "hold.limit", &["not between 10ms and 1m"]),
    ("hold: {command: [psql], ready: x, heartbeat: 0s}", "hold.heartbeat", &["not between 10ms"]),
    ("hold: {command: [psql], ready: x, onLost: ignore}", "hold.onLost", &["`abort` and `degrade`"]),
    ("hold: {http: {port: 80}, ready: x}", "hold.http", &["unknown field `http`"]),
];

#[test]
fn what_an_action_must_not_be_is_refused_with_place_reason_and_fix() {
    for (action, place, words) in REFUSED {
        let error = shown(&rule("", action));
        assert!(error.contains(&format!("{place}: ")) && error.contains("line "), "{action}\n-> {error}");
        for word in *words {
            assert!(error.contains(word), "{action}\n-> {error}\nlacks {word}");
        }
    }
}

#[test]
fn parameters_and_patterns_are_checked_when_they_are_declared() {
    let table: &[(&str, &[&str])] = &[
        ("  redact: [\"(\"]\n", &["redact[0]", "unclosed group"]),
        ("  redact: [\"a*\"]\n", &["redact[0]", "empty text"]),
    ];
    for (spec, words) in table {
        let error = shown(&rule(spec, "before: {command: [x]}"));
        words.iter().for_each(|word| assert!(error.contains(word), "{error}"));
    }
    for (param, words) in [
        ("{name: a-b}", "does not begin with a digit"),
        ("{name: a, type: integr}", "did you mean `integer`?"),
        ("{name: a, type: integer, default: many}", "it is no whole number"),
        ("{name: a, default: --drop}", "taken for an option"),
        ("{name: a, default: 5}", "put it in quotes"),
        ("{name: a}, {name: a}", "a second parameter `a`"),
    ] {
        let text = rule("", "before: {command: [x]}").replace("{name: db, default: shop}", param);
        let error = shown(&text);
        assert!(error.contains(words) && error.contains("spec.params["), "{param}\n-> {error}");
    }
}

#[test]
fn a_rule_of_a_megabyte_is_refused_without_being_read() {
    let long = rule("", &format!("before: {{command: [x, \"{}\"]}}", "y".repeat(1 << 20)));
    assert!(shown(&long).contains("more than 256 KiB of text"));
}

#[test]
fn everything_new_is_read_as_it_is_meant() {
    let text = rule(
        "  redact: [\"token=\\\\S+\"]\n",
        "before: {http: {method: POST, port: 9200, path: \"/${params.db}/_flush\", tls: {ca: {name: ca, key: ca.crt}}}, retry: {times: 2}, idempotent: true}",
    );
    let rule = parse(&text).unwrap();
    let before = rule.spec.steps[0].before.as_ref().unwrap();
    let Deed::Http(call) = &before.run else { panic!("{before:?}") };
    assert_eq!((call.method, call.port, call.status), (Method::Post, 9200, None));
    assert_eq!((before.retry.unwrap().times, before.idempotent), (2, Some(true)));
    assert_eq!(rule.spec.redact, ["token=\\S+"]);
    assert_eq!(parse(&to_yaml(&rule).unwrap()).unwrap(), rule);
}
