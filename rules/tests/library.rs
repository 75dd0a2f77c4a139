//! The rule library: every rule is read, linted and planned, and its README's table is written from the files.
//! `STILLPOINT_WRITE=1 cargo test -p stillpoint-rules --test library` writes the table.

#![allow(clippy::unwrap_used, clippy::panic)] // what tests call is a test

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use stillpoint_rules::api::Rule;
use stillpoint_rules::lint::{Severity, lint};
use stillpoint_rules::plan::{Action, CutVolume, plan};
use stillpoint_rules::ports::{Pod, PodState};
use stillpoint_rules::text::{self, Role};

/// Between these lines of the README is the table.
const BEGIN: &str = "<!-- table: written by `cargo test --test library` -->";
const END: &str = "<!-- end of table -->";

fn library() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/rules-library")
}

/// Everything but the README, sorted by name.
fn entries() -> Vec<PathBuf> {
    let all = std::fs::read_dir(library()).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<PathBuf> = all.filter(|path| !path.ends_with("README.md")).collect();
    all.sort();
    all
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

fn rules() -> Vec<(PathBuf, Rule)> {
    let files = entries().into_iter().filter(|path| path.extension().is_some_and(|kind| kind == "yaml"));
    let read = |path: PathBuf| {
        let rule = text::parse_file(&path, Role::Before).unwrap_or_else(|error| panic!("{error}"));
        (path, rule)
    };
    files.map(read).collect()
}

/// What a file says about itself.
struct Entry {
    title: String,
    level: String,
    proof: String,
}

/// A file's own words: of a rule the fields in its comment, of a text the paragraphs that begin so.
fn entry(path: &Path) -> Entry {
    let text = std::fs::read_to_string(path).unwrap();
    let is_rule = path.extension().is_some_and(|kind| kind == "yaml");
    let field = |key: &str| {
        let lines = text.lines().take_while(|line| !is_rule || line.starts_with('#'));
        let mut lines = lines
            .map(|line| if is_rule { line.trim_start_matches("# ").trim_end_matches('#') } else { line });
        let key = if is_rule { format!("{key:<16}") } else { format!("{key}: ") };
        let first = lines.find_map(|line| line.strip_prefix(&key));
        let first = first.unwrap_or_else(|| panic!("{} does not say {key:?}", path.display())).to_owned();
        let more = lines.take_while(|line| if is_rule { line.starts_with("    ") } else { !line.is_empty() });
        more.fold(first, |so_far, line| format!("{so_far} {}", line.trim()))
    };
    let title = text.lines().next().unwrap().trim_start_matches("# ").trim_end_matches('.').to_owned();
    Entry { title, level: field("Level reached"), proof: field("Proof") }
}

fn table() -> String {
    let mut lines =
        vec!["| File | What | Level reached | Proof |".to_owned(), "|---|---|---|---|".to_owned()];
    for path in entries() {
        let Entry { title, level, proof } = entry(&path);
        let level = level.split([':', ',', '.']).next().unwrap_or_default().to_owned();
        let name = name(&path);
        lines.push(format!("| [{name}]({name}) | {title} | {level} | {proof} |"));
    }
    lines.join("\n")
}

#[test]
fn the_readme_names_every_file_its_level_and_its_proof() {
    let path = library().join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let (head, rest) = readme.split_once(BEGIN).expect("the README has a place for the table");
    let (_, tail) = rest.split_once(END).expect("the table has an end");
    let written = format!("{head}{BEGIN}\n{}\n{END}{tail}", table());
    if std::env::var_os("STILLPOINT_WRITE").is_some() {
        std::fs::write(&path, &written).unwrap();
    }
    let readme = std::fs::read_to_string(&path).unwrap();
    assert!(readme == written, "the table is out of date: STILLPOINT_WRITE=1 cargo test --test library");
}

/// A proof that is named is a test that exists, or a command of the Makefile; what is not proven says why.
#[test]
fn a_proof_that_is_named_exists() {
    let root = library().join("../..");
    let mut tests = String::new();
    for directory in ["tests/tests/library", "rules/tests"] {
        for file in std::fs::read_dir(root.join(directory)).unwrap() {
            tests.push_str(&std::fs::read_to_string(file.unwrap().path()).unwrap());
        }
    }
    let makefile = std::fs::read_to_string(root.join("Makefile")).unwrap();
    for path in entries() {
        let proof = entry(&path).proof;
        let unproven = proof.starts_with("not proven here: ");
        assert!(unproven || proof.starts_with("proven here by `"), "{}: {proof}", name(&path));
        for named in proof.split('`').skip(1).step_by(2) {
            let exists = match named.strip_prefix("make ") {
                Some(target) => makefile.contains(&format!("\n{target}:")),
                None => named.contains('.') || tests.contains(&format!("fn {named}(")),
            };
            assert!(exists, "{}: there is no {named}", name(&path));
        }
    }
}

#[test]
fn every_entry_links_its_vendor_and_says_who_and_how_to_restore() {
    for path in entries() {
        let text = std::fs::read_to_string(&path).unwrap();
        for wanted in ["https://", "Who", "Restore", "Volumes"] {
            let is_there =
                text.contains(wanted) || (wanted == "Volumes" && name(&path) == "elasticsearch.md");
            assert!(is_there, "{}: nothing about {wanted}", name(&path));
        }
    }
}

#[test]
fn the_linter_finds_nothing() {
    for (path, _) in rules() {
        let mut findings = lint(&std::fs::read_to_string(&path).unwrap());
        findings.retain(|finding| finding.severity != Severity::Note);
        assert!(findings.is_empty(), "{}: {}", name(&path), findings[0]);
    }
}

fn pod(labels: &[(String, String)]) -> Pod {
    Pod {
        namespace: "shop".into(),
        name: "server-0".into(),
        uid: "1".into(),
        labels: labels.iter().cloned().collect(),
        host: "a".into(),
        containers: vec!["main".into()].into(),
        volumes: vec!["v".into()],
        state: PodState::Ready,
    }
}

/// With its parameters as they are by default, in a pod with its label.
#[test]
fn every_rule_is_planned_and_a_session_outlives_a_round() {
    let volumes = [CutVolume { id: "v".into(), name: "data".into(), host: "a".into() }];
    let rules = rules();
    assert!(rules.len() >= 9, "{}", rules.len());
    for (path, rule) in rules {
        assert_eq!(format!("{}.yaml", rule.metadata.name), name(&path), "a rule is found by its name");
        let rule = stillpoint_rules::api::params::resolve(rule, &BTreeMap::default()).unwrap();
        let selector = rule.spec.steps[0].pods.selector.clone().unwrap();
        let labels: Vec<_> = selector.match_labels.into_iter().collect();
        let plan = plan(Some(&rule), &[pod(&labels)], &volumes).unwrap_or_else(|error| panic!("{error}"));
        for step in &plan.steps {
            assert_eq!(step.targets.len(), 1, "{}: {}", name(&path), step.name);
            let Some(hold) = &step.hold else { continue };
            assert!(step.doing(Action::Hold).count() == 1 && hold.limit() >= Duration::from_secs(10));
            assert!(hold.probe.is_some(), "{}: a session that is not asked proves nothing", name(&path));
        }
        assert!(plan.notes.is_empty(), "{}: {:?}", name(&path), plan.notes);
    }
}

/// A program called `mongosh` that writes down what it is told.
fn mongosh(directory: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let program = directory.join("mongosh");
    let script =
        "#!/bin/bash\nwhile IFS= read -r line; do echo \"$line\" >> \"$(dirname \"$0\")/told\"; done\n";
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    directory.join("told")
}

fn script(directory: &Path, argv: &[String]) -> std::process::Child {
    let path = format!("{}:{}", directory.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new(&argv[0]);
    command.args(&argv[1..]).env("PATH", path).stdin(Stdio::piped()).spawn().unwrap()
}

/// Its server cannot be had here, so it is the script alone that is tried, with a program in the place of `mongosh`.
#[test]
fn the_script_of_the_mongodb_rule_lifts_the_lock_whatever_happens() {
    let rule = text::parse_file(&library().join("mongodb-fsync-lock.yaml"), Role::Before).unwrap();
    let step = &rule.spec.steps[0];
    let hold = step.hold.as_ref().unwrap();
    let lines = |told: &Path| std::fs::read_to_string(told).unwrap_or_default();
    let locked = "db = connect(process.env.MONGODB_URI); db.fsyncLock();\nquestion\n";
    let unlocked = format!("{locked}db.fsyncUnlock();\n");
    for silence in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let told = mongosh(directory.path());
        let mut session = script(directory.path(), &hold.run.argv());
        let mut input = session.stdin.take().unwrap();
        // An empty line is a heartbeat, not a statement.
        input.write_all(b"\nquestion\n\n").unwrap();
        let end = std::time::Instant::now() + Duration::from_secs(30);
        while lines(&told) != locked {
            assert!(std::time::Instant::now() < end, "{}", lines(&told));
            std::thread::sleep(Duration::from_millis(20));
        }
        // Heartbeats that stop while the input stays open are an end, too.
        let kept = silence.then_some(input);
        assert!(session.wait().unwrap().success());
        assert_eq!(lines(&told), unlocked);
        drop(kept);
    }
    let directory = tempfile::tempdir().unwrap();
    let told = mongosh(directory.path());
    let after = step.after.as_ref().and_then(|after| after.invocation()).unwrap();
    assert!(script(directory.path(), &after.argv()).wait().unwrap().success());
    let said = lines(&told);
    assert!(said.contains("if (db.currentOp().fsyncLock) db.fsyncUnlock();"), "{said}");
}
