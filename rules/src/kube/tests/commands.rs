use std::time::Duration;

use super::*;
use crate::api::Probe;
use crate::ports::{ExecError, ExecRequest, Mark, PodExec, Secrets, SessionRequest};

/// Another one at each call, as other steps have it.
fn mark() -> Mark {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    Mark::of(&format!("{}-{number}", std::process::id()), "step", &target())
}

fn request(line: &str) -> ExecRequest {
    ExecRequest {
        target: target(),
        argv: vec!["/bin/sh".into(), "-c".into(), line.into()],
        env: vec![],
        mark: mark(),
        timeout: Duration::from_secs(20),
        output_limit: 64,
    }
}

fn session(line: &str) -> SessionRequest {
    SessionRequest {
        target: target(),
        argv: vec!["/bin/sh".into(), "-c".into(), line.into()],
        env: vec![],
        mark: mark(),
        send: vec!["hello".into()],
        ready: "held".into(),
        limit: Duration::from_secs(20),
        heartbeat: None,
        output_limit: 1024,
    }
}

#[tokio::test]
async fn a_command_gives_its_exit_code_and_both_outputs() {
    let (_cluster, pods) = cluster().await;
    let outcome = pods.exec(request("echo 'out + %'; echo err >&2; exit 7")).await.unwrap();
    assert_eq!((outcome.exit_code, outcome.output.as_str()), (7, "out + %\nerr\n"));
    assert_eq!(pods.exec(request("true")).await.unwrap().exit_code, 0);
}

