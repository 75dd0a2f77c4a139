//! Where everything of a cluster is and what it is called.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{Flock, FlockArg};

use crate::harness::Step;

/// Nodes of the cluster.
pub const NODES: u8 = 3;
/// The API server's service address, which every pod knows. It is an address of the control plane's own namespace.
pub const API_SERVICE: &str = "10.96.0.1";
/// Where pods ask for names, also an address of the control plane.
pub const DNS_SERVICE: &str = "10.96.0.10";
/// Addresses of services.
pub const SERVICE_RANGE: &str = "10.96.0.0/16";
/// Names of services end with this.
pub const DOMAIN: &str = "cluster.local";

const DEFAULT_CACHE: &str = "/var/tmp/stillpoint-cache";
const RUN_PREFIX: &str = "/var/tmp/stillpoint-cluster-";

/// One cluster: its name, its run directory, and the cache it shares with others.
#[derive(Debug, Clone)]
pub struct Layout {
    name: String,
    run: PathBuf,
    cache: PathBuf,
}

impl Layout {
    /// The cluster of this name. The cache is `STILLPOINT_CACHE`, else `/var/tmp/stillpoint-cache`.
    pub fn new(name: &str) -> Result<Self> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        ensure!(
            !name.is_empty() && name.len() <= 12 && name.chars().all(plain),
            "the name of a cluster is 1 to 12 of a-z and 0-9, not {name:?}"
        );
        let cache = std::env::var_os("STILLPOINT_CACHE").filter(|path| !path.is_empty());
        let cache = cache.map_or_else(|| DEFAULT_CACHE.into(), PathBuf::from);
        ensure!(cache.is_absolute(), "STILLPOINT_CACHE must be an absolute path, not {}", cache.display());
        Ok(Self { name: name.into(), run: format!("{RUN_PREFIX}{name}").into(), cache })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its cgroup directories are called in every hierarchy.
    pub fn cgroup(&self) -> String {
        format!("sp-{}", self.name)
    }

    /// Everything that belongs to this cluster alone.
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// A path below the run directory.
    pub fn file(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.run.join(relative)
    }

    /// A directory below the run directory, made when it is missing.
    pub fn directory(&self, relative: impl AsRef<Path>) -> Result<PathBuf> {
        made(self.run.join(relative))
    }

    /// A directory below the cache, made when it is missing.
    pub fn cache(&self, relative: impl AsRef<Path>) -> Result<PathBuf> {
        made(self.cache.join(relative))
    }

    /// A program that [`super::tools`] has built.
    pub fn tool(&self, name: &str) -> PathBuf {
        self.cache.join("bin").join(name)
    }

    /// The unpacked Debian packages.
    pub fn debian(&self) -> PathBuf {
        self.cache.join("debian/root")
    }

    /// A certificate or key.
    pub fn pki(&self, file: &str) -> PathBuf {
        self.run.join("pki").join(file)
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.pki("admin.kubeconfig")
    }

    /// Keeps others from filling the cache meanwhile; waits until nobody else does.
    pub fn lock_cache(&self) -> Result<Flock<File>> {
        let path = self.cache("")?.join("lock");
        let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let step = Step::begin("waiting for another cluster that fills the cache");
        let locked = Flock::lock(file, FlockArg::LockExclusive);
        drop(step);
        locked.map_err(|(_, errno)| anyhow::anyhow!("cannot lock {}: {errno}", path.display()))
    }

    /// Keeps others from changing this cluster meanwhile.
    pub fn lock(&self) -> Result<Flock<File>> {
        let path = self.run.with_extension("lock");
        let file = File::create(&path).with_context(|| format!("cannot open {}", path.display()))?;
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
            anyhow::anyhow!(
                "{} is held ({errno}): another command works on this cluster; wait for it",
                path.display()
            )
        })
    }
}

fn made(path: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}

/// A network and mount namespace of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// etcd, API server, controller manager and scheduler, and the bridge that connects the nodes.
    ControlPlane,
    /// A node, counted from 1.
    Node(u8),
}

impl Place {
    /// All nodes.
    pub fn nodes() -> impl Iterator<Item = Self> {
        (1..=NODES).map(Self::Node)
    }

    /// The control plane and all nodes.
    pub fn all() -> impl Iterator<Item = Self> {
        std::iter::once(Self::ControlPlane).chain(Self::nodes())
    }

    /// Its address on the bridge.
    pub fn address(self) -> String {
        match self {
            Self::ControlPlane => "10.77.0.1".into(),
            Self::Node(number) => format!("10.77.0.{}", 10 + number),
        }
    }

    /// The addresses of its pods; the control plane has none.
    pub fn pod_range(self) -> Option<String> {
        match self {
            Self::ControlPlane => None,
            Self::Node(number) => Some(format!("10.78.{number}.0/24")),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ControlPlane => f.write_str("control-plane"),
            Self::Node(number) => write!(f, "node-{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_could_leave_its_directory_is_refused() {
        for bad in ["", "../x", "a/b", "A", "a-b", "averyverylongname"] {
            assert!(Layout::new(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Layout::new("e2e").unwrap().cgroup(), "sp-e2e");
    }

    #[test]
    fn every_place_has_its_own_address_and_every_node_its_own_pods() {
        let addresses: std::collections::BTreeSet<_> = Place::all().map(Place::address).collect();
        let ranges: std::collections::BTreeSet<_> = Place::all().filter_map(Place::pod_range).collect();
        assert_eq!((addresses.len(), ranges.len()), (4, 3));
    }
}
