//! Commands as real processes.

use super::*;

async fn exec(definition: PodDefinition, argv: &[&str], limit: Duration) -> Result<ExecOutcome, ExecError> {
    let (pods, target) = pods(definition);
    let argv = argv.iter().map(|arg| (*arg).to_owned()).collect();
    let request = ExecRequest { target, argv, env: vec![], mark: mark(), timeout: limit, output_limit: 4096 };
    timeout(SAFETY, pods.exec(request)).await.expect("it comes back")
}

async fn sh(line: &str) -> Result<ExecOutcome, ExecError> {
    exec(definition("db"), &["sh", "-c", line], SAFETY).await
}

#[tokio::test]
async fn a_command_gives_its_exit_code_and_both_outputs() {
    let outcome = sh("echo out; echo err >&2; exit 7").await.unwrap();
    assert_eq!(outcome, ExecOutcome { exit_code: 7, output: "out\nerr\n".into(), omitted_bytes: 0 });
    assert_eq!(sh("kill -9 $$").await.unwrap().exit_code, 137);
}

#[tokio::test]
async fn arguments_are_passed_as_they_are_behind_the_prefix_with_environment_and_directory() {
    let mut wrapped = definition("db");
    wrapped.exec = vec!["env".into(), "PREFIXED=yes".into()];
    wrapped.env = BTreeMap::from([("GREETING".into(), "hello".into())]);
    wrapped.cwd = Some("/proc".into());
    let line = "printf '%s|' \"$PREFIXED\" \"$GREETING\" \"$PWD\" \"$@\"";
    let outcome = exec(wrapped, &["sh", "-c", line, "sh", "a b", "$HOME; rm", "*"], SAFETY).await.unwrap();
    assert_eq!(outcome.output, "yes|hello|/proc|a b|$HOME; rm|*|");
}

#[tokio::test]
async fn a_command_that_cannot_be_started_says_why() {
    let error = exec(definition("db"), &["no-such-program-here"], SAFETY).await.unwrap_err();
    let words = error.to_string();
    assert!(matches!(error, ExecError::NotStarted { .. }));
    assert!(words.contains("could not start the command in default/db"), "{words}");
    assert!(words.contains("there is no program `no-such-program-here`; install it"), "{words}");
    let words = exec(definition("db"), &["/etc/passwd"], SAFETY).await.unwrap_err().to_string();
    assert!(words.contains("may not be executed"), "{words}");
    let nowhere = PodDefinition { cwd: Some("/nowhere".into()), ..definition("db") };
    let words = exec(nowhere, &["true"], SAFETY).await.unwrap_err().to_string();
    assert!(words.contains("working directory /nowhere does not exist"), "{words}");
}

#[tokio::test]
async fn a_command_that_hangs_is_ended_with_everything_that_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("child");
    let line = format!("echo before; sleep 1000 & echo $! > {}; wait", file.display());
    let error = exec(definition("db"), &["sh", "-c", &line], Duration::from_millis(300)).await.unwrap_err();
    let ExecError::TimedOut { still_running, output, .. } = error else { panic!("{error}") };
    assert_eq!((still_running, output.as_str()), (false, "before\n"));
    dies(pid_in(&file).await).await;
}

#[tokio::test]
async fn what_left_its_group_its_environment_and_its_parent_is_ended_too() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("daemon");
    let daemon = format!("echo $$ > {}; trap '' TERM; while :; do sleep 0.05; done", file.display());
    // `setsid --fork` leaves a process behind that nobody is the parent of, in a session and group of its own.
    let line = format!("env -i /usr/bin/setsid --fork /bin/sh -c \"{daemon}\"; sleep 1000");
    let line = line.replace("$$", "\\$\\$");
    let error = exec(definition("db"), &["sh", "-c", &line], Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(error, ExecError::TimedOut { still_running: false, .. }), "{error}");
    assert!(!alive(pid_in(&file).await), "its end was said, so it has ended");
}

