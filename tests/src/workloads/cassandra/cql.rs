//! As much of Cassandra's native protocol (version 4) as the load needs: STARTUP, QUERY, and results of plain
//! columns. One question at a time per connection.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// A frame may not be longer (Cassandra's own limit is 16 MiB).
const FRAME_LIMIT: usize = 16 << 20;

const VERSION: u8 = 4;
const ANSWER: u8 = 0x80;

const ERROR: u8 = 0x00;
const STARTUP: u8 = 0x01;
const READY: u8 = 0x02;
const QUERY: u8 = 0x07;
const RESULT: u8 = 0x08;

const RESULT_ROWS: i32 = 2;
/// Flag of a frame whose body begins with a list of warnings.
const WARNINGS: u8 = 0x08;

/// How many copies must answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// One copy.
    One,
    /// The majority.
    Quorum,
    /// Every copy.
    All,
}

impl Consistency {
    fn code(self) -> u16 {
        match self {
            Self::One => 1,
            Self::Quorum => 4,
            Self::All => 5,
        }
    }
}

/// One row: its columns as they came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row(Vec<Option<Vec<u8>>>);

impl Row {
    /// An `inet` column.
    pub fn address(&self, column: usize) -> Option<IpAddr> {
        let bytes = self.0.get(column)?.as_deref()?;
        let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
        v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
    }

    /// A `bigint` column.
    pub fn bigint(&self, column: usize) -> Option<i64> {
        Some(i64::from_be_bytes(self.0.get(column)?.as_deref()?.try_into().ok()?))
    }
}

/// A connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
}

impl Client {
    /// Connects and starts the protocol.
    pub async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = timeout(ANSWER_LIMIT, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        let mut client = Self { stream };
        let mut body = Vec::new();
        body.extend(1_u16.to_be_bytes());
        put_string(&mut body, "CQL_VERSION")?;
        put_string(&mut body, "3.0.0")?;
        let (opcode, body) = client.ask(STARTUP, &body).await?;
        match opcode {
            READY => Ok(client),
            ERROR => Err(server_error(&body)),
            other => bail!("Cassandra answers STARTUP with opcode {other}"),
        }
    }

    /// One statement; its rows, none for a statement that has no result.
    pub async fn query(&mut self, statement: &str, consistency: Consistency) -> Result<Vec<Row>> {
        let mut body = Vec::with_capacity(statement.len() + 7);
        body.extend(i32::try_from(statement.len())?.to_be_bytes());
        body.extend(statement.as_bytes());
        body.extend(consistency.code().to_be_bytes());
        body.push(0);
        let (opcode, body) = self.ask(QUERY, &body).await?;
        match opcode {
            RESULT => rows(&body),
            ERROR => Err(server_error(&body)),
            other => bail!("Cassandra answers QUERY with opcode {other}"),
        }
    }

    async fn ask(&mut self, opcode: u8, body: &[u8]) -> Result<(u8, Vec<u8>)> {
        timeout(ANSWER_LIMIT, self.exchange(opcode, body))
            .await
            .with_context(|| format!("Cassandra did not answer within {ANSWER_LIMIT:?}"))?
    }

    async fn exchange(&mut self, opcode: u8, body: &[u8]) -> Result<(u8, Vec<u8>)> {
        // version, flags, stream (2 bytes), opcode, length (4 bytes)
        let mut frame = vec![VERSION, 0, 0, 0, opcode];
        frame.extend(u32::try_from(body.len())?.to_be_bytes());
        frame.extend(body);
        self.stream.write_all(&frame).await?;
        let mut header = [0; 9];
        self.stream.read_exact(&mut header).await?;
        let [version, flags, _, _, opcode, length @ ..] = header;
        ensure!(version == VERSION | ANSWER, "Cassandra speaks protocol version {}", version & !ANSWER);
        let length = u32::from_be_bytes(length) as usize;
        ensure!(length <= FRAME_LIMIT, "an answer of {length} bytes");
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        Ok((opcode, without_warnings(flags, &body)?.to_vec()))
    }
}

