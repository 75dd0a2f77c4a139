//! Five hundred pods with real processes: bounded parallelism, bounded memory. In a program of its own, because memory
//! is measured.

#![allow(clippy::unwrap_used)] // what tests call is a test

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stillpoint_rules::engine::{Control, Engine, Limits, NothingCut, Ports, RunRequest};
use stillpoint_rules::machine::Phase;
use stillpoint_rules::plan::CutVolume;
use stillpoint_rules::ports::NoSecrets;
use stillpoint_rules::standalone::{FileJournal, NamesAreIds, PodDefinition, StandalonePods};
use stillpoint_rules::text;

const PODS: usize = 500;
/// What a controller may take for it.
const MEMORY_KIB: u64 = 80 * 1024;

fn definition(number: usize) -> PodDefinition {
    PodDefinition {
        name: format!("db-{number}"),
        namespace: "default".into(),
        labels: BTreeMap::from([("app".into(), "db".into())]),
        host: "a".into(),
        containers: vec!["main".into()],
        volumes: vec![],
        exec: vec![],
        env: BTreeMap::new(),
        cwd: None,
        address: None,
    }
}

fn most_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_pods_are_worked_with_together_in_bounded_memory() {
    let directory = tempfile::tempdir().unwrap();
    let pods = Arc::new(StandalonePods::fixed((0..PODS).map(definition).collect(), Arc::new(NamesAreIds)));
    let ports = Ports {
        inventory: pods.clone(),
        exec: pods,
        secrets: Arc::new(NoSecrets),
        cutter: Arc::new(NothingCut),
        journal: Arc::new(FileJournal::open(directory.path().to_owned()).unwrap()),
    };
    let rule = "
apiVersion: stillpoint.dev/v1alpha1
kind: Rule
metadata: {name: crowd}
spec:
  steps:
  - name: all
    pods: {selector: {matchLabels: {app: db}}, min: 500}
    before: {shell: \"head -c 100000 /dev/zero | tr '\\\\0' x; sleep 2\", timeout: 5m}
";
    let engine = Engine::new(ports, Limits { parallel_pods: PODS, ..Limits::default() });
    let request = RunRequest {
        name: "crowd".into(),
        rule: Some(text::parse(rule).unwrap()),
        volumes: vec![CutVolume { id: "v".into(), name: "v".into(), host: "a".into() }],
        namespaces: vec![],
        budget: Duration::from_mins(10),
        params: BTreeMap::new(),
        waiting_since: None,
        rehearsal: true,
    };
    let began = Instant::now();
    let run = engine.run(request, Control::default()).await;
    let took = began.elapsed();
    assert_eq!((run.phase, run.attempts.len()), (Phase::Succeeded, PODS), "{:?}", run.failures);
    assert!(
        run.attempts.iter().all(|attempt| attempt.output.len() < 17_000 && attempt.omitted_bytes > 80_000)
    );
    let slowest = run.attempts.iter().map(|attempt| attempt.duration_us).max().unwrap();
    let memory = most_kib();
    eprintln!("{PODS} pods: {took:?}, the slowest {} ms, at most {} KiB of memory", slowest / 1000, memory);
    assert!(memory <= MEMORY_KIB, "{memory} KiB");
    // Never more than the bound at once is shown by the engine's tests in virtual time; here, that they do not wait
    // for each other: one by one they would take 1000 s.
    assert!(took < Duration::from_mins(8), "{took:?}");
}
