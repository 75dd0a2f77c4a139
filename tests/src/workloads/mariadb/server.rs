//! One MariaDB server.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::harness::{Lack, Process, Spec, binaries, process};
use crate::workloads::place::Owner;

const OWNER: Owner = Owner::new(64_001);
const SERVER: &str = "/usr/sbin/mariadbd";
const INSTALL_LIMIT: Duration = Duration::from_mins(2);
const START_LIMIT: Duration = Duration::from_secs(90);
const STOP_LIMIT: Duration = Duration::from_mins(1);
const CLIENT_LIMIT: Duration = Duration::from_mins(1);
/// Small, so that the redo log is used round and round while we look.
const REDO: &str = "--innodb-log-file-size=4M";

/// Why no server can be started here.
pub fn why_not() -> Option<Lack> {
    Lack::of_root().or_else(|| Lack::of_tools(tools()))
}

fn tools() -> Result<()> {
    ensure!(Path::new(SERVER).is_file(), "there is no {SERVER}; run: make setup");
    binaries::require_tools(&[
        ("mariadb-install-db", "mariadb-server-core"),
        ("innochecksum", "mariadb-server-core"),
        ("mariadb", "mariadb-client-core"),
        ("mariadb-check", "mariadb-client-core"),
    ])
}

/// Mount points of the two volumes.
#[derive(Debug, Clone)]
pub struct Volumes {
    /// Volume of the data directory and the binary log.
    pub data: PathBuf,
    /// Volume of InnoDB's redo log.
    pub redo: PathBuf,
}

impl Volumes {
    /// `datadir`.
    pub fn data_directory(&self) -> PathBuf {
        self.data.join("data")
    }

    fn redo_directory(&self) -> PathBuf {
        self.redo.join("redo")
    }

    /// What the server and its installation are told about where things are.
    fn options(&self) -> [OsString; 4] {
        let of = |name: &str, path: PathBuf| {
            let mut option = OsString::from(name);
            option.push(path);
            option
        };
        [
            "--no-defaults".into(),
            of("--datadir=", self.data_directory()),
            of("--innodb-log-group-home-dir=", self.redo_directory()),
            REDO.into(),
        ]
    }
}

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub struct MariaDb {
    volumes: Volumes,
    socket: PathBuf,
    process: Process,
}

impl MariaDb {
    /// `mariadb-install-db`.
    pub async fn initialise(volumes: &Volumes) -> Result<()> {
        for directory in [volumes.data_directory(), volumes.redo_directory()] {
            OWNER.make(&directory)?;
        }
        let more = ["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"];
        let args = volumes.options().into_iter().chain(more.map(OsString::from));
        process::succeed(Some(&OWNER.name()), Path::new("mariadb-install-db"), args, INSTALL_LIMIT).await?;
        Ok(())
    }

    /// Starts a server and waits until it answers; on a restored pair this includes the recovery.
    pub async fn start(name: &str, volumes: Volumes, run: &Path) -> Result<Self> {
        let directory = run.join(name);
        OWNER.make(&directory)?;
        let socket = directory.join("sock");
        let spec = Spec::new(name, SERVER).user(&OWNER.name()).args(volumes.options()).args([
            "--skip-networking".to_owned(),
            format!("--socket={}", socket.display()),
            format!("--pid-file={}", directory.join("pid").display()),
            // As a relative name: the list of binary logs would otherwise lead a restored server to those of the original.
            "--log-bin=binlog".to_owned(),
            "--server-id=1".to_owned(),
            "--sync-binlog=1".to_owned(),
            "--innodb-flush-log-at-trx-commit=1".to_owned(),
            "--innodb-buffer-pool-size=16M".to_owned(),
            "--innodb-max-dirty-pages-pct=1".to_owned(),
            // What a crash left is to be found, not mended in silence.
            "--myisam-recover-options=OFF".to_owned(),
        ]);
        let mut server = Self { volumes, socket, process: spec.start(run)? };
        server.wait_ready().await?;
        Ok(server)
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let end = Instant::now() + START_LIMIT;
        loop {
            self.process.check_alive()?;
            let Err(error) = self.sql("SELECT 1").await else { return Ok(()) };
            if Instant::now() > end {
                bail!("MariaDB does not answer ({error:#}); its log ends with:\n{}", self.process.tail());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Arguments that make MariaDB's own client programs talk to this server, as the administrator.
    pub fn client_arguments(&self) -> Vec<String> {
        vec!["--no-defaults".into(), format!("--socket={}", self.socket.display()), "--user=root".into()]
    }

    /// Runs statements as the administrator; what they print.
    pub async fn sql(&self, statements: &str) -> Result<String> {
        self.sql_within(statements, CLIENT_LIMIT).await
    }

    /// As [`Self::sql`], with this much time, in whole seconds.
    pub async fn sql_within(&self, statements: &str, limit: Duration) -> Result<String> {
        let mut args = self.client_arguments();
        args.extend(["--batch".into(), "--skip-column-names".into(), format!("--execute={statements}")]);
        process::succeed(None, Path::new("mariadb"), args, limit).await
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// A clean shutdown.
    pub fn stop(mut self) -> Result<Volumes> {
        self.process.stop(Signal::SIGTERM, STOP_LIMIT).context("MariaDB does not end")?;
        Ok(self.volumes.clone())
    }
}
