//! Real processes and real files.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::kill;
use nix::unistd::Pid;
use proptest::prelude::*;
use tokio::time::{sleep, timeout};

use super::*;
use crate::api::Probe;
use crate::machine::Phase;
use crate::ports::*;
use crate::run::Run;

/// Far more than anything here takes; only a hang reaches it.
const SAFETY: Duration = Duration::from_secs(30);

fn definition(name: &str) -> PodDefinition {
    PodDefinition {
        name: name.into(),
        namespace: "default".into(),
        labels: BTreeMap::from([("app".into(), "db".into())]),
        host: "a".into(),
        containers: vec!["main".into()],
        volumes: vec!["data".into()],
        exec: vec![],
        env: BTreeMap::new(),
        cwd: None,
        address: None,
    }
}

fn pods(definition: PodDefinition) -> (StandalonePods, PodTarget) {
    let target = PodTarget {
        namespace: definition.namespace.clone(),
        pod: definition.name.clone(),
        uid: definition.uid(),
        container: "main".into(),
    };
    (StandalonePods::fixed(vec![definition], Arc::new(NamesAreIds)), target)
}

async fn exec(definition: PodDefinition, argv: &[&str], limit: Duration) -> Result<ExecOutcome, ExecError> {
    let (pods, target) = pods(definition);
    let argv = argv.iter().map(|arg| (*arg).to_owned()).collect();
    let request = ExecRequest { target, argv, env: vec![], timeout: limit, output_limit: 4096 };
    timeout(SAFETY, pods.exec(request)).await.expect("it comes back")
}

async fn sh(line: &str) -> Result<ExecOutcome, ExecError> {
    exec(definition("db"), &["sh", "-c", line], SAFETY).await
}

fn alive(pid: i32) -> bool {
    // A zombie has ended; only nobody has fetched it yet.
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    kill(Pid::from_raw(pid), None).is_ok() && !state.contains(") Z ")
}

async fn dies(pid: i32) {
    let gone = async {
        while alive(pid) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SAFETY, gone).await.unwrap_or_else(|_| panic!("{pid} is still there"));
}

