//! Runs as files.

use super::*;

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
