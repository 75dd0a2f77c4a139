//! A process that is told to end while a real command hangs, and the next one.

use super::*;
use crate::engine::{Control, Engine, Limits, NothingCut, Ports, RunRequest};
use crate::plan::CutVolume;
use crate::run::DebtState;

fn engine(definition: PodDefinition, journal: &FileJournal) -> Engine {
    let pods = Arc::new(StandalonePods::fixed(vec![definition], Arc::new(NamesAreIds)));
    let ports = Ports {
        inventory: pods.clone(),
        exec: pods,
        secrets: Arc::new(NoSecrets),
        cutter: Arc::new(NothingCut),
        journal: Arc::new(journal.clone()),
    };
    Engine::new(ports, Limits::default())
}

/// An `after` that hangs until there is a file called `put-right`.
fn request() -> RunRequest {
    let rule = "
apiVersion: stillpoint.dev/v1alpha1
kind: Rule
metadata: {name: r}
spec:
  steps:
  - name: lock
    pods: {selector: {matchLabels: {app: db}}}
    before: {shell: touch locked}
    after: {shell: 'test -e put-right || { echo $$ >pid; sleep 1000; }; rm locked', timeout: 1h}
";
    RunRequest {
        name: "cut".into(),
        rule: Some(crate::text::parse(rule).unwrap()),
        volumes: vec![CutVolume { id: "v".into(), name: "v".into(), host: "a".into() }],
        namespaces: vec![],
        budget: SAFETY,
        params: BTreeMap::new(),
        waiting_since: None,
        rehearsal: true,
    }
}

#[tokio::test]
async fn a_process_that_is_told_to_end_leaves_no_command_behind_and_the_next_one_pays() {
    let dir = tempfile::tempdir().unwrap();
    let definition = PodDefinition { cwd: Some(dir.path().to_owned()), ..definition("db") };
    let journal = FileJournal::open(dir.path().join("runs")).unwrap();
    let first = Arc::new(engine(definition.clone(), &journal));
    let running = tokio::spawn({
        let first = Arc::clone(&first);
        async move { first.run(request(), Control::default()).await }
    });
    let pid = pid_in(&dir.path().join("pid")).await;
    let ending = first.shutdown("the controller is stopped", Duration::from_secs(1));
    assert_eq!(timeout(SAFETY, ending).await.expect("it comes back"), 0);
    let run = running.await.unwrap();
    assert_eq!((run.phase, run.debts[0].state), (Phase::Overdue, DebtState::Unpaid), "{:?}", run.failures);
    dies(pid).await;
    assert!(dir.path().join("locked").exists());
    std::fs::write(dir.path().join("put-right"), "").unwrap();

    // Somebody else's journal with this record, as a restored backup has it, runs nothing of it.
    let copied = dir.path().join("copied");
    std::fs::create_dir(&copied).unwrap();
    for entry in std::fs::read_dir(dir.path().join("runs")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copied.join(path.file_name().unwrap())).unwrap();
    }
    let copy = FileJournal::open(copied).unwrap();
    assert!(engine(definition.clone(), &copy).recover().await.unwrap().is_empty());
    assert!(dir.path().join("locked").exists(), "the command of a copied record was run");

    let settled = engine(definition, &journal).recover().await.unwrap();
    assert_eq!(
        (settled.len(), settled[0].phase, settled[0].debts[0].state),
        (1, Phase::Failed, DebtState::Paid)
    );
    assert!(!dir.path().join("locked").exists(), "the application is as it was");
}
