//! Starts a server on restored volumes and looks for anything lost, half or damaged.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{MYISAM, MariaDb, Volumes};
use crate::harness::process;
use crate::workloads::load::{Checked, nothing_lost};

const VERIFY_LIMIT: Duration = Duration::from_mins(2);
/// Tables of the load in InnoDB.
const INNODB: [&str; 2] = ["debits", "credits"];

/// Recovers the restored pair and checks it: every id of `required` is there, no transaction is half there, every table
/// and index is right (`CHECK TABLE … EXTENDED`), and so is every page of InnoDB (`innochecksum`).
pub async fn check(volumes: Volumes, required: &[u64], run: &Path) -> Result<Checked> {
    let server = MariaDb::start("mariadb-restored", volumes, run)
        .await
        .context("MariaDB does not recover from the cut")?;
    // First of all: nothing has opened the table since the cut.
    intact(&server, MYISAM).await?;
    for table in INNODB {
        intact(&server, table).await?;
    }
    let checked = nothing_lost(required, &present(&server).await?)?;
    nothing_half(&server).await?;
    let mut args = server.client_arguments();
    args.extend(["--all-databases", "--extended", "--silent"].map(String::from));
    let said = process::succeed(None, Path::new("mariadb-check"), args, VERIFY_LIMIT).await?;
    ensure!(said.trim().is_empty(), "mariadb-check: {said}");
    let volumes = server.stop()?;
    pages_intact(&volumes).await?;
    Ok(checked)
}

/// A server starts on the restored pair, and no transaction is half there.
pub async fn recovers(volumes: Volumes, run: &Path) -> Result<()> {
    let server = MariaDb::start("mariadb-restored", volumes, run)
        .await
        .context("MariaDB does not recover from the cut")?;
    nothing_half(&server).await?;
    server.stop()?;
    Ok(())
}

async fn nothing_half(server: &MariaDb) -> Result<()> {
    let half = "SELECT count(*) FROM debits LEFT JOIN credits USING (id) WHERE credits.id IS NULL OR debits.amount <> credits.amount
                UNION ALL SELECT count(*) FROM credits LEFT JOIN debits USING (id) WHERE debits.id IS NULL";
    let halves = server.sql(&format!("USE shop; {half}")).await?;
    ensure!(halves.split_whitespace().all(|count| count == "0"), "transactions are half there: {halves}");
    Ok(())
}

/// `CHECK TABLE … EXTENDED` says OK and nothing else.
async fn intact(server: &MariaDb, table: &str) -> Result<()> {
    let said = server.sql(&format!("CHECK TABLE shop.{table} EXTENDED")).await?;
    let rows: Vec<&str> = said.lines().collect();
    ensure!(rows.len() == 1 && rows[0].ends_with("status\tOK"), "table {table} is damaged: {said}");
    Ok(())
}

async fn present(server: &MariaDb) -> Result<HashSet<u64>> {
    let text = server
        .sql("USE shop; SELECT id FROM debits JOIN credits USING (id); SELECT id FROM notes")
        .await
        .context("the tables cannot be read")?;
    text.lines().map(|line| line.parse().with_context(|| format!("{line:?} is no id"))).collect()
}

/// Every page of the stopped server is as it was written.
async fn pages_intact(volumes: &Volumes) -> Result<()> {
    for table in INNODB {
        let file = volumes.data_directory().join(format!("shop/{table}.ibd"));
        process::succeed(None, Path::new("innochecksum"), [file], VERIFY_LIMIT)
            .await
            .with_context(|| format!("pages of {table} are damaged"))?;
    }
    Ok(())
}
