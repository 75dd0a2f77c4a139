use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use stillpoint_rules::engine::{Limits, Ports};
use stillpoint_rules::ports::{
    CutError, CutReport, CutRequest, Cutter, ExecError, ExecOutcome, ExecRequest, HttpOutcome, HttpRequest,
    InventoryError, Mark, NoSecrets, OpenCut, Pod, PodExec, PodTarget, SealRequest, Session, SessionRequest,
    StorageLevel,
};

use super::*;
use crate::domain::record::CutMember;
use crate::domain::{Code, CutKind, HostName, Level};
use crate::standalone::fixtures::{pod, record, volume, volumes};
use crate::standalone::operator::restore::Restored;
use crate::standalone::selection::Wanted;
use crate::standalone::storage::PlacedVolume;

const RULE: &str = "
kind: Rule
name: flush
podSelector: {app: pg}
type: command
value: flush-it
";

/// Storage, commands and journal in memory; what happened is in `log`.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) log: Mutex<Vec<String>>,
    pub(crate) cuts: Mutex<BTreeMap<CutHandle, CutRecord>>,
    pub(crate) restored: Mutex<Vec<String>>,
    pub(crate) exit_code: i32,
    /// By which cuts are dated; the first second of 1970 without one.
    clock: Option<fn() -> Timestamp>,
    /// Commands do not end.
    pub(crate) hangs: AtomicBool,
    /// Commands that have begun and not ended.
    pub(crate) under_way: Arc<AtomicUsize>,
    /// Hosts do not answer.
    pub(crate) silent: AtomicBool,
    /// Cuts cannot be deleted.
    pub(crate) claimed: AtomicBool,
}

/// Counts a command for as long as it lives.
struct Command(Arc<AtomicUsize>);

impl Drop for Command {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl World {
    /// A world whose cuts are dated by this clock.
    pub(crate) fn dated_by(clock: fn() -> Timestamp) -> Self {
        Self { clock: Some(clock), ..Self::default() }
    }

    fn answers(&self) -> Result<(), Fault> {
        if self.silent.load(Ordering::SeqCst) {
            Err(Fault::unavailable("host b does not answer"))
        } else {
            Ok(())
        }
    }

    fn note(&self, what: impl Into<String>) {
        self.log.lock().unwrap().push(what.into());
    }

    fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

#[async_trait]
impl Storage for World {
    async fn volumes(&self) -> Volumes {
        Volumes { silent: self.answers().err().into_iter().collect(), ..volumes() }
    }
    async fn cuts(&self) -> Result<Vec<CutRecord>, Fault> {
        self.answers()?;
        Ok(self.cuts.lock().unwrap().values().cloned().collect())
    }
    async fn cut(&self, id: &CutHandle) -> Result<Option<CutRecord>, Fault> {
        Ok(self.cuts.lock().unwrap().get(id).cloned())
    }
    async fn find_cut(&self, name: &str) -> Result<Option<CutRecord>, Fault> {
        Ok(self.named(name).await?.into_iter().find(|record| record.id.kind == CutKind::Group))
    }
    async fn named(&self, name: &str) -> Result<Vec<CutRecord>, Fault> {
        let named: Vec<_> =
            self.cuts.lock().unwrap().values().filter(|record| record.name == name).cloned().collect();
        // One that is found is there, whoever is silent.
        if named.is_empty() {
            self.answers()?;
        }
        Ok(named)
    }
    async fn delete(&self, id: &CutHandle) -> Result<(), Fault> {
        if self.claimed.load(Ordering::SeqCst) {
            return Err(Fault::aborted("a copy reads it"));
        }
        self.cuts.lock().unwrap().remove(id);
        Ok(())
    }
    async fn roll_forward(&self, _: &CutRecord, _: &[CutMember]) -> Result<(), Fault> {
        Ok(())
    }
    async fn restore(
        &self,
        member: &CutMember,
        name: &str,
        _: Option<&HostName>,
    ) -> Result<(PlacedVolume, Origin), Fault> {
        self.restored.lock().unwrap().push(format!("{} from {}", name, member.snapshot));
        Ok((volume(name, 1), Origin::Made))
    }
}

#[async_trait]
impl Inventory for World {
    async fn pods(&self, _: &[String]) -> Result<Vec<Pod>, InventoryError> {
        let id = |name: &str| volumes().all.iter().find(|v| v.name() == name).unwrap().id().to_string();
        let (data, wal, ring) = (id("pg-data"), id("pg-wal"), id("ring"));
        Ok(vec![pod("pg-0", "pg", &[&data, &wal]), pod("ring-0", "ring", &[&ring])])
    }
}

#[async_trait]
impl PodExec for World {
    async fn exec(&self, request: ExecRequest) -> Result<ExecOutcome, ExecError> {
        self.note(format!("exec {} in {}", request.argv.join(" "), request.target.pod));
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let _command = Command(Arc::clone(&self.under_way));
        while self.hangs.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Ok(ExecOutcome { exit_code: self.exit_code, output: "told".into(), omitted_bytes: 0 })
    }
    async fn session(&self, request: SessionRequest) -> Result<Box<dyn Session>, ExecError> {
        Err(ExecError::NotStarted { pod: request.target.pod, why: "not in this test".into() })
    }
    async fn http(&self, request: HttpRequest) -> Result<HttpOutcome, ExecError> {
        Err(ExecError::NotStarted { pod: request.target.pod, why: "not in this test".into() })
    }
    async fn end(&self, target: &PodTarget, _: Mark) -> Result<(), ExecError> {
        match self.under_way.load(Ordering::SeqCst) {
            0 => Ok(()),
            _ => Err(ExecError::Lost { pod: target.pod.clone(), why: "a command is under way".into() }),
        }
    }
}

struct FakeCutter(Arc<World>, StorageLevel);

struct FakeCut {
    world: Arc<World>,
    record: CutRecord,
    level: StorageLevel,
}

#[async_trait]
impl Cutter for FakeCutter {
    async fn open(&self, request: CutRequest) -> Result<Box<dyn OpenCut>, CutError> {
        let members: Vec<_> =
            volumes().all.into_iter().filter(|v| request.volumes.contains(&v.id().to_string())).collect();
        let record =
            record(&request.name, &members, self.0.clock.map_or(1_000, |clock| clock().as_millisecond()));
        self.0.note("open");
        Ok(Box::new(FakeCut { world: Arc::clone(&self.0), record, level: self.1 }))
    }
}

#[async_trait]
impl OpenCut for FakeCut {
    async fn cut(&mut self) -> Result<CutReport, CutError> {
        self.world.note("cut");
        Ok(CutReport {
            cut_id: self.record.handle().to_string(),
            level: self.level,
            reasons: vec![],
            hold_requested_at: Timestamp::now(),
            window_us: 20_000,
            skew_us: 10,
        })
    }
    async fn seal(mut self: Box<Self>, request: SealRequest) -> Result<(), CutError> {
        self.world.note("seal");
        self.record.level = if request.application { Level::Application } else { Level::Filesystem };
        self.world.cuts.lock().unwrap().insert(self.record.handle(), self.record);
        Ok(())
    }
}

pub(crate) fn operator(world: &Arc<World>) -> (Operator, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::clone(world) as _;
    let inventory: Arc<dyn Inventory> = Arc::clone(world) as _;
    let journal = FileJournal::open(directory.path().to_owned()).unwrap();
    let engine = |level| {
        let ports = Ports {
            inventory: Arc::clone(&inventory),
            exec: Arc::clone(world) as _,
            secrets: Arc::new(NoSecrets),
            cutter: Arc::new(FakeCutter(Arc::clone(world), level)),
            journal: Arc::new(journal.clone()),
        };
        Engine::new(ports, Limits::default())
    };
    let engines = Engines {
        together: engine(StorageLevel::Filesystem),
        one_after_another: engine(StorageLevel::Crash),
        rehearsal: engine(StorageLevel::Crash),
    };
    (Operator::new(storage, inventory, engines, journal), directory)
}

fn order(name: &str, selector: &str, rule: &str) -> SnapshotOrder {
    SnapshotOrder {
        name: name.into(),
        wanted: Wanted { selectors: vec![selector.into()], volumes: vec![] },
        rule: rule.into(),
        ..SnapshotOrder::default()
    }
}

async fn snapshot(operator: &Operator, order: SnapshotOrder) -> Result<CutAndRun, Fault> {
    let (lines, _told) = mpsc::channel(64);
    operator.snapshot(order, lines).await
}

#[tokio::test]
async fn commands_run_before_the_cut_and_the_run_is_kept_with_it() {
    let world = Arc::new(World::default());
    let (operator, _directory) = operator(&world);
    let made = snapshot(&operator, order("nightly", "app=pg", RULE)).await.unwrap();
    assert_eq!(world.log(), ["exec /bin/sh -c flush-it in pg-0", "open", "cut", "seal"]);
    assert_eq!(made.record.level, Level::Application);
    assert_eq!(made.record.members.len(), 2);
    let shown = operator.cut("nightly").await.unwrap();
    assert_eq!(shown.run, made.run);
    assert_eq!(shown.run.unwrap().attempts.len(), 1);
    assert_eq!(operator.cut(&made.record.handle().to_string()).await.unwrap().record, made.record);
}

#[tokio::test]
async fn a_plan_names_pods_and_volumes_and_executes_nothing() {
    let world = Arc::new(World::default());
    let (operator, _directory) = operator(&world);
    let plan = operator.plan(order("nightly", "app=pg", RULE)).await.unwrap();
    let text = plan.to_string();
    for shown in ["pg-0", "flush-it", "pg-data", "pg-wal", "node-1", "node-2"] {
        assert!(text.contains(shown), "{shown} in\n{text}");
    }
    assert!(world.log().is_empty());
}

#[tokio::test]
async fn the_same_name_with_the_same_volumes_is_the_same_cut_and_runs_nothing_again() {
    let world = Arc::new(World::default());
    let (operator, _directory) = operator(&world);
    let first = snapshot(&operator, order("nightly", "app=pg", RULE)).await.unwrap();
    let before = world.log();
    assert_eq!(snapshot(&operator, order("nightly", "app=pg", RULE)).await.unwrap(), first);
    assert_eq!(world.log(), before);
    let fault = snapshot(&operator, order("nightly", "app=ring", "")).await.unwrap_err();
    assert_eq!(fault.code, Code::AlreadyExists);
    assert!(fault.message.contains("pg-data"), "{fault}");
}

#[tokio::test]
async fn a_failing_command_makes_no_cut_and_says_why() {
    let world = Arc::new(World { exit_code: 7, ..World::default() });
    let (operator, _directory) = operator(&world);
    let fault = snapshot(&operator, order("nightly", "app=pg", RULE)).await.unwrap_err();
    assert_eq!(fault.code, Code::Precondition);
    assert!(fault.message.contains('7') && fault.message.contains("pg-0"), "{fault}");
    assert!(!world.log().contains(&"cut".to_owned()));
    assert!(operator.cuts().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_rule_without_a_pod_fails_before_anything_is_done() {
    let world = Arc::new(World::default());
    let (operator, _directory) = operator(&world);
    let rule = RULE.replace("app: pg", "app: nobody");
    let fault = snapshot(&operator, order("nightly", "app=pg", &rule)).await.unwrap_err();
    assert_eq!(fault.code, Code::Precondition);
    assert!(fault.message.contains("nobody"), "{fault}");
    assert!(world.log().is_empty());
    assert_eq!(operator.plan(order("nightly", "app=pg", &rule)).await.unwrap_err().code, Code::Precondition);
}

#[tokio::test]
async fn bad_requests_are_refused_by_name_and_change_nothing() {
    let world = Arc::new(World::default());
    let (operator, _directory) = operator(&world);
    for (order, code, part) in [
        (order("../x", "app=pg", ""), Code::Invalid, "../x"),
        (order("n", "app=cassandra", ""), Code::NotFound, "app=cassandra"),
        (order("n", "app=pg", &RULE.replace("value", "vlaue")), Code::Invalid, "vlaue"),
        (order("n", "", ""), Code::Invalid, "selector"),
        (SnapshotOrder::default(), Code::Invalid, "nothing to cut"),
    ] {
        let fault = snapshot(&operator, order).await.unwrap_err();
        assert_eq!(fault.code, code, "{fault}");
        assert!(fault.message.contains(part), "{fault}");
    }
    assert!(world.log().is_empty());
}

#[tokio::test]
async fn a_restore_makes_one_volume_per_member_or_only_those_named() {
    let world = Arc::new(World::default());
    let (operator, _directory) = operator(&world);
    snapshot(&operator, order("nightly", "app=pg", "")).await.unwrap();
    let names =
        |list: &[Restored]| list.iter().map(|restored| restored.volume.name().to_owned()).collect::<Vec<_>>();
    assert_eq!(
        names(&operator.restore("nightly", "r-", &[], None).await.unwrap()),
        ["r-pg-data", "r-pg-wal"]
    );
    let only = operator.restore("nightly", "s-", &["pg-wal".into(), "pg-wal".into()], None).await.unwrap();
    assert_eq!(names(&only), ["s-pg-wal"]);
    let fault = operator.restore("nightly", "r-", &["ring".into()], None).await.unwrap_err();
    assert!(fault.code == Code::NotFound && fault.message.contains("pg-data"), "{fault}");
    assert_eq!(operator.restore("nightly", "", &[], None).await.unwrap_err().code, Code::Invalid);
    assert_eq!(
        operator.restore("nightly", &"p".repeat(125), &[], None).await.unwrap_err().code,
        Code::Invalid
    );
    assert_eq!(operator.restore("unknown", "r-", &[], None).await.unwrap_err().code, Code::NotFound);
    assert_eq!(world.restored.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn a_deleted_cut_is_gone() {
    let world = Arc::new(World::default());
    let (operator, _directory) = operator(&world);
    let id = snapshot(&operator, order("nightly", "app=pg", RULE)).await.unwrap().record.handle();
    assert_eq!(operator.delete("nightly").await.unwrap(), id);
    assert_eq!(operator.delete(&id.to_string()).await.unwrap(), id);
    assert_eq!(operator.delete("nightly").await.unwrap_err().code, Code::NotFound);
    assert!(operator.cuts().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_name_that_is_being_worked_on_is_told_to_wait() {
    let world = Arc::new(World::default());
    let (operator, _directory) = operator(&world);
    let _first = operator.busy.claim("nightly").unwrap();
    let fault = snapshot(&operator, order("nightly", "app=pg", "")).await.unwrap_err();
    assert_eq!(fault.code, Code::Aborted);
}

#[tokio::test]
async fn deleting_a_cut_that_is_being_taken_undoes_its_run_first() {
    let world = Arc::new(World::default());
    let (operator, _directory) = operator(&world);
    world.hangs.store(true, Ordering::SeqCst);
    let (taken, deleted) = tokio::join!(snapshot(&operator, order("nightly", "app=pg", RULE)), async {
        while world.under_way.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        operator.delete("nightly").await
    });
    let fault = deleted.unwrap_err();
    assert!(fault.code == Code::Aborted && fault.message.contains("stopped and undone"), "{fault}");
    assert!(taken.unwrap_err().message.contains("its cut was deleted"));
    assert_eq!(world.under_way.load(Ordering::SeqCst), 0, "its command is gone");
    assert_eq!(operator.delete("nightly").await.unwrap_err().code, Code::NotFound, "there is no cut");
}

#[tokio::test]
async fn a_name_is_made_when_none_is_given() {
    let world = Arc::new(World::default());
    let (operator, _directory) = operator(&world);
    let made = snapshot(&operator, order("", "app=ring", "")).await.unwrap();
    assert!(made.record.name.starts_with("cut-2"), "{}", made.record.name);
}
