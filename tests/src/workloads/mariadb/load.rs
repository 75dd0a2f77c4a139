//! Connections through MariaDB's own client.

use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::MariaDb;
use crate::workloads::load::{Load, Writer};

const SCHEMA: &str = "
    CREATE DATABASE shop;
    CREATE TABLE shop.debits (id BIGINT PRIMARY KEY, amount BIGINT NOT NULL) ENGINE=InnoDB;
    CREATE TABLE shop.credits (id BIGINT PRIMARY KEY, amount BIGINT NOT NULL, KEY (amount)) ENGINE=InnoDB;
    CREATE TABLE shop.notes (id BIGINT PRIMARY KEY, word VARCHAR(40), KEY (word)) ENGINE=MyISAM;";

/// The table without a log.
pub const MYISAM: &str = "notes";

/// What a connection writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row {
    /// Two rows of InnoDB in one transaction.
    Pair,
    /// One row of MyISAM.
    Note,
}

impl Row {
    fn statements(self, id: u64) -> String {
        match self {
            Self::Pair => format!(
                "BEGIN; INSERT INTO debits VALUES ({id}, {amount}); INSERT INTO credits VALUES ({id}, {amount}); COMMIT;",
                amount = id % 97
            ),
            Self::Note => format!("INSERT INTO notes VALUES ({id}, 'note {id}');"),
        }
    }
}

struct Connection {
    row: Row,
    client: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Connection {
    fn open(server: &MariaDb, row: Row) -> Result<Self> {
        let mut command = Command::new("mariadb");
        command.args(server.client_arguments());
        command.args(["--batch", "--skip-column-names", "--unbuffered", "--skip-reconnect", "shop"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut client = command.spawn().context("cannot run mariadb")?;
        let input = client.stdin.take().context("its input is piped")?;
        let output = client.stdout.take().context("its output is piped")?;
        Ok(Self { row, client, input, output: BufReader::new(output).lines() })
    }

    async fn why(&mut self) -> String {
        let mut said = String::new();
        if let Some(stderr) = self.client.stderr.as_mut() {
            // What can be read is enough.
            let _ = stderr.read_to_string(&mut said).await;
        }
        said.trim().to_owned()
    }
}

impl Writer for Connection {
    async fn write(&mut self, id: u64) -> Result<()> {
        let text = format!("{} SELECT 'done {id}';\n", self.row.statements(id));
        self.input.write_all(text.as_bytes()).await.context("cannot send")?;
        let Some(line) = self.output.next_line().await? else {
            bail!("the client ended: {}", self.why().await);
        };
        ensure!(line == format!("done {id}"), "the client said {line:?}");
        Ok(())
    }
}

impl MariaDb {
    /// Makes the tables.
    pub async fn make_schema(&self) -> Result<()> {
        self.sql(SCHEMA).await.context("cannot make the schema")?;
        Ok(())
    }

    /// Starts a connection for each of these.
    pub fn load(&self, rows: &[Row]) -> Result<Load> {
        let writers = rows.iter().map(|row| Connection::open(self, *row)).collect::<Result<Vec<_>>>()?;
        Ok(Load::start("MariaDB", writers))
    }
}
