use super::*;

fn rule(step: &str) -> String {
    format!(
        "apiVersion: stillpoint.dev/v1alpha1\nkind: Rule\nmetadata: {{name: r}}\nspec:\n  steps:\n  - name: a\n    pods: {{selector: {{matchLabels: {{app: db}}}}, container: db}}\n{step}\n"
    )
}

fn codes(step: &str) -> Vec<&'static str> {
    lint(&rule(step)).into_iter().map(|finding| finding.code).collect()
}

#[test]
fn every_unsafe_habit_is_found_with_its_place_and_its_fix() {
    let table: &[(&str, &str, u32, &str)] = &[
        (
            "    before: {command: [mysql, -e, FLUSH TABLES WITH READ LOCK]}",
            "lock-in-one-shot",
            8,
            "write it as `hold`",
        ),
        (
            "    before:\n      shell: mysql -e 'flush tables with read lock; select sleep(30)' &",
            "lock-held-by-sleep",
            9,
            "write it as `hold`",
        ),
        (
            "    before: {command: [psql, -c, \"SELECT pg_backup_start('x')\"]}",
            "lock-in-one-shot",
            8,
            "`ready` and `probe`",
        ),
        ("    before: {command: [nodetool, -h, localhost, drain]}", "cassandra-drain", 8, "nodetool flush"),
        ("    before: {command: [fsfreeze, -f, /data]}", "fsfreeze", 8, "remove the command"),
        ("    before: {command: [mongosh, --eval, db.fsyncLock()]}", "lock-without-undo", 8, "fsyncUnlock"),
        (
            "    hold: {command: [mariadb], ready: x, probe: {send: a, expect: b}}",
            "no-server-side-limit",
            8,
            "wait_timeout=10",
        ),
        (
            "    hold: {command: [psql], ready: x, probe: {send: a, expect: b}}",
            "no-server-side-limit",
            8,
            "idle_session_timeout",
        ),
        (
            "    hold: {command: [mariadb, --batch], send: [\"SET SESSION wait_timeout=10;\"], ready: x, probe: {send: a, expect: b}}",
            "client-keeps-output",
            8,
            "--unbuffered",
        ),
        (
            "    hold: {shell: lock; cat, ready: x, probe: {send: a, expect: b}}",
            "script-without-heartbeat",
            8,
            "heartbeat: 1s",
        ),
        ("    hold: {command: [locker], ready: x}", "hold-without-probe", 8, "add `probe"),
        (
            "    hold: {command: [locker], ready: x, limit: 1s, probe: {send: a, expect: b}}",
            "short-limit",
            8,
            "raise `limit`",
        ),
        (
            "    hold: {command: [locker], ready: x, take: inTurn, probe: {send: a, expect: b}}",
            "in-turn-without-limit",
            8,
            "long enough",
        ),
        (
            "    before: {wait: {command: [x], every: 10s}, timeout: 5s}",
            "wait-asks-once",
            8,
            "shorten `every`",
        ),
        ("    before: {command: [nodetool, \u{2013}flush]}", "typographic-character", 8, "plain blank"),
        ("    before: {shell: echo\u{a0}x}", "typographic-character", 8, "plain blank"),
        ("    after: {shell: \u{201c}echo\u{201d} x}", "typographic-character", 8, "plain blank"),
        (
            "    hold: {command: [locker], send: [lock \u{201c}x\u{201d}], ready: x, probe: {send: a, expect: b}}",
            "typographic-character",
            8,
            "plain blank",
        ),
        (
            "    hold: {command: [locker], finish: [\"unlock\u{a0}x\"], ready: x, probe: {send: a, expect: b}}",
            "typographic-character",
            8,
            "plain blank",
        ),
        ("    before: {shell: \"echo it's\"}", "unclosed-quote", 8, "close it"),
        ("    before: {command: [sh, -c, 'echo \"x']}", "unclosed-quote", 8, "close it"),
        ("    before: {command: [ssh, db-1, flush]}", "end-not-provable", 8, "limit it where it runs"),
        ("    before: {shell: 'sudo /usr/bin/docker exec db flush'}", "end-not-provable", 8, "limit it"),
    ];
    for (step, code, line, fix) in table {
        let findings = lint(&rule(step));
        assert_eq!(findings.len(), 1, "{step}: {findings:?}");
        let finding = &findings[0];
        assert_eq!(finding.code, *code, "{step}");
        assert!(finding.problem.line.is_some_and(|at| at.abs_diff(*line) <= 1), "{step}: {finding}");
        assert!(finding.problem.fix.contains(fix), "{finding}");
    }
}

#[test]
fn safe_ways_of_the_same_are_not_found() {
    let table = [
        "    before: {command: [nodetool, flush]}",
        "    before: {command: [psql, -c, CHECKPOINT]}",
        "    hold: {command: [mariadb, -BNn], send: [\"SET SESSION wait_timeout=10;\"], ready: x, probe: {send: a, expect: b}}",
        "    hold: {command: [mysql, --unbuffered], send: [\"SET SESSION wait_timeout=10;\"], ready: x, probe: {send: a, expect: b}}",
        "    hold: {command: [timeout, \"10\", psql], ready: x, probe: {send: a, expect: b}}",
        "    hold: {shell: lock, heartbeat: 1s, ready: x, probe: {send: a, expect: b}}",
        "    before: {shell: \"echo it\\\\'s # don't\"}",
        "    before: {command: [echo, it's, über]}\n    after: {shell: \"cat <<EOF\\nit's\\nEOF\"}",
        "    before: {command: [mongosh, --eval, db.fsyncLock()]}\n    after: {command: [mongosh, --eval, db.fsyncUnlock()]}",
    ];
    for step in table {
        assert_eq!(codes(step), [""; 0], "{step}");
    }
}

#[test]
fn what_is_refused_is_found_with_line_column_and_suggestion() {
    let findings = lint(&rule("    befor: {command: [x]}"));
    let words = findings[0].to_string();
    assert!(words.starts_with("error [refused]: line 8, column 5: "), "{words}");
    assert!(words.contains("did you mean `before`?"), "{words}");
}

#[test]
fn a_step_that_names_no_container_is_told_which_one_will_be_chosen() {
    let text = rule("    before: {command: [nodetool, flush]}").replace(", container: db", "");
    let findings = lint(&text);
    assert_eq!(
        (findings.len(), findings[0].severity, findings[0].code),
        (1, Severity::Note, "container-not-named")
    );
    assert!(findings[0].to_string().contains("default-container"), "{}", findings[0]);
    let text = rule("    before: {http: {port: 80, path: /flush}}").replace(", container: db", "");
    assert_eq!(lint(&text), [], "a request goes to the pod");
}

#[test]
fn forms_without_places_of_their_own_are_checked_too() {
    let short = "kind: Rule\nname: r\npodSelector: {app: db}\ntype: command\nvalue: nodetool drain\n";
    let findings = lint(short);
    assert_eq!((findings[0].code, findings[0].problem.line), ("cassandra-drain", None));
}
