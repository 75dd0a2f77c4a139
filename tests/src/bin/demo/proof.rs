//! Restores cuts and looks whether they are of one instant; then the same without the barrier.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use stillpoint_tests::harness::csi::Volume;
use stillpoint_tests::harness::operator::Barrier;
use stillpoint_tests::harness::{Stack, Step};
use stillpoint_tests::workloads::cassandra::{self, Ring};
use stillpoint_tests::workloads::ledger::{self, Audit};
use stillpoint_tests::workloads::load;
use stillpoint_tests::workloads::postgres::{self, Installation, Volumes};

use super::cuts::{Taken, hardest};
use super::report;
use super::scene::{FILESYSTEM, LEDGER, PG_DATA, PG_WAL, RING, SELECTOR, Scene};

/// Serial snapshots that happen to look right are possible; that many in a row are not.
const TRIES: u32 = 20;

/// What the restored volumes said.
pub struct Proven {
    /// Name of the cut that was restored with everything.
    pub cut: String,
    /// Cuts whose ledger was restored and is right.
    pub ledgers: usize,
    /// PostgreSQL's part.
    pub postgres: load::Checked,
    /// The ring's part.
    pub ring: Option<cassandra::Checked>,
}

/// How the check failed without the barrier.
pub struct Failed {
    /// Serial snapshots taken until then.
    pub tries: u32,
    /// What the ledger says.
    pub audit: Audit,
}

/// The ledger of every cut, and of the hardest cut everything.
pub async fn of_the_cuts(scene: &mut Scene, taken: &[Taken]) -> Result<Proven> {
    report::heading("Restored from the cuts");
    let step = Step::begin(format!("ledger of all {} cuts", taken.len()));
    for cut in taken {
        let audit = restored_ledger(&scene.stack, &cut.record.name, cut.ledger).await?;
        ensure!(
            audit.is_consistent(),
            "the ledger of {} is NOT of one instant, or is stale: {audit}",
            cut.record.name
        );
    }
    step.done_with("every one of one instant");
    let cut = hardest(taken)?;
    let name = cut.record.name.clone();
    let postgres = restored_postgres(scene, cut).await?;
    let ring = match &cut.rows {
        None => None,
        Some(rows) => Some(restored_ring(scene, &name, rows).await?),
    };
    Ok(Proven { cut: name, ledgers: taken.len(), postgres, ring })
}

/// Restores these volumes of a cut and mounts them, in the order of `names`.
async fn restore(stack: &Stack, cut: &str, prefix: &str, names: &[&str]) -> Result<Vec<Volume>> {
    let only: Vec<String> = names.iter().map(|name| (*name).into()).collect();
    let restored = stack.operator().restore(cut, prefix, &only).await?;
    let mut volumes = Vec::new();
    for name in names {
        let one = restored.iter().find(|volume| volume.from == *name);
        let one = one.with_context(|| format!("{name} was not restored from {cut}"))?;
        volumes.push(stack.attach(one, FILESYSTEM).await?);
    }
    Ok(volumes)
}

async fn retire(stack: &Stack, volumes: &[Volume]) -> Result<()> {
    for volume in volumes {
        stack.retire(volume).await?;
    }
    Ok(())
}

async fn restored_ledger(stack: &Stack, cut: &str, acknowledged: u64) -> Result<Audit> {
    let volumes = restore(stack, cut, &format!("{cut}-look-"), &LEDGER).await?;
    let mut readings = [ledger::Reading::default(), ledger::Reading::default(), ledger::Reading::default()];
    for (reading, volume) in readings.iter_mut().zip(&volumes) {
        *reading = ledger::read(&volume.path)?;
    }
    retire(stack, &volumes).await?;
    Ok(ledger::audit(&readings, acknowledged))
}

async fn restored_postgres(scene: &Scene, cut: &Taken) -> Result<load::Checked> {
    let name = &cut.record.name;
    let step = Step::begin(format!("PostgreSQL of {name}: recovery, transactions, indexes, checksums"));
    let volumes = restore(&scene.stack, name, &format!("{name}-pg-"), &[PG_DATA, PG_WAL]).await?;
    let [data, wal] = volumes.as_slice() else { bail!("PostgreSQL has two volumes") };
    let pair = Volumes { data: data.path.clone(), wal: wal.path.clone() };
    let installation = Installation::find()?;
    let checked = postgres::check(&installation, pair, &cut.transactions, scene.path()).await?;
    retire(&scene.stack, &volumes).await?;
    step.done();
    Ok(checked)
}

/// The restored nodes have the addresses of the original ones, which therefore end first.
async fn restored_ring(scene: &mut Scene, name: &str, rows: &[i64]) -> Result<cassandra::Checked> {
    scene.ring_load.take().context("the ring has no load")?.stop().await?;
    let original = scene.ring.take().context("there is no ring")?;
    let layout = original.layout().clone();
    original.stop()?;
    let volumes = restore(&scene.stack, name, &format!("{name}-ring-"), &RING).await?;
    let paths: Vec<PathBuf> = volumes.iter().map(|volume| volume.path.clone()).collect();
    let ring = Ring::start(layout, &paths, "restored", scene.path()).await?;
    let step =
        Step::begin(format!("Cassandra of {name}: every row acknowledged before the flush is in the ring"));
    let checked = cassandra::check(&ring.addresses(), rows).await?;
    step.done();
    ring.stop()?;
    retire(&scene.stack, &volumes).await?;
    Ok(checked)
}

/// Snapshots one volume after another until the ledger's check fails on one.
pub async fn without_barrier(scene: &mut Scene) -> Result<Failed> {
    report::heading("The same without the barrier: one volume after another");
    let step = Step::begin("the ledger's check must fail");
    for tries in 1..=TRIES {
        scene.stack.check_alive()?;
        let acknowledged = scene.ledger.mark()?.written;
        let name = format!("serial-{tries}");
        scene.stack.operator().snapshot(&name, SELECTOR, None, Barrier::OneByOne).await?;
        let audit = restored_ledger(&scene.stack, &name, acknowledged).await?;
        if !audit.is_consistent() {
            step.done_with(&format!("and fails at try {tries}"));
            return Ok(Failed { tries, audit });
        }
    }
    bail!(
        "{TRIES} serial snapshots all looked as if taken at one instant, so the check was never seen to fail"
    )
}
