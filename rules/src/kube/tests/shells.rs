//! The scripts that run in containers, under every shell that is installed: dash (Debian), bash (RHEL), busybox (Alpine).

use std::process::Stdio;
use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::*;
use crate::kube::wrap::{Kind, ending, preamble, wrapped};
use crate::ports::Mark;

const SAFETY: Duration = Duration::from_mins(1);

/// Those that are installed; never none.
fn shells() -> Vec<Vec<&'static str>> {
    let known: [&[&str]; 3] = [&["/bin/dash"], &["/bin/bash", "--posix"], &["/bin/busybox", "sh"]];
    let there: Vec<Vec<&str>> = known
        .iter()
        .filter(|shell| std::path::Path::new(shell[0]).exists())
        .map(|shell| shell.to_vec())
        .collect();
    assert!(!there.is_empty());
    if there.len() < known.len() {
        eprintln!("skipped: of dash, bash and busybox only {there:?} are installed");
    }
    there
}

/// Starts a line of ours under this shell instead of `/bin/sh`.
fn start(shell: &[&str], line: &[String]) -> Child {
    Command::new(shell[0])
        .args(&shell[1..])
        .args(&line[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap()
}

async fn finish(mut child: Child) -> (Option<i32>, String, String) {
    drop(child.stdin.take());
    let ended = timeout(SAFETY, child.wait_with_output()).await.expect("it ends").unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (ended.status.code(), text(ended.stdout), text(ended.stderr))
}

fn mark(number: usize) -> Mark {
    Mark::of(&format!("shells-{number}-{}", std::process::id()), "step", &target())
}

/// Prints its arguments and some variables, each behind its length.
const SHOW: &str = r#"for _q in "$@"; do printf '%s:%s;' "${#_q}" "$_q"; done; for _w in $NAMES; do eval "_q=\$$_w"; printf '%s=%s:%s;' "$_w" "${#_q}" "$_q"; done"#;

/// Runs the wrapper with these arguments and variables; gives what the command has seen.
async fn seen(shell: &[&str], kind: Kind, arguments: &[String], env: &[(String, String)]) -> String {
    let names: Vec<&str> = env.iter().map(|(name, _)| name.as_str()).collect();
    let mut env = env.to_vec();
    env.push(("NAMES".to_owned(), names.join(" ")));
    let mut argv = ["/bin/sh", "-c", SHOW, "show"].map(str::to_owned).to_vec();
    argv.extend(arguments.iter().cloned());
    let line = wrapped(kind, &argv, &env, Duration::from_secs(50), mark(0));
    let mut child = start(shell, &line);
    let lines = preamble(&env).unwrap();
    child.stdin.as_mut().unwrap().write_all(lines.as_bytes()).await.unwrap();
    // The input stays open until it has printed everything, as it does in a cluster.
    let (mut out, mut err) = (String::new(), String::new());
    timeout(SAFETY, child.stdout.take().unwrap().read_to_string(&mut out)).await.unwrap().unwrap();
    timeout(SAFETY, child.stderr.take().unwrap().read_to_string(&mut err)).await.unwrap().unwrap();
    let (code, ..) = finish(child).await;
    assert_eq!((code, err.as_str()), (Some(0), ""), "{shell:?}");
    out
}

fn expected(arguments: &[String], env: &[(String, String)]) -> String {
    let length = |text: &str| text.chars().count();
    let arguments = arguments.iter().map(|a| format!("{}:{a};", length(a)));
    let env = env.iter().map(|(name, a)| format!("{name}={}:{a};", length(a)));
    arguments.chain(env).collect()
}

#[tokio::test]
async fn arguments_and_variables_arrive_as_they_are_whatever_they_contain() {
    let nasty = [
        "", " ", "a b", "'", "\"", "`id`", "$HOME", "$(id)", "\\", "\\n", "a\nb", "-n", "--", "-- x", "*",
        "?", "[a]", "~", "#", ";", "&", "|", "<", ">", "{a,b}", "!", "=", "a=b", "\t", "%s", "%", "go", "é",
    ];
    let arguments: Vec<String> = nasty.iter().map(|text| (*text).to_owned()).collect();
    let one_line = nasty.iter().filter(|text| !text.contains('\n'));
    let mut env: Vec<(String, String)> =
        one_line.enumerate().map(|(n, text)| (format!("V{n}"), (*text).to_owned())).collect();
    // Names that the script could be using itself.
    for name in ["p", "l", "m", "n", "s", "v", "x", "b", "HOME", "PS1", "OPTARG"] {
        env.push((name.to_owned(), format!("value of {name}")));
    }
    for shell in shells() {
        for kind in [Kind::Command, Kind::Session] {
            // Some shells count bytes, some characters: compare without lengths where they differ.
            let strip = |text: String| text.replace("2:é", "1:é");
            assert_eq!(
                strip(seen(&shell, kind, &arguments, &env).await),
                expected(&arguments, &env),
                "{shell:?}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_printable_arrives(
        arguments in prop::collection::vec("[ -~\n\t]{0,40}", 0..5),
        values in prop::collection::vec("[ -~\t]{0,40}", 0..4),
    ) {
        let env: Vec<(String, String)> =
            values.into_iter().enumerate().map(|(n, value)| (format!("V{n}"), value)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for shell in shells() {
            let out = runtime.block_on(seen(&shell, Kind::Command, &arguments, &env));
            prop_assert_eq!(out, expected(&arguments, &env), "{:?}", shell);
        }
    }
}

#[tokio::test]
async fn a_variable_that_breaks_words_or_programs_does_not_keep_a_command_from_being_ended() {
    for (number, shell) in shells().into_iter().enumerate() {
        for (name, value) in [("IFS", "0123456789"), ("PATH", "/nowhere")] {
            let env = vec![(name.to_owned(), value.to_owned())];
            let argv = ["/bin/sleep", "1000"].map(str::to_owned);
            let line = wrapped(Kind::Command, &argv, &env, SAFETY, mark(number + 10));
            let mut child = start(&shell, &line);
            child.stdin.as_mut().unwrap().write_all(preamble(&env).unwrap().as_bytes()).await.unwrap();
            let (code, ..) = finish(child).await;
            assert_eq!(code, None, "{shell:?} {name}: a signal ends it when its input ends");
        }
    }
}

#[tokio::test]
async fn a_long_argument_and_many_of_them_arrive() {
    let arguments: Vec<String> = (0..200).map(|n| "x".repeat(n * 3)).chain(["y".repeat(100_000)]).collect();
    for shell in shells() {
        assert_eq!(
            seen(&shell, Kind::Command, &arguments, &[]).await,
            expected(&arguments, &[]),
            "{shell:?}"
        );
    }
}

#[tokio::test]
async fn a_command_whose_permission_to_begin_never_comes_does_nothing() {
    for shell in shells() {
        for sent in ["", "secret\n", "secret\nstop\n", "secret\ngo"] {
            let env = vec![("S".to_owned(), String::new())];
            let line = wrapped(Kind::Command, &["/bin/echo".into(), "done".into()], &env, SAFETY, mark(1));
            let mut child = start(&shell, &line);
            child.stdin.as_mut().unwrap().write_all(sent.as_bytes()).await.unwrap();
            let (code, out, _) = finish(child).await;
            assert_eq!((code, out.as_str()), (Some(125), ""), "{shell:?} {sent:?}");
        }
    }
}

#[tokio::test]
async fn what_escaped_its_group_is_found_by_environment_limit_and_parent() {
    for (number, shell) in shells().into_iter().enumerate() {
        let mark = mark(number + 100);
        let escape =
            "setsid sleep 1000 & env -i /usr/bin/setsid --fork /bin/sleep 1000; echo ready; exec sleep 1000";
        let argv = ["/bin/sh", "-c", escape].map(str::to_owned);
        let mut child = start(&shell, &wrapped(Kind::Command, &argv, &[], SAFETY, mark));
        child.stdin.as_mut().unwrap().write_all(preamble(&[]).unwrap().as_bytes()).await.unwrap();
        let mut ready = [0; 6];
        timeout(SAFETY, child.stdout.as_mut().unwrap().read_exact(&mut ready)).await.unwrap().unwrap();
        let limited = |mark: &str| {
            let limits = |entry: std::fs::DirEntry| {
                let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
                let limits = std::fs::read_to_string(entry.path().join("limits")).ok()?;
                (!stat.contains(") Z ")).then_some(limits)
            };
            let all = std::fs::read_dir("/proc").unwrap().flatten().filter_map(limits);
            all.filter(|limits| limits.contains(mark)).count()
        };
        assert!(limited(&mark.to_string()) >= 3, "{shell:?}: all three carry it");
        let (code, out, _) = finish(start(&shell, &ending(mark))).await;
        assert_eq!((code, out.as_str()), (Some(0), ""), "{shell:?}");
        assert_eq!(limited(&mark.to_string()), 0, "{shell:?}");
        finish(child).await;
    }
}

#[tokio::test]
async fn one_that_waits_for_its_permission_is_ended_too() {
    for (number, shell) in shells().into_iter().enumerate() {
        let mark = mark(number + 200);
        let mut child = start(&shell, &wrapped(Kind::Command, &["/bin/true".into()], &[], SAFETY, mark));
        let id = child.id().unwrap();
        // It reads its input once its watcher runs.
        let children = format!("/proc/{id}/task/{id}/children");
        while std::fs::read_to_string(&children).unwrap_or_default().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let (code, out, _) = finish(start(&shell, &ending(mark))).await;
        assert_eq!((code, out.as_str()), (Some(0), ""), "{shell:?}");
        let ended = timeout(SAFETY, child.wait()).await.unwrap().unwrap();
        assert_eq!(ended.code(), None, "{shell:?}: it was killed");
    }
}

#[test]
fn what_cannot_be_passed_is_refused_by_name() {
    for value in ["a\nb", "a\rb", "a\0b"] {
        let why = preamble(&[("TOKEN".to_owned(), value.to_owned())]).unwrap_err();
        assert!(why.contains("`TOKEN`") && !why.contains(value), "{why}");
    }
    for name in ["_sp_p", "STILLPOINT_COMMAND"] {
        let why = preamble(&[(name.to_owned(), String::new())]).unwrap_err();
        assert!(why.contains("one of Stillpoint's own"), "{why}");
    }
}
