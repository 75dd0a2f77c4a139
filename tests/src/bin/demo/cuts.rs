//! Takes the group snapshots and shows what each cost.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use stillpoint::domain::Level;
use stillpoint::domain::record::CutRecord;
use stillpoint_tests::harness::operator::Barrier;
use stillpoint_tests::harness::{Step, binaries, process};

use super::report;
use super::scene::{SELECTOR, Scene};

/// The load goes on for this long between two cuts.
const REST: Duration = Duration::from_millis(700);
const COMMAND_LIMIT: Duration = Duration::from_mins(1);

/// One cut and what must be in it.
pub struct Taken {
    /// Its record.
    pub record: CutRecord,
    /// The ledger's last number that was on all three volumes before it was asked for.
    pub ledger: u64,
    /// PostgreSQL's transactions that were acknowledged before it was asked for.
    pub transactions: Vec<u64>,
    /// Rows of each writer of the ring that were acknowledged before it was asked for, so before the flush.
    pub rows: Option<Vec<i64>>,
    /// The longest that the ledger's writer waited for one number while the cut was taken, flush and all.
    pub felt: Duration,
    /// The same for some time before, when nothing was cut.
    pub usual: Duration,
}

impl Taken {
    /// The window of a sealed cut.
    pub fn window_us(&self) -> u64 {
        self.record.timeline.as_ref().map_or(0, |timeline| timeline.window_us)
    }
}

/// Takes `count` cuts with the rule.
pub async fn take(scene: &mut Scene, count: u32) -> Result<Vec<Taken>> {
    report::table_head(count, scene.volumes(), &scene.rule_name);
    let mut taken = Vec::new();
    for number in 1..=count {
        scene.ledger.mark()?;
        tokio::time::sleep(REST).await;
        let usual = scene.ledger.mark()?.longest;
        let step = Step::begin(format!("cut {number} of {count}"));
        let name = format!("cut-{number}");
        let cut = take_one(scene, &name, usual).await.with_context(|| format!("cut {number}"))?;
        // No line of its own: the row of the table is the line.
        drop(step);
        report::table_row(number, &cut)?;
        taken.push(cut);
    }
    report::table_foot(&taken);
    Ok(taken)
}

async fn take_one(scene: &mut Scene, name: &str, usual: Duration) -> Result<Taken> {
    scene.check_alive()?;
    let ledger = scene.ledger.mark()?.written;
    let asked = Instant::now();
    let operator = scene.stack.operator();
    let record = operator.snapshot(name, SELECTOR, Some(&scene.rule), Barrier::Together).await?;
    let felt = scene.ledger.mark()?.longest;
    let expected = scene.volumes();
    ensure!(record.members.len() == expected, "{} volumes were cut, not {expected}", record.members.len());
    ensure!(
        record.level == Level::Application,
        "the cut reached only level {}: {}",
        record.level,
        record.reasons.join("; ")
    );
    Ok(Taken {
        record,
        ledger,
        transactions: scene.postgres_load.acknowledged_before(asked),
        rows: scene.ring_load.as_ref().map(|load| load.acknowledged_before(asked)),
        felt,
        usual,
    })
}

/// The cut with the longest window: the one to be looked at.
pub fn hardest(taken: &[Taken]) -> Result<&Taken> {
    taken.iter().max_by_key(|cut| cut.window_us()).context("no cut was taken")
}

/// Writes the picture of every cut into `target/demo/`; the hardest cut's file.
pub async fn write_timelines(scene: &Scene, taken: &[Taken]) -> Result<PathBuf> {
    let step = Step::begin("the timelines as pictures");
    let directory = binaries::target_directory()?.join("demo");
    std::fs::create_dir_all(&directory)?;
    let stillpoint = binaries::binary("stillpoint")?;
    let socket = scene.stack.operator().socket().display().to_string();
    let hardest = &hardest(taken)?.record.name;
    let mut shown = PathBuf::new();
    for cut in taken {
        let id = cut.record.handle().to_string();
        let args = ["timeline", &id, "--socket", &socket, "-o", "html"];
        let html = process::succeed(None, &stillpoint, args, COMMAND_LIMIT).await?;
        let path = directory.join(format!("{}.html", cut.record.name));
        std::fs::write(&path, html).with_context(|| format!("cannot write {}", path.display()))?;
        if &cut.record.name == hardest {
            shown = path;
        }
    }
    step.done();
    Ok(shown)
}
