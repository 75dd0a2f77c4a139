use std::time::Duration;

use super::*;
use crate::api::Probe;
use crate::ports::{ExecError, ExecRequest, PodExec, SessionRequest};

fn request(line: &str) -> ExecRequest {
    ExecRequest {
        target: target(),
        argv: vec!["/bin/sh".into(), "-c".into(), line.into()],
        timeout: Duration::from_secs(20),
        output_limit: 64,
    }
}

fn session(line: &str) -> SessionRequest {
    SessionRequest {
        target: target(),
        argv: vec!["/bin/sh".into(), "-c".into(), line.into()],
        send: vec!["hello".into()],
        ready: "held".into(),
        limit: Duration::from_secs(20),
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
    assert!(still_running);
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
    assert!(error.contains("kubectl create rolebinding stillpoint-exec -n shop"), "{error}");
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