fn put_string(body: &mut Vec<u8>, text: &str) -> Result<()> {
    body.extend(u16::try_from(text.len())?.to_be_bytes());
    body.extend(text.as_bytes());
    Ok(())
}

fn server_error(body: &[u8]) -> anyhow::Error {
    let mut body = Body(body);
    let text = body.int().and_then(|code| Ok(format!("Cassandra: {} (code {code:#06x})", body.string()?)));
    text.map_or_else(|error| error, anyhow::Error::msg)
}

/// The body proper: Cassandra warns, for example, about a count over all partitions.
fn without_warnings(flags: u8, body: &[u8]) -> Result<&[u8]> {
    let mut body = Body(body);
    if flags & WARNINGS != 0 {
        for _ in 0..body.short()? {
            body.string()?;
        }
    }
    Ok(body.0)
}

fn rows(body: &[u8]) -> Result<Vec<Row>> {
    let mut body = Body(body);
    if body.int()? != RESULT_ROWS {
        return Ok(Vec::new());
    }
    let flags = body.int()?;
    let columns = body.int()?;
    ensure!(flags & 0x02 == 0, "more pages follow, though no page size was asked for");
    let has_global_table = flags & 0x01 != 0;
    if has_global_table {
        body.string()?;
        body.string()?;
    }
    for _ in 0..columns {
        if !has_global_table {
            body.string()?;
            body.string()?;
        }
        body.string()?;
        let kind = body.short()?;
        ensure!((0x01..=0x15).contains(&kind), "a column of type {kind:#x}, which this client does not read");
    }
    let count = body.int()?;
    (0..count).map(|_| Ok(Row((0..columns).map(|_| body.value()).collect::<Result<_>>()?))).collect()
}

/// Reads the protocol's primitives off the front.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(count).context("an answer that ends too early")?;
        self.0 = rest;
        Ok(front)
    }

    fn short(&mut self) -> Result<u16> {
        Ok(u16::from_be_bytes(self.take(2)?.try_into()?))
    }

    fn int(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(self.take(4)?.try_into()?))
    }

    fn string(&mut self) -> Result<String> {
        let length = self.short()?;
        Ok(String::from_utf8_lossy(self.take(usize::from(length))?).into_owned())
    }

    /// A column's bytes; a negative length is null.
    fn value(&mut self) -> Result<Option<Vec<u8>>> {
        let length = self.int()?;
        usize::try_from(length).ok().map(|length| Ok(self.take(length)?.to_vec())).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two rows of two bigint columns, the second value of the second row null.
    fn answer() -> Vec<u8> {
        let mut body = Vec::new();
        for int in [RESULT_ROWS, 0x01, 2] {
            body.extend(int.to_be_bytes());
        }
        for name in ["ks", "table"] {
            put_string(&mut body, name).unwrap();
        }
        for name in ["n", "sum"] {
            put_string(&mut body, name).unwrap();
            body.extend(2_u16.to_be_bytes());
        }
        body.extend(2_i32.to_be_bytes());
        for value in [Some(7_i64), Some(-8), Some(9), None] {
            body.extend(value.map_or(-1, |_| 8_i32).to_be_bytes());
            body.extend(value.map(i64::to_be_bytes).into_iter().flatten());
        }
        body
    }

    #[test]
    fn rows_are_read() {
        let rows = rows(&answer()).unwrap();
        let read: Vec<_> = rows.iter().map(|row| (row.bigint(0), row.bigint(1))).collect();
        assert_eq!(read, [(Some(7), Some(-8)), (Some(9), None)]);
    }

    #[test]
    fn warnings_before_the_rows_are_passed_over() {
        let mut body = 1_u16.to_be_bytes().to_vec();
        put_string(&mut body, "mind the partitions").unwrap();
        body.extend(answer());
        assert_eq!(without_warnings(WARNINGS, &body).unwrap(), answer());
        assert_eq!(without_warnings(0, &answer()).unwrap(), answer());
    }

    #[test]
    fn an_answer_cut_short_anywhere_is_an_error_and_not_fewer_rows() {
        let whole = answer();
        for length in 0..whole.len() {
            assert!(rows(&whole[..length]).is_err(), "{length}");
        }
    }
}
