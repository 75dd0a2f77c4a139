//! What is wrong with a text, each with its place.

use super::*;

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
fn a_byte_order_mark_and_empty_documents_around_a_rule_mean_nothing() {
    let plain = with_step("pods: {fromVolumes: true}\n    before: {command: [x]}");
    let rule = parse(&plain).unwrap();
    for text in [
        format!("\u{feff}{plain}"),
        format!("\u{feff}---\n{plain}"),
        format!("---\n---\n{plain}"),
        format!("# a licence\n---\n# nothing\n---\n{plain}"),
        format!("{plain}---\n"),
        format!("---\n{plain}---\n# the end\n---\n\n"),
        format!("{plain}...\n"),
        plain.replace('\n', "\r\n"),
        format!("---\r\n---\r\n{}---\r\n", plain.replace('\n', "\r\n")),
    ] {
        assert_eq!(parse(&text).unwrap(), rule, "{text}");
    }
    let misspelt = format!("\u{feff}---\n---\n{}", plain.replace("before", "befor"));
    let line = plain.lines().position(|line| line.contains("before")).unwrap() + 3;
    assert!(shown(&misspelt).contains(&format!("line {line}, ")), "{}", shown(&misspelt));
    for empty in ["", "\u{feff}", "---\n", "---\n---\n", "# only this\n"] {
        assert!(shown(empty).contains("the text is empty"), "{empty:?}: {}", shown(empty));
    }
    let two = format!("{plain}---\n{plain}");
    assert!(shown(&two).contains("several documents"), "{}", shown(&two));
}

#[test]
fn a_value_of_a_foreign_type_is_refused_at_its_place() {
    let step = |command: &str| {
        with_step(&format!("pods: {{fromVolumes: true}}\n    before: {{command: {command}}}"))
    };
    for command in ["[!!binary eA==]", "[echo, !!binary eA==]", "[echo, !!timestamp 2026-12-01]"] {
        let error = shown(&step(command));
        assert!(error.contains("a value of the type `!!") && error.contains("line "), "{error}");
    }
    assert!(parse(&step("[echo, !!str 5]")).is_ok());
    for text in ["[echo, '!!binary x']", "[sh, -c, \"echo hi!!binary\"]"] {
        assert!(parse(&step(text)).is_ok(), "{text}");
    }
}
