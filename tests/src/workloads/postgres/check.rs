//! Starts a server on restored volumes and looks for anything lost, half or damaged.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio_postgres::Client;

use super::load::OPENING;
use super::{Installation, Postgres, Volumes};
use crate::harness::process;
use crate::workloads::load::{Checked, nothing_lost};

const VERIFY_LIMIT: Duration = Duration::from_mins(2);

/// Recovers the restored pair and checks it: every id of `required` is there, no transaction is half there,
/// balances agree with the entries, and indexes and page checksums are right.
pub async fn check(
    installation: &Installation,
    volumes: Volumes,
    required: &[u64],
    run: &Path,
) -> Result<Checked> {
    volumes.adopt()?;
    let server = Postgres::start(installation, "postgres-restored", volumes, run)
        .await
        .context("PostgreSQL does not recover from the cut")?;
    let client = server.connect().await?;
    let checked = check_rows(&client, required).await?;
    drop(client);
    indexes_agree(&server).await?;
    let volumes = server.stop()?;
    pages_intact(installation, &volumes).await?;
    Ok(checked)
}

/// The part of [`check`] that any running server can answer: nothing lost, nothing half.
pub async fn check_rows(client: &Client, required: &[u64]) -> Result<Checked> {
    let rows = client.query("SELECT id FROM debits JOIN credits USING (id)", &[]).await?;
    let present: HashSet<u64> = rows.iter().map(|row| row.get::<_, i64>(0).cast_unsigned()).collect();
    let checked = nothing_lost(required, &present)?;
    nothing_half(client).await?;
    Ok(checked)
}

async fn nothing_half(client: &Client) -> Result<()> {
    let half = "SELECT count(*) FROM debits FULL JOIN credits USING (id)
                WHERE debits.account IS NULL OR credits.account IS NULL OR debits.amount <> credits.amount";
    let halves: i64 = client.query_one(half, &[]).await?.get(0);
    ensure!(halves == 0, "{halves} transactions are half there");
    let off = format!(
        "SELECT count(*) FROM accounts WHERE balance::numeric <> {OPENING}
           - coalesce((SELECT sum(amount) FROM debits WHERE account = accounts.id), 0)
           + coalesce((SELECT sum(amount) FROM credits WHERE account = accounts.id), 0)"
    );
    let wrong: i64 = client.query_one(&off, &[]).await?.get(0);
    ensure!(wrong == 0, "{wrong} accounts have a balance that is not the sum of their entries");
    Ok(())
}

/// `pg_amcheck`: every heap tuple is in its indexes and the other way round.
async fn indexes_agree(server: &Postgres) -> Result<()> {
    let mut args = server.client_arguments().to_vec();
    args.extend(["--install-missing", "--heapallindexed", "-d", "postgres"].map(String::from));
    let tool = server.installation().tool("pg_amcheck");
    process::succeed(None, &tool, args, VERIFY_LIMIT).await.context("indexes and tables disagree")?;
    Ok(())
}

/// `pg_checksums`: every page of the stopped server is as it was written.
async fn pages_intact(installation: &Installation, volumes: &Volumes) -> Result<()> {
    let data = volumes.data_directory();
    let args = ["--check".as_ref(), "-D".as_ref(), data.as_os_str()];
    process::succeed(Some("postgres"), &installation.tool("pg_checksums"), args, VERIFY_LIMIT)
        .await
        .context("pages are damaged")?;
    Ok(())
}
