//! The thrasher: writers that check their own data, while volumes are held, cut, restored and deleted and processes are
//! killed at random points. Reports how long single operations of the writers took.

mod block;
mod writer;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::harness::binaries;
use crate::matrix::{Case, Field, Report, Verdict, conduct, table};

pub use writer::{HIDDEN_COMMAND, write_for_ever};
use writer::{Writer, audit_copy};

/// Writers per host, each with a volume of its own.
const WRITERS_PER_HOST: usize = 2;
/// What the writers felt.
#[derive(Debug, Clone)]
pub struct Stalls {
    /// Operations of all writers.
    pub operations: usize,
    /// Group snapshots taken, one member of each restored and compared.
    pub cuts: u32,
    /// Cases with a killed or stopped process in between.
    pub blows: Vec<Report>,
    /// Median of an operation.
    pub p50: Duration,
    /// 99th percentile.
    pub p99: Duration,
    /// 99.99th percentile.
    pub p9999: Duration,
    /// The longest.
    pub max: Duration,
}

impl std::fmt::Display for Stalls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1000.0);
        write!(
            f,
            "{}\n{} operations of {} writers over {} group cuts and {} blows: p50 {}, p99 {}, p99.99 {}, longest {}",
            table(&self.blows),
            self.operations,
            WRITERS_PER_HOST * Field::hosts(),
            self.cuts,
            self.blows.len(),
            ms(self.p50),
            ms(self.p99),
            ms(self.p9999),
            ms(self.max)
        )
    }
}

/// Thrashes for this long; `seed` chooses the blows.
pub async fn thrash(label: &str, length: Duration, seed: u64) -> Result<Stalls> {
    println!("thrasher: SEED={seed}");
    let mut field = Field::build_with(label, WRITERS_PER_HOST).await?;
    let program = binaries::binary("stillpoint-soak")?;
    let paths: Vec<_> = field.extra().iter().map(|volume| volume.path.clone()).collect();
    let mut writers = Vec::new();
    for (number, path) in (1..).zip(&paths) {
        writers.push(Writer::start(&program, path, number, field.path())?);
    }
    let mut dice = Dice(seed);
    let (mut cuts, mut blows) = (0, Vec::new());
    let end = Instant::now() + length;
    while Instant::now() < end {
        let member = dice.below(paths.len());
        cut_and_compare(&mut field, member).await?;
        cuts += 1;
        for writer in &mut writers {
            writer.check_alive().context("a writer found something wrong")?;
        }
        let case = Case::random(|below| dice.below(below), Field::hosts());
        let report = conduct(&mut field, case).await;
        ensure!(report.verdict == Verdict::Held, "{}: {}", report.case, report.verdict);
        blows.push(report);
    }
    let mut times = Vec::new();
    for writer in writers {
        times.extend(writer.finish()?);
    }
    let left = field.close().await?;
    ensure!(left.is_clean(), "something had to be released by force: {left}");
    times.sort_unstable();
    let at = |share: f64| percentile(&times, share);
    Ok(Stalls {
        operations: times.len(),
        cuts,
        blows,
        p50: at(0.5),
        p99: at(0.99),
        p9999: at(0.9999),
        max: times.last().copied().unwrap_or_default(),
    })
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let index = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(index.saturating_sub(1)).copied().unwrap_or_default()
}

/// A group snapshot of everything, one member restored and compared, all of it deleted.
async fn cut_and_compare(field: &mut Field, member: usize) -> Result<()> {
    let group = field.cut_all().await?;
    let compared = async {
        let copy = field.restore_extra(&group, member).await?;
        let audited = audit_copy(&copy.path, member as u64 + 1);
        field.drop_copy(&copy).await?;
        audited.context("a copy is not what its writer had written at one instant")
    };
    let compared = compared.await;
    field.drop_group(&group).await?;
    compared.map(drop)
}

/// Numbers that the seed decides.
struct Dice(u64);

impl Dice {
    fn below(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let high = usize::try_from(self.0 >> 33).unwrap_or(0);
        high % below.max(1)
    }
}
