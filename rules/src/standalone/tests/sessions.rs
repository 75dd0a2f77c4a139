//! Sessions as real processes.

use super::*;

async fn session(line: &str, send: &[&str], limit: Duration) -> Result<Box<dyn Session>, ExecError> {
    let (pods, target) = pods(definition("db"));
    let request = SessionRequest {
        target,
        argv: ["sh", "-c", line].map(str::to_owned).to_vec(),
        env: vec![],
        mark: mark(),
        send: send.iter().map(|line| (*line).to_owned()).collect(),
        ready: "held".into(),
        limit,
        heartbeat: None,
        output_limit: 4096,
    };
    timeout(SAFETY, pods.session(request)).await.expect("it comes back")
}

fn probe() -> Probe {
    Probe { send: "still".into(), expect: "yes still".into() }
}

#[tokio::test]
async fn a_session_holds_proves_it_says_goodbye_and_ends() {
    let line = "read a; echo \"held $a\"; while read x; do echo \"yes $x\"; done; echo released";
    let mut session = session(line, &["please"], SAFETY).await.unwrap();
    session.prove(Some(&probe())).await.unwrap();
    session.prove(None).await.unwrap();
    let outcome = session.release(&["bye".to_owned()]).await.unwrap();
    assert_eq!(outcome.output, "held please\nyes still\nyes bye\nreleased\n");
    assert_eq!(outcome.exit_code, 0);
}

#[tokio::test]
async fn a_session_that_ends_or_never_says_that_it_holds_is_an_error_with_its_last_words() {
    let words = session("echo no lock for you >&2; exit 3", &[], SAFETY).await.err().unwrap().to_string();
    assert!(words.contains("ended before it said `held`, exit code 3: no lock for you"), "{words}");
    let words = session("exit 0", &[], SAFETY).await.err().unwrap().to_string();
    assert!(words.contains("ended before it said `held`, exit code 0"), "{words}");
    let error = session("echo other; cat >/dev/null", &[], Duration::from_millis(300)).await.err().unwrap();
    assert!(matches!(error, ExecError::TimedOut { .. }), "{error}");
}

#[tokio::test]
async fn a_session_that_dies_while_it_holds_cannot_prove_anything() {
    for asked in [None, Some(probe())] {
        let mut session = session("echo held; read x; exit 1", &["die"], SAFETY).await.unwrap();
        sleep(Duration::from_millis(300)).await;
        let error = session.prove(asked.as_ref()).await.unwrap_err();
        assert!(matches!(error, ExecError::Lost { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_session_that_answers_something_else_is_not_believed() {
    let mut session =
        session("echo held; while read x; do echo no; done", &[], Duration::from_millis(500)).await.unwrap();
    let error = session.prove(Some(&probe())).await.unwrap_err();
    assert!(matches!(error, ExecError::TimedOut { .. } | ExecError::Lost { .. }), "{error}");
}

#[tokio::test]
async fn a_session_ends_at_its_limit_whoever_still_waits() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let line = format!("trap '' TERM; echo $$ > {}; echo held; while :; do sleep 0.05; done", file.display());
    let session = session(&line, &[], Duration::from_millis(400)).await.unwrap();
    dies(pid_in(&file).await).await;
    assert!(
        session
            .release(&[])
            .await
            .is_err_and(|error| matches!(error, ExecError::Lost { .. } | ExecError::TimedOut { .. }))
    );
}

#[tokio::test]
async fn a_session_that_is_dropped_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let line = format!("trap '' TERM; echo $$ > {}; echo held; while :; do sleep 0.05; done", file.display());
    let session = session(&line, &[], SAFETY).await.unwrap();
    let pid = pid_in(&file).await;
    assert!(alive(pid));
    drop(session);
    dies(pid).await;
}

#[tokio::test]
async fn heartbeats_reach_a_script_and_when_they_stop_it_lets_go() {
    let (pods, target) = pods(definition("db"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("undone");
    let line = format!("echo held; while read -t 2 x; do echo beat; done; echo yes > {}", file.display());
    let request = SessionRequest {
        target,
        argv: vec!["bash".into(), "-c".into(), line],
        env: vec![],
        mark: mark(),
        send: vec![],
        ready: "beat".into(),
        limit: SAFETY,
        heartbeat: Some(Duration::from_millis(100)),
        output_limit: 4096,
    };
    let mut session = timeout(SAFETY, pods.session(request)).await.unwrap().unwrap();
    session.prove(None).await.unwrap();
    assert!(!file.exists(), "it holds as long as lines come");
    session.release(&[]).await.unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "yes\n");
}
