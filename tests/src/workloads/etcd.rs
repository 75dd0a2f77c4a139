//! A real etcd of one member, with its write-ahead log on another volume than its data.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use tonic::Request;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use super::load::{Checked, Load, Writer, nothing_lost};
use super::place::Owner;
use crate::harness::{Lack, Process, Spec, binaries, net, process};

const OWNER: Owner = Owner::new(64_003);
const START_LIMIT: Duration = Duration::from_secs(90);
const STOP_LIMIT: Duration = Duration::from_mins(1);
const VERIFY_LIMIT: Duration = Duration::from_mins(1);
const CALL_LIMIT: Duration = Duration::from_mins(1);
const KEYS: &[u8] = b"shop/";
/// The first key behind all that begin with [`KEYS`].
const KEYS_END: &[u8] = b"shop0";

/// Where `make setup` unpacks Debian's etcd: installed, it would start a service of its own.
pub fn tool(name: &str) -> Result<PathBuf> {
    let unpacked = binaries::target_directory()?.join("tools/etcd/usr/bin").join(name);
    ensure!(unpacked.is_file(), "there is no {}; run: make setup", unpacked.display());
    Ok(unpacked)
}

/// Why no server can be started here.
pub fn why_not() -> Option<Lack> {
    Lack::of_root().or_else(|| ["etcd", "etcdctl"].iter().find_map(|name| Lack::of_tools(tool(name))))
}

/// Mount points of the two volumes.
#[derive(Debug, Clone)]
pub struct Volumes {
    /// Volume of the data directory.
    pub data: PathBuf,
    /// Volume of the write-ahead log.
    pub wal: PathBuf,
}

impl Volumes {
    fn data_directory(&self) -> PathBuf {
        self.data.join("data")
    }

    /// The file of the database.
    pub fn database(&self) -> PathBuf {
        self.data_directory().join("member/snap/db")
    }

    /// Below one of etcd's own: it makes the log under another name beside it first.
    fn wal_directory(&self) -> PathBuf {
        self.wal.join("etcd/wal")
    }
}

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub struct Etcd {
    volumes: Volumes,
    clients: String,
    process: Process,
}

impl Etcd {
    /// Starts a server on two volumes, empty or restored, and waits until it can be written to.
    pub async fn start(name: &str, volumes: Volumes, run: &Path) -> Result<Self> {
        let parents = [(&volumes.data, "data"), (&volumes.wal, "etcd")];
        for (volume, directory) in parents {
            OWNER.make(&volume.join(directory))?;
        }
        let (clients, peers) =
            (format!("http://{}", net::free_address()?), format!("http://{}", net::free_address()?));
        // Copied: the server's user may not be able to look into the directory of whoever has built this.
        let program = run.join(format!("{name}-program"));
        std::fs::copy(tool("etcd")?, &program).context("cannot copy etcd")?;
        let spec = Spec::new(name, program)
            .user(&OWNER.name())
            .arg("--data-dir")
            .arg(volumes.data_directory())
            .arg("--wal-dir")
            .arg(volumes.wal_directory())
            .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
            .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
            .args(["--initial-cluster", &format!("default={peers}"), "--logger", "zap"]);
        let mut server = Self { volumes, clients, process: spec.start(run)? };
        server.wait_ready().await?;
        Ok(server)
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let end = Instant::now() + START_LIMIT;
        loop {
            self.process.check_alive()?;
            let Err(error) = self.ctl(&["endpoint", "health"]).await else { return Ok(()) };
            if Instant::now() > end {
                bail!("etcd does not answer ({error:#}); its log ends with:\n{}", self.process.tail());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Arguments that make `etcdctl` talk to this server.
    pub fn client_arguments(&self) -> String {
        format!("--endpoints={}", self.clients)
    }

    async fn ctl(&self, words: &[&str]) -> Result<String> {
        let endpoints = self.client_arguments();
        let args = [endpoints.as_str()].into_iter().chain(words.iter().copied());
        process::succeed(None, &tool("etcdctl")?, args, VERIFY_LIMIT).await
    }

    async fn connect(&self) -> Result<Connection> {
        let endpoint = Endpoint::from_shared(self.clients.clone())?.timeout(CALL_LIMIT);
        let channel = endpoint.connect().await.context("cannot connect to etcd")?;
        Ok(Connection { grpc: Grpc::new(channel).max_decoding_message_size(64 << 20) })
    }

    /// Starts so many connections that write.
    pub async fn load(&self, connections: u32) -> Result<Load> {
        let mut writers = Vec::new();
        for _ in 0..connections {
            writers.push(self.connect().await?);
        }
        Ok(Load::start("etcd", writers))
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// A clean shutdown.
    pub fn stop(mut self) -> Result<Volumes> {
        self.process.stop(Signal::SIGTERM, STOP_LIMIT).context("etcd does not end")?;
        Ok(self.volumes.clone())
    }
}

/// A server starts on the restored pair, every write of `required` is there, and the pages of its database are right
/// (`etcdctl snapshot status`).
pub async fn check(volumes: Volumes, required: &[u64], run: &Path) -> Result<Checked> {
    let server =
        Etcd::start("etcd-restored", volumes, run).await.context("etcd does not recover from the cut")?;
    let present = server.connect().await?.ids().await?;
    let checked = nothing_lost(required, &present)?;
    let volumes = server.stop()?;
    let database = volumes.database();
    let args = ["snapshot".as_ref(), "status".as_ref(), database.as_os_str()];
    process::succeed(None, &tool("etcdctl")?, args, VERIFY_LIMIT).await.context("the database is damaged")?;
    Ok(checked)
}

struct Connection {
    grpc: Grpc<Channel>,
}

impl Connection {
    async fn call<Q, A>(&mut self, method: &'static str, request: Q) -> Result<A>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        self.grpc.ready().await.context("etcd is not reached")?;
        let path = tonic::codegen::http::uri::PathAndQuery::from_static(method);
        let answer = self.grpc.unary(Request::new(request), path, ProstCodec::<Q, A>::default()).await?;
        Ok(answer.into_inner())
    }

    async fn ids(&mut self) -> Result<HashSet<u64>> {
        let all = Read { key: KEYS.into(), range_end: KEYS_END.into(), serializable: false, keys_only: true };
        let pairs: Found = self.call("/etcdserverpb.KV/Range", all).await?;
        let id = |pair: KeyValue| {
            let text = String::from_utf8(pair.key)?;
            text.rsplit('/').next().unwrap_or_default().parse().with_context(|| format!("{text:?} has no id"))
        };
        pairs.kvs.into_iter().map(id).collect()
    }
}

impl Writer for Connection {
    async fn write(&mut self, id: u64) -> Result<()> {
        let put = Put { key: [KEYS, id.to_string().as_bytes()].concat(), value: vec![b'x'; 200] };
        self.call::<_, Done>("/etcdserverpb.KV/Put", put).await.map(drop)
    }
}

/// The fields of etcd's API (package `etcdserverpb`) that are used here.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Put {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Done {}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Read {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    range_end: Vec<u8>,
    #[prost(bool, tag = "7")]
    serializable: bool,
    #[prost(bool, tag = "8")]
    keys_only: bool,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Found {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct KeyValue {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
}
