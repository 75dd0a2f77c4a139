//! The agent's configuration file. Strict: a misspelt field, a field given twice or a value that cannot be meant
//! is refused by name, before anything is opened.
//!
//! ```yaml
//! host: node-1                  # the orchestrator's name of this node; also the name in the certificate
//! listen: 10.0.0.7:9700         # the agent API, for the controller
//! tls: {ca: /etc/stillpoint/ca.crt, cert: /etc/stillpoint/node-1.crt, key: /etc/stillpoint/node-1.key}
//! pools: [/var/lib/stillpoint/pool]
//! overcommit: {/var/lib/stillpoint/pool: 1.5}  # how many times its size a pool may promise; left out: 1
//! stateDir: /var/lib/stillpoint/state      # the agent's own; may not be on a pool
//! csiSocket: /run/stillpoint/csi.sock      # CSI identity and node service; left out: none
//! guardSocket: /run/stillpoint/guard.sock  # left out: holds are not guarded
//! expedite: auto                # or never: RCU grace periods around a hold; never makes it 30 ms longer
//! metricsListen: 127.0.0.1:9704  # Prometheus' text format at /metrics; left out: none
//! kernel: linux                 # or memory: nothing is real and all is gone at the end
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::mounts::check_path;
use super::pool::Overcommit;
use crate::domain::HostName;
use crate::identity::tls::TlsFiles;

/// A configuration is a screen of text.
const SIZE_LIMIT_BYTES: u64 = 1 << 20;

/// What the agent's file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentConfig {
    /// This host's name.
    pub host: HostName,
    /// Where the agent API listens.
    pub listen: SocketAddr,
    /// Own certificates; only an agent that enrols has none here.
    #[serde(default)]
    pub tls: Option<TlsFiles>,
    /// Pool directories.
    pub pools: Vec<PathBuf>,
    /// How many times its size a pool may promise to its volumes, by directory; left out: once.
    #[serde(default)]
    pub overcommit: BTreeMap<PathBuf, Overcommit>,
    /// The agent's own directory.
    pub state_dir: PathBuf,
    /// Unix socket of the CSI node service.
    #[serde(default)]
    pub csi_socket: Option<PathBuf>,
    /// Unix socket of the guard.
    #[serde(default)]
    pub guard_socket: Option<PathBuf>,
    /// Whether grace periods are expedited around a hold.
    #[serde(default)]
    pub expedite: Expediting,
    /// Where metrics are served; left out: nowhere.
    #[serde(default)]
    pub metrics_listen: Option<SocketAddr>,
    /// Which kernel.
    #[serde(default)]
    pub kernel: Kernel,
}

/// Whether RCU grace periods are expedited around a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expediting {
    /// Except on real-time kernels and hosts with isolated CPUs.
    #[default]
    Auto,
    /// Nowhere.
    Never,
}

/// Which kernel the agent works with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kernel {
    /// The real one.
    #[default]
    Linux,
    /// A model in memory, to try the API without root.
    Memory,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file.
    #[error("cannot read the configuration {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Far too large to be one.
    #[error("{} has {size} bytes and is no configuration (1 MiB at most)", path.display())]
    TooLarge {
        /// Which.
        path: PathBuf,
        /// Its size.
        size: u64,
    },
    /// Not the fields that are expected.
    #[error("configuration: {0}")]
    Syntax(String),
    /// A value that cannot be meant.
    #[error("configuration: {0}")]
    Value(String),
}

