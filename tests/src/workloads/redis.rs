//! A real Redis with its append-only file, rewritten again and again while it is written.

use std::collections::HashSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::load::{Checked, Load, Writer, nothing_lost};
use super::place::Owner;
use crate::harness::{Lack, Process, Spec, binaries, process};

const OWNER: Owner = Owner::new(64_002);
/// The server and this are one program, which looks at the name that it is called by.
const PROGRAM: &str = "/usr/bin/redis-check-rdb";
const START_LIMIT: Duration = Duration::from_secs(90);
const STOP_LIMIT: Duration = Duration::from_mins(1);
const VERIFY_LIMIT: Duration = Duration::from_mins(1);

/// Why no server can be started here.
pub fn why_not() -> Option<Lack> {
    let tools = [
        ("redis-check-rdb", "redis-tools"),
        ("redis-check-aof", "redis-tools"),
        ("redis-cli", "redis-tools"),
    ];
    Lack::of_root().or_else(|| Lack::of_tools(binaries::require_tools(&tools)))
}

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub struct Redis {
    volume: PathBuf,
    socket: PathBuf,
    process: Process,
}

impl Redis {
    /// Starts a server on a volume, empty or restored, and waits until it has read its data.
    pub async fn start(name: &str, volume: &Path, run: &Path) -> Result<Self> {
        let directory = run.join(name);
        OWNER.make(&directory)?;
        OWNER.make(&data(volume))?;
        let program = directory.join("redis-server");
        if !program.exists() {
            symlink(PROGRAM, &program).context("cannot name the server")?;
        }
        let socket = directory.join("sock");
        let spec = Spec::new(name, program).user(&OWNER.name()).args([
            "--port",
            "0",
            "--unixsocket",
            &socket.display().to_string(),
            "--dir",
            &data(volume).display().to_string(),
            "--daemonize",
            "no",
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            "everysec",
            // Half a file is to be found, not cut off in silence.
            "--aof-load-truncated",
            "no",
            // Rewritten as often as possible.
            "--auto-aof-rewrite-percentage",
            "1",
            "--auto-aof-rewrite-min-size",
            "4kb",
        ]);
        let mut server = Self { volume: volume.into(), socket, process: spec.start(run)? };
        server.wait_ready().await?;
        Ok(server)
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let end = Instant::now() + START_LIMIT;
        loop {
            self.process.check_alive()?;
            if self.cli(&["PING"]).await.is_ok_and(|said| said.trim() == "PONG") {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("Redis does not answer; its log ends with:\n{}", self.process.tail());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Arguments that make `redis-cli` talk to this server.
    pub fn client_arguments(&self) -> [String; 2] {
        ["-s".into(), self.socket.display().to_string()]
    }

    /// `redis-cli -e` with these words; what it prints.
    pub async fn cli(&self, words: &[&str]) -> Result<String> {
        let [option, socket] = self.client_arguments();
        let args = [option.as_str(), socket.as_str(), "-e"].into_iter().chain(words.iter().copied());
        process::succeed(None, Path::new("redis-cli"), args, VERIFY_LIMIT).await
    }

    /// Starts so many connections that write.
    pub async fn load(&self, connections: u32) -> Result<Load> {
        let mut writers = Vec::new();
        for _ in 0..connections {
            let stream = UnixStream::connect(&self.socket).await.context("cannot connect to Redis")?;
            writers.push(Connection { stream: BufReader::new(stream) });
        }
        Ok(Load::start("Redis", writers))
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// A clean shutdown.
    pub fn stop(mut self) -> Result<PathBuf> {
        self.process.stop(Signal::SIGTERM, STOP_LIMIT).context("Redis does not end")?;
        Ok(self.volume.clone())
    }
}

/// Where a server's data is on its volume.
pub fn data(volume: &Path) -> PathBuf {
    volume.join("data")
}

/// The append-only file of a restored volume is right (`redis-check-aof`), a server starts on it, and every write of
/// `required` is there.
pub async fn check(volume: &Path, required: &[u64], run: &Path) -> Result<Checked> {
    let manifest = data(volume).join("appendonlydir/appendonly.aof.manifest");
    process::succeed(None, Path::new("redis-check-aof"), [manifest], VERIFY_LIMIT)
        .await
        .context("the append-only file is damaged")?;
    let server =
        Redis::start("redis-restored", volume, run).await.context("Redis does not start on the cut")?;
    let keys = server.cli(&["KEYS", "*"]).await?;
    let present = keys.lines().map(|line| line.parse().with_context(|| format!("{line:?} is no id")));
    let checked = nothing_lost(required, &present.collect::<Result<HashSet<u64>>>()?)?;
    server.stop()?;
    Ok(checked)
}

struct Connection {
    stream: BufReader<UnixStream>,
}

impl Connection {
    async fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        let length = self.stream.read_line(&mut line).await?;
        ensure!(length > 0, "the server has closed the connection");
        Ok(line.trim_end().to_owned())
    }
}

impl Writer for Connection {
    /// The value is long, so that the file grows and is rewritten.
    async fn write(&mut self, id: u64) -> Result<()> {
        let (key, value) = (id.to_string(), "x".repeat(200));
        let (k, v) = (key.len(), value.len());
        let command = format!("*3\r\n$3\r\nSET\r\n${k}\r\n{key}\r\n${v}\r\n{value}\r\n");
        self.stream.get_mut().write_all(command.as_bytes()).await?;
        let answer = self.answer().await?;
        ensure!(answer == "+OK", "the server said {answer:?}");
        Ok(())
    }
}
