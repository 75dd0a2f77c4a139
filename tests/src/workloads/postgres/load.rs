//! Write load: money that moves between accounts.

use anyhow::{Context, Result};
use tokio_postgres::{Client, Config};

use super::server::connect;
use crate::workloads::load::{Load, Writer};

/// Each connection has this many accounts of its own, so that connections never wait for each other.
const ACCOUNTS: u64 = 50;
/// What every account begins with.
pub const OPENING: i64 = 1000;

const SCHEMA: &str = "
    CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL);
    CREATE TABLE debits (id bigint PRIMARY KEY, account bigint NOT NULL, amount bigint NOT NULL);
    CREATE TABLE credits (id bigint PRIMARY KEY, account bigint NOT NULL, amount bigint NOT NULL);
    CREATE INDEX debits_by_account ON debits (account);
    CREATE INDEX credits_by_account ON credits (account);";

/// A connection with accounts of its own.
struct Teller {
    client: Client,
    first: u64,
    transfers: u64,
}

impl Writer for Teller {
    async fn write(&mut self, id: u64) -> Result<()> {
        self.transfers += 1;
        let from = self.first + self.transfers % ACCOUNTS;
        let to = self.first + (self.transfers * 7 + 3) % ACCOUNTS;
        let amount = self.transfers % 13 + 1;
        let transfer = format!(
            "BEGIN;
             INSERT INTO debits VALUES ({id}, {from}, {amount});
             UPDATE accounts SET balance = balance - {amount} WHERE id = {from};
             INSERT INTO credits VALUES ({id}, {to}, {amount});
             UPDATE accounts SET balance = balance + {amount} WHERE id = {to};
             COMMIT;"
        );
        self.client.batch_execute(&transfer).await.context("a transfer failed")
    }
}

/// Makes the schema in an empty database and starts this many connections.
pub async fn start_load(server: &Config, connections: u32) -> Result<Load> {
    let client = connect(server).await?;
    client.batch_execute(SCHEMA).await.context("cannot make the schema")?;
    let open = format!(
        "INSERT INTO accounts SELECT id, {OPENING} FROM generate_series(0, {} - 1) AS id",
        u64::from(connections) * ACCOUNTS
    );
    client.batch_execute(&open).await.context("cannot open the accounts")?;
    let mut tellers = Vec::new();
    for number in 0..u64::from(connections) {
        tellers.push(Teller { client: connect(server).await?, first: number * ACCOUNTS, transfers: 0 });
    }
    Ok(Load::start("PostgreSQL", tellers))
}
