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

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[tokio::test]
async fn an_open_run_that_another_journal_wrote_is_not_continued_and_one_that_has_ended_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let theirs = FileJournal::open(at("theirs")).unwrap();
    let (open, ended) = (run_in(Phase::Cutting), run_in(Phase::Succeeded));
    theirs.persist(&open).await.unwrap();
    theirs.persist(&ended).await.unwrap();
    let own = run_in(Phase::Cutting);
    FileJournal::open(at("own")).unwrap().persist(&own).await.unwrap();
    for run in [&open, &ended] {
        let name = format!("{}.json", run.id);
        std::fs::copy(at("theirs").join(&name), at("own").join(&name)).unwrap();
    }
    // The whole directory, with the file that says whose it is.
    copy(&at("theirs"), &at("copied"));
    let journal = FileJournal::open(at("own")).unwrap();
    assert_eq!(journal.unfinished().await.unwrap(), vec![own.clone()]);
    assert_eq!(journal.open_runs(&own).await.unwrap().len(), 1, "nobody waits for a run of another journal");
    for _ in 0..2 {
        let journal = FileJournal::open(at("copied")).unwrap();
        assert!(journal.unfinished().await.unwrap().is_empty());
        assert!(journal.open_runs(&open).await.unwrap().is_empty());
        assert_eq!(journal.list().unwrap(), vec![ended.clone()]);
    }
    let journal = FileJournal::open(at("theirs")).unwrap();
    assert_eq!(journal.unfinished().await.unwrap(), vec![open], "the original is what it was");
}

#[tokio::test]
async fn records_without_an_identity_are_taken_over_once() {
    let dir = tempfile::tempdir().unwrap();
    let put = |run: &Run| {
        let text = serde_json::to_vec(run).unwrap();
        std::fs::write(dir.path().join(format!("{}.json", run.id)), text).unwrap();
    };
    let (before, after) = (run_in(Phase::Cutting), run_in(Phase::Cutting));
    put(&before);
    // A process that dies before all are taken over is followed by one that goes on.
    let own = FileJournal::open(dir.path().to_owned()).unwrap();
    assert_eq!(own.unfinished().await.unwrap(), vec![before.clone()]);
    std::fs::rename(dir.path().join("identity"), dir.path().join("identity.begun")).unwrap();
    for _ in 0..2 {
        let journal = FileJournal::open(dir.path().to_owned()).unwrap();
        assert_eq!(journal.unfinished().await.unwrap(), vec![before.clone()]);
        put(&after);
    }
}