impl AgentConfig {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file = |source| ConfigError::File { path: path.into(), source };
        let size = fs::metadata(path).map_err(file)?.len();
        if size > SIZE_LIMIT_BYTES {
            return Err(ConfigError::TooLarge { path: path.into(), size });
        }
        Self::parse(&fs::read_to_string(path).map_err(file)?)
    }

    /// Reads YAML.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self = serde_yaml::from_str(text).map_err(|why| ConfigError::Syntax(why.to_string()))?;
        if config.tls.is_none() {
            let why = "tls is missing; give ca, cert and key as `stillpoint pki agent` makes them";
            return Err(ConfigError::Value(why.into()));
        }
        config.check()?;
        Ok(config)
    }

    /// Refuses what cannot be meant.
    pub fn check(&self) -> Result<(), ConfigError> {
        let value = |why: String| Err(ConfigError::Value(why));
        if self.pools.is_empty() {
            return value(
                "pools is empty; name at least one pool directory (`stillpoint pool create` makes one)"
                    .into(),
            );
        }
        let different: BTreeSet<_> = self.pools.iter().collect();
        if different.len() != self.pools.len() {
            return value("pools names the same directory twice".into());
        }
        if let Some(other) = self.overcommit.keys().find(|dir| !self.pools.contains(dir)) {
            let other = other.display();
            return value(format!("overcommit names {other}, which is not in pools; write it as pools does"));
        }
        let files = self
            .tls
            .iter()
            .flat_map(|tls| [("tls.ca", &tls.ca), ("tls.cert", &tls.cert), ("tls.key", &tls.key)]);
        let sockets = [("csiSocket", &self.csi_socket), ("guardSocket", &self.guard_socket)];
        let sockets = sockets.iter().filter_map(|(field, path)| Some((*field, path.as_ref()?)));
        let pools = self.pools.iter().map(|pool| ("pools", pool));
        for (field, path) in
            files.into_iter().chain(sockets).chain(pools).chain([("stateDir", &self.state_dir)])
        {
            check_path(field, path).map_err(|fault| ConfigError::Value(fault.message))?;
        }
        match self.pools.iter().find(|pool| self.state_dir.starts_with(pool)) {
            Some(pool) => value(format!(
                "stateDir is inside the pool {}; what is held during a cut may not hold the agent",
                pool.display()
            )),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
host: node-1
listen: 127.0.0.1:9700
tls: {ca: /c/ca.crt, cert: /c/a.crt, key: /c/a.key}
pools: [/pool]
stateDir: /var/lib/agent
";

    fn refused(text: &str) -> String {
        AgentConfig::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_short_file_is_enough() {
        let config = AgentConfig::parse(GOOD).unwrap();
        assert_eq!(config.host.as_str(), "node-1");
        assert_eq!((config.csi_socket, config.guard_socket, config.kernel), (None, None, Kernel::Linux));
        let full = format!("{GOOD}csiSocket: /run/csi.sock\nguardSocket: /run/guard.sock\nkernel: memory\n");
        let config = AgentConfig::parse(&full).unwrap();
        assert_eq!((config.csi_socket, config.kernel), (Some("/run/csi.sock".into()), Kernel::Memory));
        assert_eq!(config.expedite, Expediting::Auto);
        assert!(config.overcommit.is_empty());
        for (text, factor) in [("2", "2"), ("1.5", "1.5"), ("'0.8'", "0.8")] {
            let config = AgentConfig::parse(&format!("{GOOD}overcommit: {{/pool: {text}}}\n")).unwrap();
            assert_eq!(config.overcommit[Path::new("/pool")].to_string(), factor);
        }
    }

    #[test]
    fn mistakes_are_refused_by_the_name_of_the_field() {
        for (field, text) in [
            ("pool", GOOD.replace("pools:", "pool:")),
            ("host", format!("{GOOD}host: node-2\n")),
            ("node_1", GOOD.replace("node-1", "node_1")),
            ("listen", GOOD.replace("127.0.0.1:9700", "everywhere")),
            ("key", GOOD.replace(", key: /c/a.key", "")),
            ("tls is missing", GOOD.replace("tls: {ca: /c/ca.crt, cert: /c/a.crt, key: /c/a.key}\n", "")),
            ("tls.cert", GOOD.replace("/c/a.crt", "a.crt")),
            ("pools", GOOD.replace("[/pool]", "[]")),
            ("pools", GOOD.replace("[/pool]", "[/pool, /pool]")),
            ("pools", GOOD.replace("[/pool]", "[/pool/../etc]")),
            ("stateDir", GOOD.replace("/var/lib/agent", "/pool/state")),
            ("overcommit names /other", format!("{GOOD}overcommit: {{/other: 2}}\n")),
            ("overcommit \"0\"", format!("{GOOD}overcommit: {{/pool: 0}}\n")),
            ("overcommit \"much\"", format!("{GOOD}overcommit: {{/pool: much}}\n")),
            ("expedite", format!("{GOOD}expedite: true\n")),
            ("kernel", format!("{GOOD}kernel: windows\n")),
        ] {
            let why = refused(&text);
            assert!(why.contains(field), "{field}: {why}");
        }
    }

    #[test]
    fn garbage_is_refused_before_it_is_parsed() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("agent.yaml");
        fs::write(&path, vec![b'x'; 10 << 20]).unwrap();
        assert!(matches!(AgentConfig::load(&path), Err(ConfigError::TooLarge { .. })));
        fs::write(&path, [0xff, 0xfe, 0]).unwrap();
        assert!(AgentConfig::load(&path).is_err());
        assert!(
            AgentConfig::load(&scratch.path().join("nothing")).unwrap_err().to_string().contains("nothing")
        );
        for text in ["", "[]", "host", "&a [*a, *a]", "{{{{"] {
            assert!(AgentConfig::parse(text).is_err(), "{text:?}");
        }
    }
}
