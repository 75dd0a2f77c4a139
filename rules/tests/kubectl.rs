//! What we write is read by kubectl, whose YAML is another one than ours: its own parser (sigs.k8s.io/yaml, built from
//! tests/kubectl-yaml) is the judge here.

// Helpers of tests may unwrap like tests.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use stillpoint_rules::plain::printable_json;
use stillpoint_rules::text::{self, write_yaml};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn go() -> Option<PathBuf> {
    let usual = ["go", "/usr/local/go/bin/go", "/usr/lib/go/bin/go"].map(PathBuf::from);
    let works = |go: &PathBuf| Command::new(go).arg("version").output().is_ok_and(|out| out.status.success());
    usual.into_iter().find(works)
}

/// Calls of [`kubectl`]: tests of one process run side by side, and each removes the program that it built.
static CALLERS: AtomicUsize = AtomicUsize::new(0);

/// What kubectl reads in each text. `None`: there is no Go to build its parser with.
fn kubectl(texts: &[String]) -> Option<Vec<Value>> {
    let Some(go) = go() else {
        eprintln!("skipped: there is no Go, so kubectl's parser cannot be built");
        return None;
    };
    let caller = CALLERS.fetch_add(1, Ordering::Relaxed);
    let program =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kubectl-yaml-{}-{caller}", std::process::id()));
    let built = Command::new(go)
        .args(["build", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir(root().join("tests/kubectl-yaml"))
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let mut child = Command::new(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let lines: String = texts.iter().map(|text| serde_json::to_string(text).unwrap() + "\n").collect();
    let writing = std::thread::spawn(move || stdin.write_all(lines.as_bytes()).unwrap());
    let out = child.wait_with_output().unwrap();
    writing.join().unwrap();
    std::fs::remove_file(&program).unwrap();
    assert!(out.status.success());
    let read: Vec<Value> = String::from_utf8(out.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(read.len(), texts.len());
    Some(read)
}

/// With every whole number written as one: `0.0` and `0` are the same number to both.
fn numbers(value: &Value) -> Value {
    match value {
        Value::Number(number) => match number.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 9e15) {
            Some(whole) => json!(whole),
            None => value.clone(),
        },
        Value::Array(items) => items.iter().map(numbers).collect(),
        Value::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), numbers(value))).collect(),
        Value::Null | Value::Bool(_) | Value::String(_) => value.clone(),
    }
}

fn compare(written: &[(Value, String)]) {
    let texts: Vec<String> = written.iter().map(|(_, text)| text.clone()).collect();
    let Some(read) = kubectl(&texts) else { return };
    for ((meant, text), read) in written.iter().zip(read) {
        assert_eq!(numbers(&read), numbers(meant), "kubectl reads something else:\n{text}");
    }
}

/// Texts that YAML 1.1 or 1.2 takes for something else where they are not quoted.
const TRICKY: [&str; 60] = [
    "",
    " ",
    "a ",
    " a",
    "y",
    "Y",
    "n",
    "N",
    "yes",
    "NO",
    "on",
    "On",
    "OFF",
    "true",
    "False",
    "null",
    "~",
    "1",
    "-1",
    "+1",
    "1_000",
    "0x_0A",
    "0x1F",
    "0o7",
    "007",
    "0b1",
    "1:30",
    "1:30:00",
    "1e3",
    "1.5",
    ".5",
    ".inf",
    "-.INF",
    ".NaN",
    "2026-12-01",
    "2026-12-01T04:00:00Z",
    "=",
    "<<",
    "-",
    "- a",
    "? a",
    ":",
    "a: b",
    "a:",
    "#",
    "a #b",
    "&a",
    "*a",
    "!a",
    "|",
    ">",
    "%a",
    "@a",
    "'",
    "\"",
    "{}",
    "[]",
    "a\nb",
    "\u{feff}é😀\u{85}\u{2028}",
    "\u{7f}\u{1b}[31m\t",
];

#[test]
fn kubectl_reads_every_tricky_text_and_key_as_it_was_meant() {
    let values = TRICKY.map(|text| json!({ "plain": text, "list": [text], "map": { text: { text: text } } }));
    compare(&values.map(|value| (value.clone(), write_yaml(&value).unwrap())));
}

#[test]
fn kubectl_reads_a_converted_rule_as_it_was_meant() {
    let tricky = TRICKY.iter().filter(|text| !text.trim().is_empty());
    let written: Vec<(Value, String)> = tricky
        .map(|text| {
            let step = json!({
                "name": "on", "pods": { "selector": { "matchLabels": { "app": "on", "n": "1_000" } } },
                "before": { "command": ["echo", text], "timeout": "90s" },
            });
            let rule = json!({
                "apiVersion": "stillpoint.dev/v1alpha1", "kind": "Rule", "metadata": { "name": "0x1f" },
                "spec": { "steps": [step] },
            });
            let converted = text::convert(&printable_json(&rule.to_string()), None).unwrap().rule;
            let meant = serde_json::to_value(&converted.spec).unwrap();
            let yaml = text::to_yaml(&converted).unwrap();
            (json!({ "apiVersion": "stillpoint.dev/v1alpha1", "kind": "Rule", "metadata": converted.metadata, "spec": meant }), yaml)
        })
        .collect();
    compare(&written);
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[ -~\n\t]{0,30}".prop_map(Value::from),
        "[0-9_.:eExXoObB+-]{1,8}".prop_map(Value::from),
        "[yYnNoOfFeEsStT]{1,5}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..4).prop_map(
                |map: BTreeMap<String, Value>| map.into_iter().collect::<serde_json::Map<_, _>>().into()
            ),
        ]
    })
}

#[test]
fn kubectl_reads_whatever_is_written_as_it_was_meant() {
    let mut runner = TestRunner::deterministic();
    let written: Vec<(Value, String)> = (0..2000)
        .map(|_| {
            let value = json!({ "value": values().new_tree(&mut runner).unwrap().current() });
            let text = write_yaml(&value).unwrap();
            (value, text)
        })
        .collect();
    compare(&written);
}

/// Every file of a directory and below that is YAML.
fn yaml_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            yaml_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            found.push(path);
        }
    }
}

#[test]
fn kubectl_reads_everything_in_deploy_as_we_do() {
    let mut files = Vec::new();
    yaml_files(&root().join("deploy"), &mut files);
    assert!(files.len() > 10, "{files:?}");
    let texts = files.iter().map(|path| std::fs::read_to_string(path).unwrap());
    let documents: Vec<String> =
        texts.flat_map(|text| text.split("\n---\n").map(str::to_owned).collect::<Vec<_>>()).collect();
    let ours = |text: &String| serde_yaml::from_str::<Value>(text).unwrap();
    let written: Vec<(Value, String)> = documents.into_iter().map(|text| (ours(&text), text)).collect();
    compare(&written);
}