#[tokio::test]
async fn output_is_kept_within_its_limit_however_much_there_is() {
    let (_cluster, pods) = cluster().await;
    let outcome = pods.exec(request("echo first; seq 1 200000; echo last")).await.unwrap();
    assert!(
        outcome.output.starts_with("first\n") && outcome.output.ends_with("last\n"),
        "{}",
        outcome.output
    );
    assert!(outcome.output.len() < 200 && outcome.omitted_bytes > 1_000_000, "{outcome:?}");
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_given_up_with_what_it_said() {
    let (_cluster, pods) = cluster().await;
    let request =
        ExecRequest { timeout: Duration::from_millis(1500), ..request("echo begun; exec sleep 30") };
    let error = pods.exec(request).await.unwrap_err();
    let ExecError::TimedOut { still_running, output, .. } = &error else { panic!("{error}") };
    assert!(!still_running, "its end was asked for and seen");
    assert_eq!(output, "begun\n");
}

#[tokio::test]
async fn another_incarnation_of_the_pod_is_not_worked_with() {
    let (cluster, pods) = cluster().await;
    cluster.put(POD, ready_pod("db-0", "u2"));
    let error = pods.exec(request("true")).await.unwrap_err();
    assert!(error.to_string().contains("replaced by another pod"), "{error}");
    cluster.remove(POD);
    assert!(matches!(pods.exec(request("true")).await, Err(ExecError::PodChanged { .. })));
    assert!(cluster.log().iter().all(|line| !line.contains("/exec")), "nothing was executed");
}

#[tokio::test]
async fn a_container_that_does_not_run_is_named() {
    let (_cluster, pods) = cluster().await;
    let mut request = request("true");
    request.target.container = "sidecar".into();
    let error = pods.exec(request).await.unwrap_err();
    assert!(error.to_string().contains("container `sidecar` does not run"), "{error}");
}

#[tokio::test]
async fn a_forbidden_exec_names_the_command_that_allows_it() {
    let (cluster, pods) = cluster().await;
    cluster.refuse("/exec", 403);
    let error = pods.exec(request("true")).await.unwrap_err().to_string();
    assert!(error.contains("kubectl stillpoint allow -n shop"), "{error}");
    let execs = cluster.log().iter().filter(|line| line.contains("/exec")).count();
    assert_eq!(execs, 1, "it is not asked again");
}

#[tokio::test]
async fn a_node_that_refuses_for_a_moment_is_asked_again() {
    let (cluster, pods) = cluster().await;
    cluster.refuse("/exec", 502);
    let running = tokio::spawn(async move { pods.exec(request("echo done")).await });
    while !cluster.log().iter().any(|line| line.contains("/exec")) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cluster.relent();
    assert_eq!(running.await.unwrap().unwrap().output, "done\n");
}

#[tokio::test]
async fn a_session_holds_proves_itself_and_ends_when_it_is_released() {
    let (_cluster, pods) = cluster().await;
    let script = "read x; echo $x held; while read x; do echo still-$x; done; echo let go";
    let mut session = pods.session(session(script)).await.unwrap();
    session.prove(None).await.unwrap();
    session.prove(Some(&Probe { send: "there".into(), expect: "still-there".into() })).await.unwrap();
    let outcome = session.release(&["last".into()]).await.unwrap();
    assert_eq!(outcome.exit_code, 0);
    assert_eq!(outcome.output, "hello held\nstill-there\nstill-last\nlet go\n");
}

#[tokio::test]
async fn a_session_that_is_dropped_reaches_the_end_of_its_input() {
    let (_cluster, pods) = cluster().await;
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("let-go");
    let script = format!("echo held; while read x; do :; done; touch {}", mark.display());
    drop(pods.session(session(&script)).await.unwrap());
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !mark.exists() {
        assert!(std::time::Instant::now() < deadline, "the session was not let go");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_session_past_its_limit_is_closed_and_proves_nothing() {
    let (_cluster, pods) = cluster().await;
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("let-go");
    let script = format!("echo held; while read x; do :; done; touch {}", mark.display());
    let request = SessionRequest { limit: Duration::from_millis(1500), ..session(&script) };
    let mut session = pods.session(request).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1600)).await;
    assert!(matches!(session.prove(None).await, Err(ExecError::TimedOut { .. })));
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !mark.exists() {
        assert!(std::time::Instant::now() < deadline, "the session was not closed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_session_that_ends_too_early_says_how_and_what_it_said() {
    let (_cluster, pods) = cluster().await;
    let error = pods.session(session("echo no such database >&2; exit 3")).await.err().unwrap().to_string();
    assert!(error.contains("ended before it said `held`") && error.contains("exit code 3"), "{error}");
    assert!(error.contains("no such database"), "{error}");
    let mut lost = pods.session(session("echo held; read x; exit 4")).await.unwrap();
    let probe = Probe { send: "x".into(), expect: "never".into() };
    let error = lost.prove(Some(&probe)).await.unwrap_err().to_string();
    assert!(error.contains("exit code 4"), "{error}");
}

fn leftovers(mark: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let line =
        |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
    processes.map(line).filter(|line| line.contains(mark) && !line.contains("/bin/sh")).count()
}

async fn nothing_is_left(mark: &str) {
    let gone = async {
        while leftovers(mark) > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap_or_else(|_| panic!("{mark} runs on"));
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_ended_in_the_container_with_all_that_it_started() {
    let (_cluster, pods) = cluster().await;
    let line = "trap '' TERM; sleep 98761 & echo begun; while :; do sleep 0.1; done";
    let request = ExecRequest { timeout: Duration::from_millis(1500), ..request(line) };
    let error = pods.exec(request).await.unwrap_err();
    assert!(matches!(error, ExecError::TimedOut { still_running: false, .. }), "{error}");
    nothing_is_left("98761").await;
}

#[tokio::test]
async fn what_left_its_group_or_cleared_its_environment_is_ended_too_before_its_end_is_said() {
    let (_cluster, pods) = cluster().await;
    let line = "setsid sleep 98765 & env -i /usr/bin/setsid --fork /bin/sleep 98766; sleep 98767";
    let request = ExecRequest { timeout: Duration::from_millis(1500), ..request(line) };
    let mark = request.mark;
    let error = pods.exec(request).await.unwrap_err();
    let ExecError::TimedOut { still_running, .. } = error else { panic!("{error}") };
    if still_running {
        // On a busy machine looking at all its processes takes longer than a command may be late.
        let proven = async { while pods.end(&target(), mark).await.is_err() {} };
        tokio::time::timeout(Duration::from_mins(1), proven).await.expect("its end is proven");
    }
    for mark in ["98765", "98766", "98767"] {
        assert_eq!(leftovers(mark), 0, "{mark}");
    }
}

#[tokio::test]
async fn a_container_without_a_shell_proves_no_end() {
    let (_cluster, pods) = cluster().await;
    pods.shells().is_missing(&target());
    let argv = ["sleep", "2"].map(str::to_owned).to_vec();
    let request = ExecRequest { argv, timeout: Duration::from_millis(300), ..request("") };
    let error = pods.exec(request).await.unwrap_err().to_string();
    assert!(error.ends_with("it may still run there"), "{error}");
    let error = pods.end(&target(), mark()).await.unwrap_err().to_string();
    assert!(error.contains("has no /bin/sh"), "{error}");
}

#[tokio::test]
async fn a_command_that_nobody_waits_for_any_more_is_ended_in_the_container() {
    let (_cluster, pods) = cluster().await;
    let running = tokio::spawn(async move { pods.exec(request("exec sleep 98762")).await });
    while leftovers("98762") == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.abort();
    nothing_is_left("98762").await;
}

#[tokio::test]
async fn a_session_is_ended_in_the_container_at_its_limit_even_when_its_input_stays_open() {
    // As when containerd dies: nobody closes anything, only the wrapper is there.
    let argv = ["/bin/sh", "-c", "echo held; sleep 98763; :"].map(str::to_owned);
    let line =
        crate::kube::wrap::wrapped(crate::kube::wrap::Kind::Session, &argv, &[], Duration::ZERO, mark());
    let mut child = tokio::process::Command::new(&line[0])
        .args(&line[1..])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    let status =
        tokio::time::timeout(Duration::from_secs(20), child.wait()).await.expect("it is ended").unwrap();
    assert!(!status.success());
    nothing_is_left("98763").await;
}

#[tokio::test]
async fn variables_reach_a_command_and_a_session_without_standing_on_a_command_line() {
    let (_cluster, pods) = cluster().await;
    let env = vec![("SECRET".to_owned(), "p w'\"$x".to_owned()), ("OTHER".to_owned(), String::new())];
    let line = "printf '%s|%s|' \"$SECRET\" \"$OTHER\"; case \"$(tr '\\0' ' ' </proc/$$/cmdline)\" in *\"$SECRET\"*) echo shown;; esac; cat";
    let outcome = pods.exec(ExecRequest { env: env.clone(), ..request(line) }).await.unwrap();
    assert_eq!(outcome.output, "p w'\"$x||", "and its own input is empty");
    let line = "read a; echo \"held $a $SECRET\"; cat";
    let session = pods.session(SessionRequest { env, ..session(line) }).await.unwrap();
    let outcome = session.release(&["bye".to_owned()]).await.unwrap();
    assert_eq!(outcome.output, "held hello p w'\"$x\nbye\n");
    let several = vec![("A".to_owned(), "one\ntwo".to_owned())];
    let error = pods.exec(ExecRequest { env: several, ..request("true") }).await.unwrap_err().to_string();
    assert!(error.contains("several lines"), "{error}");
}

#[test]
fn what_a_runtime_says_of_a_missing_shell_is_understood() {
    let words = "error executing command in container: failed to exec in container: failed to start exec: OCI runtime exec failed: exec failed: unable to start container process: exec: \"/bin/sh\": stat /bin/sh: no such file or directory: unknown";
    assert!(crate::kube::wrap::has_no_shell(words));
    assert!(!crate::kube::wrap::has_no_shell("exec: \"flush\": executable file not found in $PATH"));
}

#[tokio::test]
async fn secrets_are_read_by_key_and_a_missing_right_names_the_command_that_gives_it() {
    let (cluster, pods) = cluster().await;
    let wanted = |key: &str| crate::api::SecretRef { name: "db".into(), key: key.into() };
    cluster.put(
        "/api/v1/namespaces/shop/secrets/db",
        serde_json::json!({ "apiVersion": "v1", "kind": "Secret", "metadata": {}, "data": { "password": "aHVudGVyMgo=" } }),
    );
    assert_eq!(pods.read("shop", &wanted("password")).await.unwrap(), "hunter2");
    let error = pods.read("shop", &wanted("user")).await.unwrap_err().to_string();
    assert!(error.contains("no such key") && !error.contains("hunter2"), "{error}");
    cluster.refuse("/secrets/", 403);
    let error = pods.read("shop", &wanted("password")).await.unwrap_err().to_string();
    assert!(error.contains("kubectl stillpoint allow -n shop --secrets"), "{error}");
}

#[tokio::test]
async fn requests_go_to_the_pods_own_address_and_only_where_commands_are_allowed_too() {
    let (cluster, pods) = cluster().await;
    let server = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = server.local_addr().unwrap().port();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut stream, _)) = server.accept().await {
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await;
        }
    });
    let request = || crate::ports::HttpRequest {
        target: target(),
        method: crate::api::Method::Get,
        port,
        path: "/".into(),
        headers: vec![],
        body: None,
        tls: None,
        timeout: Duration::from_secs(20),
        output_limit: 100,
    };
    let error = pods.http(request()).await.unwrap_err().to_string();
    assert!(error.contains("kubectl stillpoint allow -n shop"), "{error}");
    cluster.allow_exec();
    let mut pod = cluster.get(POD).unwrap();
    pod["status"]["podIP"] = serde_json::json!("127.0.0.1");
    cluster.put(POD, pod.clone());
    let outcome = pods.http(request()).await.unwrap();
    assert_eq!((outcome.status, outcome.output.as_str()), (200, "hello"));
    pod["spec"]["hostNetwork"] = serde_json::json!(true);
    cluster.put(POD, pod);
    let error = pods.http(request()).await.unwrap_err().to_string();
    assert!(error.contains("the network of its node"), "{error}");
}
