//! The task with the books over real files, with storage and commands in memory and time that passes by itself.

use std::cell::Cell;
use std::fs;
use std::sync::atomic::Ordering;
use std::time::Duration;

use stillpoint_rules::executor::{Book, Event, in_config, limits};
use stillpoint_rules::schedule::SkipReason;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::domain::{Code, CutHandle};
use crate::standalone::fixtures::{record, volumes};
use crate::standalone::operator::tests::{World, operator};

const RULE: &str = "{kind: Rule, name: flush, podSelector: {app: pg}, type: command, value: flush-it}";

thread_local! {
    static BEGIN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Begins at the full hour and passes with the time of the test.
fn clock() -> Timestamp {
    let begin = BEGIN.get().unwrap_or_else(|| {
        BEGIN.set(Some(Instant::now()));
        Instant::now()
    });
    "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + begin.elapsed()
}

struct Stage {
    world: Arc<World>,
    operator: Arc<Operator>,
    directory: tempfile::TempDir,
    jobs: Vec<Job>,
    schedules: Schedules,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

impl Stage {
    fn new(schedules: &str) -> Self {
        let world = Arc::new(World::dated_by(clock));
        let (operator, directory) = operator(&world);
        fs::write(directory.path().join("rule.yaml"), RULE).unwrap();
        let mut jobs = in_config(&format!("schedules:\n{schedules}")).unwrap();
        for job in &mut jobs {
            job.cut.rule = job.cut.rule.take().map(|rule| directory.path().join(rule));
        }
        let operator = Arc::new(operator);
        let (schedules, stop, serving) = serve(&operator, &jobs, &directory);
        Self { world, operator, directory, jobs, schedules, stop, serving }
    }

    /// The process dies and another one starts.
    fn restart(&mut self) {
        self.serving.abort();
        let (schedules, stop, serving) = serve(&self.operator, &self.jobs, &self.directory);
        (self.schedules, self.stop, self.serving) = (schedules, stop, serving);
    }

    fn book(&self, name: &str) -> Book {
        let path = self.directory.path().join("schedules").join(format!("{name}.json"));
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    }

    fn cuts(&self) -> Vec<String> {
        self.world.cuts.lock().unwrap().values().map(|cut| cut.name.clone()).collect()
    }

    fn hang(&self, hangs: bool) {
        self.world.hangs.store(hangs, Ordering::SeqCst);
    }
}

fn serve(
    operator: &Arc<Operator>,
    jobs: &[Job],
    directory: &tempfile::TempDir,
) -> (Schedules, watch::Sender<bool>, JoinHandle<()>) {
    let books = directory.path().join("schedules");
    let (schedules, runner) = open(Arc::clone(operator), jobs.to_vec(), books, clock).unwrap();
    let (stop, stopped) = watch::channel(false);
    (schedules, stop, tokio::spawn(runner.serve(stopped)))
}

async fn minutes(count: u64) {
    tokio::time::sleep(Duration::from_secs(count * 60 + 1)).await;
}

fn failures(book: &Book) -> Vec<String> {
    let why = |event: &Event| match event {
        Event::Failed { why, .. } => Some(why.clone()),
        Event::Succeeded { .. }
        | Event::Skipped { .. }
        | Event::Suspended
        | Event::Resumed
        | Event::ClockSetBack { .. } => None,
    };
    book.history.iter().filter_map(|entry| why(&entry.event)).collect()
}

fn successes(book: &Book) -> usize {
    book.history.iter().filter(|entry| matches!(entry.event, Event::Succeeded { .. })).count()
}

#[tokio::test(start_paused = true)]
async fn cuts_are_taken_kept_and_deleted_and_those_of_others_are_left() {
    let stage = Stage::new("- {name: s, every: 1m, cut: {selectors: [app=pg]}, retention: {last: 2}}");
    let other = record("by-hand", &volumes().all[..1], 1_000);
    stage.world.cuts.lock().unwrap().insert(other.handle(), other);
    minutes(10).await;
    let book = stage.book("s");
    assert_eq!((successes(&book), book.made.len()), (10, 2), "{:?}", book.history);
    let mut cuts = stage.cuts();
    cuts.sort();
    assert_eq!(cuts, ["by-hand", "s-20260101T000900Z", "s-20260101T001000Z"]);
    let overview = stage.schedules.overview().await.unwrap();
    assert_eq!(overview.overdue(), Vec::<String>::new());
    assert_eq!(overview.schedules[0].volumes.len(), 2);
    assert_eq!(overview.unscheduled, ["ring"]);
    let plan = stage.schedules.plan("s", 3).await.unwrap();
    assert_eq!(
        (plan.due.len(), plan.cuts.len(), plan.cuts.iter().filter(|cut| cut.deleted).count()),
        (3, 2, 0)
    );
    assert_eq!(plan.due[0].due.to_string(), "2026-01-01T00:11:00Z");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_hangs_is_given_up_and_stops_neither_its_schedule_nor_others() {
    let stage = Stage::new(
        "- {name: ruled, every: 5m, cut: {selectors: [app=pg], rule: rule.yaml}, limits: {run: 2m}}\n\
         - {name: plain, every: 1m, cut: {volumes: [ring]}}",
    );
    stage.hang(true);
    minutes(11).await;
    let fault = stage.schedules.run_now("ruled", mpsc::channel(8).0).await.unwrap_err();
    assert_eq!(fault.code, Code::Aborted, "{fault}");
    minutes(2).await;
    let told = failures(&stage.book("ruled"));
    assert!(told.len() == 2 && told.iter().all(|why| why.contains("limits.run")), "{told:?}");
    assert_eq!(successes(&stage.book("plain")), 13);
    stage.hang(false);
    minutes(5).await;
    assert!(successes(&stage.book("ruled")) >= 1, "{:?}", stage.book("ruled").history);
    assert_eq!(
        stage.book("ruled").made.len(),
        stage.cuts().iter().filter(|cut| cut.starts_with("ruled")).count()
    );
}

#[tokio::test(start_paused = true)]
async fn a_run_that_somebody_cancels_is_not_tried_again() {
    let stage = Stage::new("- {name: s, every: 10m, cut: {selectors: [app=pg], rule: rule.yaml}}");
    stage.hang(true);
    minutes(10).await;
    stage.operator.cancel("s-20260101T001000Z").unwrap();
    minutes(2).await;
    assert_eq!(stage.world.under_way.load(Ordering::SeqCst), 0, "it was tried again");
    let told = failures(&stage.book("s"));
    assert!(told.len() == 1 && told[0].contains("cancelled by hand"), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn no_more_runs_than_may_are_under_way_and_the_others_are_told() {
    let one = |n| {
        let cut = "{selectors: [app=pg], rule: rule.yaml}";
        format!("- {{name: s{n}, every: 1m, cut: {cut}, limits: {{run: 1h}}}}")
    };
    let many = (0..limits::AT_ONCE + 2).map(one).collect::<Vec<_>>().join("\n");
    let stage = Stage::new(&many);
    stage.hang(true);
    minutes(3).await;
    // As many runs as may are under way, and one of them works with the pods that all of them use.
    assert_eq!(stage.world.under_way.load(Ordering::SeqCst), 1);
    let fault =
        stage.schedules.run_now(&format!("s{}", limits::AT_ONCE), mpsc::channel(8).0).await.unwrap_err();
    assert!(fault.message.contains("as many as may"), "{fault}");
    let book = stage.book(&format!("s{}", limits::AT_ONCE));
    let skipped = book
        .history
        .iter()
        .any(|entry| matches!(entry.event, Event::Skipped { why: SkipReason::NoSlot, .. }));
    assert!(skipped, "{:?}", book.history);
    stage.hang(false);
    minutes(1).await;
    assert_eq!(stage.world.under_way.load(Ordering::SeqCst), 0);
    assert!(successes(&stage.book(&format!("s{}", limits::AT_ONCE))) >= 1);
}

#[tokio::test(start_paused = true)]
async fn a_cut_of_somebody_else_is_not_adopted_for_its_name() {
    let mut stage =
        Stage::new("- {name: s, every: 1m, cut: {volumes: [ring]}, retention: {last: 1, failed: 0}}");
    let ring: Vec<_> = volumes().all.into_iter().filter(|volume| volume.name() == "ring").collect();
    let foreign = record("s-20260101T000100Z", &ring, 1_000);
    let id: CutHandle = foreign.handle();
    stage.world.cuts.lock().unwrap().insert(id.clone(), foreign);
    minutes(1).await;
    assert!(failures(&stage.book("s"))[0].contains("did not make"), "{:?}", stage.book("s").history);
    // Nor by a process that finds the run open.
    stage.serving.abort();
    let open = stage.book("s");
    let due = "2026-01-01T00:01:00Z".parse().unwrap();
    Books::open(stage.directory.path().join("schedules")).unwrap().save(&open.claim(due, clock())).unwrap();
    stage.restart();
    minutes(3).await;
    assert!(stage.world.cuts.lock().unwrap().contains_key(&id), "it was deleted");
    assert!(stage.book("s").made.iter().all(|made| made.id.as_deref() != Some(&*id.to_string())));
    assert!(successes(&stage.book("s")) >= 2);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_a_dead_process_left_is_finished_under_its_name() {
    let mut stage = Stage::new("- {name: s, every: 10m, cut: {selectors: [app=pg], rule: rule.yaml}}");
    stage.hang(true);
    minutes(10).await;
    assert!(stage.book("s").open.is_some());
    stage.serving.abort();
    stage.operator.stop("s-20260101T001000Z", "its process is dead");
    minutes(1).await;
    assert_eq!(stage.cuts(), Vec::<String>::new());
    stage.hang(false);
    stage.restart();
    minutes(1).await;
    let book = stage.book("s");
    assert_eq!((book.open.clone(), stage.cuts().as_slice()), (None, &["s-20260101T001000Z".to_owned()][..]));
    assert!(
        matches!(&book.history[0].event, Event::Succeeded { run, .. } if run.tries == 2),
        "{:?}",
        book.history
    );
}

#[tokio::test(start_paused = true)]
async fn an_end_that_was_ordered_leaves_the_run_to_the_next_process() {
    let mut stage = Stage::new("- {name: s, every: 10m, cut: {selectors: [app=pg], rule: rule.yaml}}");
    stage.hang(true);
    minutes(10).await;
    stage.stop.send_replace(true);
    stage.operator.stop("s-20260101T001000Z", "the controller was told to stop");
    tokio::time::timeout(Duration::from_mins(1), &mut stage.serving).await.unwrap().unwrap();
    assert!(stage.book("s").open.is_some(), "{:?}", stage.book("s").history);
    stage.hang(false);
    stage.restart();
    minutes(1).await;
    assert_eq!((stage.book("s").open, stage.cuts().len()), (None, 1));
}

#[tokio::test(start_paused = true)]
async fn nothing_starts_while_nothing_can_be_recorded() {
    let stage = Stage::new(
        "- {name: s, every: 1m, cut: {volumes: [ring]}}\n- {name: t, every: 1m, cut: {volumes: [ring]}}",
    );
    // Also root cannot write to a directory.
    let blocked = stage.directory.path().join("schedules/s.new");
    fs::create_dir(&blocked).unwrap();
    minutes(3).await;
    assert!(!stage.cuts().iter().any(|cut| cut.starts_with("s-")), "{:?}", stage.cuts());
    assert_eq!(stage.schedules.suspend("s").await.unwrap_err().code, Code::Unavailable);
    assert_eq!(successes(&stage.book("t")), 3);
    fs::remove_dir(&blocked).unwrap();
    minutes(1).await;
    assert!(successes(&stage.book("s")) >= 1);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_deleted_yet_is_told_and_tried_again() {
    let stage = Stage::new("- {name: s, every: 1m, cut: {volumes: [ring]}, retention: {last: 1}}");
    stage.world.claimed.store(true, Ordering::SeqCst);
    minutes(4).await;
    assert_eq!((stage.cuts().len(), successes(&stage.book("s"))), (4, 4), "it goes on");
    let one = stage.schedules.overview().await.unwrap().schedules.remove(0);
    assert!(one.retention_fault.is_some_and(|why| why.contains("a copy reads it")));
    stage.world.claimed.store(false, Ordering::SeqCst);
    minutes(3).await;
    assert_eq!(stage.cuts().len(), 1);
    assert_eq!(stage.schedules.overview().await.unwrap().schedules[0].retention_fault, None);
}

#[tokio::test(start_paused = true)]
async fn a_cut_that_was_deleted_by_hand_protects_nothing_and_costs_no_other() {
    let stage = Stage::new("- {name: s, every: 10m, cut: {volumes: [ring]}, retention: {last: 2}}");
    minutes(20).await;
    let ids: Vec<CutHandle> = stage.world.cuts.lock().unwrap().keys().cloned().collect();
    assert_eq!(ids.len(), 2);
    stage.schedules.suspend("s").await.unwrap();
    let newest = stage.book("s").last_good().unwrap().id.clone().unwrap();
    stage.operator.delete(&newest).await.unwrap();
    let one = stage.schedules.overview().await.unwrap().schedules.remove(0);
    assert_eq!(one.last_good.unwrap().name, "s-20260101T001000Z", "what is not there is not shown as good");
    // With one count less the older one would go for the sake of the one that is gone.
    let mut stage = stage;
    stage.jobs[0].retention = stillpoint_rules::retain::parse("last: 1").unwrap();
    stage.restart();
    minutes(15).await;
    assert_eq!(stage.cuts(), ["s-20260101T001000Z"]);
    assert_eq!(stage.book("s").made.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_host_makes_a_run_fail_and_what_is_not_known_is_looked_up_later() {
    let stage = Stage::new("- {name: s, every: 5m, cut: {volumes: [ring]}}");
    stage.world.silent.store(true, Ordering::SeqCst);
    minutes(6).await;
    let book = stage.book("s");
    assert_eq!((failures(&book).len(), book.unknown().count()), (1, 1), "{:?}", book.history);
    stage.world.silent.store(false, Ordering::SeqCst);
    minutes(10).await;
    assert_eq!(stage.book("s").unknown().count(), 0);
    assert_eq!(successes(&stage.book("s")), stage.cuts().len());
}

#[tokio::test(start_paused = true)]
async fn a_suspension_outlives_a_restart_and_a_resumption_fires_nothing() {
    let mut stage = Stage::new(
        "- {name: s, every: 1m, cut: {volumes: [ring]}}\n- {name: off, every: 1m, suspend: true, cut: {volumes: [ring]}}",
    );
    stage.schedules.suspend("s").await.unwrap();
    stage.restart();
    minutes(5).await;
    assert_eq!(stage.cuts(), Vec::<String>::new());
    assert_eq!(stage.schedules.overview().await.unwrap().overdue(), ["off (ring)", "s (ring)"]);
    stage.schedules.resume("s").await.unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(stage.cuts(), Vec::<String>::new(), "what was due meanwhile is not made up for");
    minutes(1).await;
    assert_eq!(stage.cuts().len(), 1);
    let fault = stage.schedules.resume("off").await.unwrap_err();
    assert!(fault.code == Code::Precondition && fault.message.contains("suspend: true"), "{fault}");
    assert_eq!(stage.schedules.suspend("nobody").await.unwrap_err().code, Code::NotFound);
    // By hand it runs all the same.
    let made = stage.schedules.run_now("off", mpsc::channel(8).0).await.unwrap();
    assert!(made.record.name.starts_with("off-now-"), "{}", made.record.name);
}

#[tokio::test]
async fn a_rule_that_cannot_be_used_is_told_at_the_start() {
    let world = Arc::new(World::default());
    let (operator, directory) = operator(&world);
    let operator = Arc::new(operator);
    for (text, part) in [("", "empty"), ("kind: Ruel", "Ruel"), (RULE, "nothing")] {
        fs::write(directory.path().join("rule.yaml"), text).unwrap();
        let params = if text == RULE { ", params: {nothing: x}" } else { "" };
        let job =
            format!("schedules: [{{name: s, every: 1m, cut: {{volumes: [a], rule: rule.yaml{params}}}}}]");
        let mut job = in_config(&job).unwrap().remove(0);
        job.cut.rule = Some(directory.path().join("rule.yaml"));
        let opened = open(Arc::clone(&operator), vec![job], directory.path().join("schedules"), clock);
        let fault = opened.map(drop).unwrap_err();
        assert!(fault.code == Code::Invalid && fault.message.contains(part), "{text}: {fault}");
        assert!(fault.message.contains("schedule s"), "{fault}");
    }
}