#[tokio::test]
async fn what_another_program_starts_elsewhere_is_never_said_to_have_ended() {
    let dir = tempfile::tempdir().unwrap();
    let remote = dir.path().join("ssh");
    std::fs::write(&remote, "#!/bin/sh\nexec \"$@\"\n").unwrap();
    std::fs::set_permissions(&remote, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let far = PodDefinition { exec: vec![remote.display().to_string()], ..definition("db") };
    let error = exec(far, &["sleep", "1000"], Duration::from_millis(300)).await.unwrap_err();
    assert!(error.to_string().ends_with("it may still run there"), "{error}");
}

#[tokio::test]
async fn what_carries_the_mark_of_a_command_is_found_and_ended_by_the_next_process() {
    let (pods, target) = pods(definition("db"));
    let mark = mark();
    let mut left = tokio::process::Command::new("sleep")
        .arg("1000")
        .env(Mark::VARIABLE, mark.to_string())
        .process_group(0)
        .spawn()
        .unwrap();
    let gone = PodTarget { pod: "gone".into(), ..target };
    timeout(SAFETY, pods.end(&gone, mark)).await.unwrap().unwrap();
    assert!(!alive(i32::try_from(left.id().unwrap()).unwrap()));
    left.wait().await.unwrap();
}

#[tokio::test]
async fn a_command_that_ignores_the_polite_signal_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let line = format!("trap '' TERM; echo $$ > {}; while :; do sleep 0.05; done", file.display());
    let error = exec(definition("db"), &["sh", "-c", &line], Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(error, ExecError::TimedOut { still_running: false, .. }), "{error}");
    dies(pid_in(&file).await).await;
}

#[tokio::test]
async fn a_command_that_nobody_waits_for_any_more_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("child");
    let line = format!("sleep 1000 & echo $! > {}; wait", file.display());
    let (pods, target) = pods(definition("db"));
    let argv = ["sh", "-c", &line].map(str::to_owned).to_vec();
    let request = ExecRequest { target, argv, env: vec![], mark: mark(), timeout: SAFETY, output_limit: 10 };
    let task = tokio::spawn(async move { pods.exec(request).await });
    let pid = pid_in(&file).await;
    assert!(alive(pid));
    task.abort();
    dies(pid).await;
}

#[tokio::test]
async fn what_a_command_leaves_behind_on_purpose_stays_and_does_not_keep_it_open() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("daemon");
    let outcome = sh(&format!("sleep 1000 & echo $! > {}; echo done", file.display())).await.unwrap();
    assert_eq!(outcome.output, "done\n");
    let pid = pid_in(&file).await;
    assert!(alive(pid));
    kill(Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn two_hundred_megabytes_of_output_are_counted_and_not_kept() {
    let before = resident_kib();
    let outcome = sh("echo first; head -c 200000000 /dev/zero | tr '\\0' x; echo; echo last").await.unwrap();
    assert_eq!(outcome.exit_code, 0);
    assert_eq!(outcome.omitted_bytes, 200_000_000 + 12 - 4096);
    assert!(outcome.output.len() < 4200, "{}", outcome.output.len());
    assert!(outcome.output.starts_with("first\nxxx") && outcome.output.ends_with("xxx\nlast\n"));
    let grown = resident_kib() - before;
    assert!(grown < 60 * 1024, "memory grew by {grown} KiB");
}

#[tokio::test]
async fn output_that_is_no_text_is_made_text() {
    let outcome = sh(r"printf 'a\377\376b'").await.unwrap();
    assert_eq!(outcome.output, "a\u{fffd}\u{fffd}b");
}

#[tokio::test]
async fn a_pod_that_is_gone_or_another_one_is_not_worked_with() {
    let (pods, mut target) = pods(definition("db"));
    let request = |target: &PodTarget| ExecRequest {
        target: target.clone(),
        argv: vec!["true".into()],
        env: vec![],
        mark: mark(),
        timeout: SAFETY,
        output_limit: 10,
    };
    assert!(pods.exec(request(&target)).await.is_ok());
    target.uid = "another".into();
    let error = pods.exec(request(&target)).await.unwrap_err();
    assert!(matches!(error, ExecError::PodChanged { .. }), "{error}");
    target.pod = "gone".into();
    let error = pods.exec(request(&target)).await.unwrap_err().to_string();
    assert!(error.contains("no longer in the inventory"), "{error}");
}

#[tokio::test]
async fn variables_are_given_to_commands_and_sessions() {
    let (pods, target) = pods(definition("db"));
    let argv = ["sh", "-c", "echo \"$SECRET\""].map(str::to_owned).to_vec();
    let env = vec![("SECRET".to_owned(), "a b".to_owned())];
    let request = ExecRequest { target, argv, env, mark: mark(), timeout: SAFETY, output_limit: 100 };
    assert_eq!(pods.exec(request).await.unwrap().output, "a b\n");
}