async fn pid_in(path: &Path) -> i32 {
    let found = async {
        loop {
            if let Ok(Ok(pid)) = std::fs::read_to_string(path).map(|text| text.trim().parse()) {
                return pid;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SAFETY, found).await.expect("the process wrote its id")
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
    let request = ExecRequest { target, argv, env: vec![], timeout: SAFETY, output_limit: 10 };
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

async fn session(line: &str, send: &[&str], limit: Duration) -> Result<Box<dyn Session>, ExecError> {
    let (pods, target) = pods(definition("db"));
    let request = SessionRequest {
        target,
        argv: ["sh", "-c", line].map(str::to_owned).to_vec(),
        env: vec![],
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

const INVENTORY: &str = "
pods:
- name: db-1
  namespace: shop
  labels: {app: db}
  host: node-b
  containers: [cassandra, side]
  volumes: [data-1, wal-1]
  exec: [nsenter, -t, '4711', -m, --]
  env: {JAVA_HOME: /opt/java}
  cwd: /tmp
- name: db-0
  host: node-a
";

struct Known;

#[async_trait::async_trait]
impl VolumeNames for Known {
    async fn ids(&self, names: &[String]) -> Result<BTreeMap<String, String>, String> {
        Ok(names.iter().filter(|n| *n != "wal-1").map(|n| (n.clone(), format!("id-{n}"))).collect())
    }
}

#[tokio::test]
async fn an_inventory_is_read_with_its_defaults_and_its_volumes_resolved() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), INVENTORY).unwrap();
    let inventory = StandalonePods::from_file(file.path().to_owned(), Arc::new(Known)).unwrap();
    let pods = inventory.pods(&[]).await.unwrap();
    assert_eq!(
        (pods[0].namespace.as_str(), pods[0].containers.as_slice()),
        ("default", &["main".to_owned()][..])
    );
    assert_eq!(pods[0].state, PodState::Ready);
    assert_eq!(pods[1].volumes, ["id-data-1"]);
    assert_eq!(pods[1].state, PodState::NotReady("its volume `wal-1` does not exist".into()));
    assert_eq!(inventory.pods(&["shop".into()]).await.unwrap().len(), 1);
    let uid = pods[1].uid.clone();
    std::fs::write(file.path(), INVENTORY.replace("4711", "4712")).unwrap();
    let pods = inventory.pods(&["shop".into()]).await.unwrap();
    assert_ne!(pods[0].uid, uid, "another process is another incarnation");
    std::fs::write(file.path(), "pods: nonsense").unwrap();
    let error = inventory.pods(&[]).await.unwrap_err().to_string();
    assert!(error.contains("line 1, column 7: pods: this is text"), "{error}");
}

#[test]
fn mistakes_in_an_inventory_are_named() {
    let table = [
        ("pods: [{name: a}]", "pods[0]: `host` is missing"),
        ("pods: [{name: a, host: h, lables: {}}]", "did you mean `labels`?"),
        ("pods: [{name: a, host: h}, {name: a, host: i}]", "a second pod default/a"),
        ("pods: [{name: a, host: h, cwd: tmp}]", "a relative path"),
        ("pods: [{name: a, host: h, exec: [nsenter, -t, 4711]}]", "pods[0].exec[2]: this is a number"),
        ("pods: [{name: A_b, host: h}]", "`A_b` is not a valid name"),
        ("pds: []", "did you mean `pods`"),
    ];
    for (text, expected) in table {
        let error = parse_inventory(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    let value = serde_json::json!([{ "name": "a", "host": "h" }]);
    assert_eq!(pods_from_value(&value).unwrap()[0].name, "a");
    assert!(pods_from_value(&serde_json::json!("x")).is_err());
}

fn run_in(phase: Phase) -> Run {
    let mut run = Run::new("../cut", Some("rule"), jiff::Timestamp::now());
    run.phase = phase;
    run
}

#[tokio::test]
async fn a_journal_remembers_runs_over_a_restart_and_cleans_up_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("runs");
    let journal = FileJournal::open(path.clone()).unwrap();
    let (mut open, ended) = (run_in(Phase::Cutting), run_in(Phase::Succeeded));
    journal.persist(&open).await.unwrap();
    journal.persist(&ended).await.unwrap();
    std::fs::write(path.join("half.new"), "{").unwrap();
    std::fs::write(path.join("damaged.json"), "{").unwrap();
    let journal = FileJournal::open(path.clone()).unwrap();
    assert!(!path.join("half.new").exists());
    assert_eq!(journal.unfinished().await.unwrap(), vec![open.clone()]);
    assert_eq!(journal.list().unwrap(), vec![ended.clone(), open.clone()], "the newest first");
    open.phase = Phase::Failed;
    journal.persist(&open).await.unwrap();
    assert!(journal.unfinished().await.unwrap().is_empty());
    assert_eq!(journal.of_cut("../cut").unwrap().unwrap().id, ended.id);
    assert!(journal.of_cut("other").unwrap().is_none());
}

#[tokio::test]
async fn a_journal_whose_directory_is_gone_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let journal = FileJournal::open(dir.path().join("runs")).unwrap();
    std::fs::remove_dir_all(dir.path().join("runs")).unwrap();
    let error = journal.persist(&run_in(Phase::Cutting)).await.unwrap_err().to_string();
    assert!(error.contains("could not be written") && error.contains("check its disk"), "{error}");
}

proptest! {
    #[test]
    fn no_text_makes_the_inventory_reader_panic(text in "\\PC{0,120}") {
        let _ = parse_inventory(&text);
    }
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

#[tokio::test]
async fn variables_are_given_to_commands_and_sessions() {
    let (pods, target) = pods(definition("db"));
    let argv = ["sh", "-c", "echo \"$SECRET\""].map(str::to_owned).to_vec();
    let env = vec![("SECRET".to_owned(), "a b".to_owned())];
    let request = ExecRequest { target, argv, env, timeout: SAFETY, output_limit: 100 };
    assert_eq!(pods.exec(request).await.unwrap().output, "a b\n");
}

#[tokio::test]
async fn secrets_are_files_of_one_directory_and_nothing_else_is() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("db")).unwrap();
    std::fs::write(dir.path().join("db/password"), "hunter2\n").unwrap();
    std::fs::write(dir.path().join("secret"), "no").unwrap();
    let secrets = FileSecrets::new(dir.path().to_owned());
    let wanted = |name: &str, key: &str| crate::api::SecretRef { name: name.into(), key: key.into() };
    assert_eq!(secrets.read("any", &wanted("db", "password")).await.unwrap(), "hunter2");
    for (name, key) in
        [("db", "user"), ("db", ".."), ("..", "passwd"), ("db/..", "secret"), ("db", "../secret")]
    {
        let error = secrets.read("any", &wanted(name, key)).await.unwrap_err().to_string();
        assert!(error.contains("cannot be read") && !error.contains("hunter2"), "{error}");
    }
}

fn http_request(target: PodTarget, port: u16) -> HttpRequest {
    HttpRequest {
        target,
        method: crate::api::Method::Post,
        port,
        path: "/flush?now".into(),
        headers: vec![("authorization".into(), "Bearer t".into())],
        body: Some("{}".into()),
        tls: None,
        timeout: SAFETY,
        output_limit: 64,
    }
}

/// Answers every request with what it got.
async fn echo(stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (mut stream, mut head) = (stream, vec![0; 4096]);
    let length = stream.read(&mut head).await.unwrap_or(0);
    let text = String::from_utf8_lossy(&head[..length]).replace("\r\n", "|");
    let answer = format!("HTTP/1.1 418 Tea\r\ncontent-length: {}\r\n\r\n{text}", text.len());
    let _ = stream.write_all(answer.as_bytes()).await;
}

#[tokio::test]
async fn a_request_goes_to_the_pods_address_with_headers_and_body() {
    let server = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = server.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = server.accept().await {
            echo(stream).await;
        }
    });
    let (pods, target) = pods(PodDefinition { address: Some("127.0.0.1".into()), ..definition("db") });
    let request = HttpRequest { output_limit: 4096, ..http_request(target, port) };
    let outcome = timeout(SAFETY, pods.http(request)).await.unwrap().unwrap();
    assert_eq!(outcome.status, 418);
    let said = &outcome.output;
    assert!(
        said.starts_with("POST /flush?now HTTP/1.1|") && said.contains("authorization: Bearer t|"),
        "{said}"
    );
    assert!(said.contains(&format!("host: 127.0.0.1:{port}|")) && said.contains("|{}"), "{said}");
    let (nowhere, target) = super::tests::pods(definition("db"));
    let error = nowhere.http(http_request(target, port)).await.unwrap_err().to_string();
    assert!(error.contains("gives it no `address`"), "{error}");
}

#[tokio::test]
async fn over_tls_only_a_certificate_of_the_named_authority_is_accepted() {
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::{ServerConfig, crypto};

    let own = rcgen::generate_simple_self_signed(vec!["db.example".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["db.example".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let server = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = server.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = server.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await {
                echo(stream).await;
            }
        }
    });
    let (pods, target) = pods(PodDefinition { address: Some("127.0.0.1".into()), ..definition("db") });
    let request = |ca_pem: String, name: Option<&str>| HttpRequest {
        tls: Some(HttpTrust { ca_pem, server_name: name.map(str::to_owned) }),
        ..http_request(target.clone(), port)
    };
    let good = pods.http(request(own.cert.pem(), Some("db.example"))).await.unwrap();
    assert_eq!(good.status, 418);
    for (ca, name) in [
        (other.cert.pem(), Some("db.example")),
        (own.cert.pem(), Some("other.example")),
        (own.cert.pem(), None),
        ("no certificate".to_owned(), None),
    ] {
        let error = pods.http(request(ca, name)).await.unwrap_err();
        assert!(matches!(error, ExecError::NotStarted { .. }), "{error}");
        assert!(error.to_string().contains("no TLS"), "{error}");
    }
}
