//! One PostgreSQL server.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use nix::unistd::User;
use tokio_postgres::{Client, Config, NoTls};

use crate::harness::{Process, Spec, net, process};

/// PostgreSQL refuses to run as root.
const USER: &str = "postgres";
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const INITDB_LIMIT: Duration = Duration::from_mins(2);
const START_LIMIT: Duration = Duration::from_secs(90);
const STOP_LIMIT: Duration = Duration::from_mins(1);

/// The newest PostgreSQL of this machine.
#[derive(Debug, Clone)]
pub struct Installation {
    bin: PathBuf,
}

impl Installation {
    /// Looks where Debian puts it.
    pub fn find() -> Result<Self> {
        let root = Path::new("/usr/lib/postgresql");
        let version = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
        let newest = fs::read_dir(root)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.join("bin/initdb").is_file())
            .max_by_key(|path| version(path));
        let home =
            newest.context("no PostgreSQL below /usr/lib/postgresql; run: apt-get install -y postgresql")?;
        Ok(Self { bin: home.join("bin") })
    }

    /// One of its programs.
    pub fn tool(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }
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
    /// `PGDATA`.
    pub fn data_directory(&self) -> PathBuf {
        self.data.join("data")
    }

    fn wal_directory(&self) -> PathBuf {
        self.wal.join("wal")
    }

    /// Makes a restored pair startable: the link to the WAL still points to the original volume, and the lock
    /// file is of a server that runs elsewhere.
    pub fn adopt(&self) -> Result<()> {
        let link = self.data_directory().join("pg_wal");
        fs::remove_file(&link).with_context(|| format!("{} is no restored link to a WAL", link.display()))?;
        symlink(self.wal_directory(), &link).context("cannot point pg_wal to the restored WAL volume")?;
        let lock = self.data_directory().join("postmaster.pid");
        if lock.exists() {
            fs::remove_file(&lock).with_context(|| format!("cannot remove {}", lock.display()))?;
        }
        Ok(())
    }
}

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub struct Postgres {
    installation: Installation,
    volumes: Volumes,
    sockets: PathBuf,
    port: u16,
    process: Process,
}

impl Postgres {
    /// `initdb` with data checksums and the WAL on the second volume.
    pub async fn initialise(installation: &Installation, volumes: &Volumes) -> Result<()> {
        for directory in [volumes.data_directory(), volumes.wal_directory()] {
            give(&directory)?;
        }
        let data = volumes.data_directory();
        let wal = volumes.wal_directory();
        let args = [
            "--data-checksums".as_ref(),
            "--auth=trust".as_ref(),
            "--username=postgres".as_ref(),
            "--encoding=UTF8".as_ref(),
            "--locale=C".as_ref(),
            "-D".as_ref(),
            data.as_os_str(),
            "--waldir".as_ref(),
            wal.as_os_str(),
        ];
        process::succeed(Some(USER), &installation.tool("initdb"), args, INITDB_LIMIT).await?;
        Ok(())
    }

    /// Starts a server and waits until it answers; on a restored pair this includes the recovery.
    pub async fn start(
        installation: &Installation,
        name: &str,
        volumes: Volumes,
        run: &Path,
    ) -> Result<Self> {
        Self::start_with(installation, name, volumes, run, &[]).await
    }

    /// As [`Self::start`], with more settings, each `name=value`.
    pub async fn start_with(
        installation: &Installation,
        name: &str,
        volumes: Volumes,
        run: &Path,
        more: &[String],
    ) -> Result<Self> {
        let sockets = run.join(name);
        give(&sockets)?;
        let port = net::free_address()?.port();
        let settings = [
            format!("unix_socket_directories={}", sockets.display()),
            "listen_addresses=127.0.0.1".into(),
            // Small, so that pages are written back and checkpoints happen while we look.
            "shared_buffers=16MB".into(),
            "max_wal_size=128MB".into(),
            "checkpoint_timeout=30s".into(),
            "log_checkpoints=on".into(),
        ];
        let spec = Spec::new(name, installation.tool("postgres"))
            .user(USER)
            .arg("-D")
            .arg(volumes.data_directory())
            .args(["-p", &port.to_string()])
            .args(settings.iter().chain(more).flat_map(|setting| ["-c", setting]));
        let process = spec.start(run)?;
        let mut server = Self { installation: installation.clone(), volumes, sockets, port, process };
        server.wait_ready().await?;
        Ok(server)
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let end = Instant::now() + START_LIMIT;
        loop {
            self.process.check_alive()?;
            let Err(error) = self.connect().await else { return Ok(()) };
            if Instant::now() > end {
                bail!("PostgreSQL does not answer ({error:#}); its log ends with:\n{}", self.process.tail());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A new connection; its background task ends with the client.
    pub async fn connect(&self) -> Result<Client> {
        connect(&self.config()).await
    }

    /// How it is reached.
    pub fn config(&self) -> Config {
        let mut config = Config::new();
        config.host_path(&self.sockets).port(self.port).user(USER).dbname("postgres");
        config.connect_timeout(CONNECT_LIMIT);
        config
    }

    /// Arguments that make PostgreSQL's own client programs talk to this server.
    pub fn client_arguments(&self) -> [String; 6] {
        let [host, port] = [self.sockets.display().to_string(), self.port.to_string()];
        ["-h".into(), host, "-p".into(), port, "-U".into(), USER.into()]
    }

    /// Where it is installed.
    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Fast shutdown; the volumes are as after `pg_ctl stop`.
    pub fn stop(mut self) -> Result<Volumes> {
        self.process.stop(Signal::SIGINT, STOP_LIMIT)?;
        Ok(self.volumes.clone())
    }
}

/// A new connection to any server; its background task ends with the client.
pub async fn connect(config: &Config) -> Result<Client> {
    let (client, connection) = config.connect(NoTls).await.context("cannot connect to PostgreSQL")?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

/// A directory that belongs to PostgreSQL.
fn give(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let user =
        User::from_name(USER)?.context("there is no user postgres; run: apt-get install -y postgresql")?;
    chown(directory, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    Ok(())
}
