//! Eight hosts with idle volumes in four groups.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use stillpoint::domain::Bytes;
use stillpoint_tests::harness::csi::Volume;
use stillpoint_tests::harness::leftovers::Leftovers;
use stillpoint_tests::harness::stack::Rcu;
use stillpoint_tests::harness::{Blueprint, Pod, RunDir, Stack, Step};

/// Filesystem of all volumes.
pub const FILESYSTEM: &str = "xfs";
/// Host of the volumes that are made and restored.
pub const FIRST_HOST: &str = HOSTS[0];

const HOSTS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
const POOL: Bytes = Bytes::gib(32);
/// Size of every volume.
pub const SIZE: Bytes = Bytes::mib(320);

/// Volumes that are cut together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// One volume.
    One,
    /// Eight volumes of one host.
    Eight,
    /// Sixteen volumes of one host.
    Sixteen,
    /// Sixty-four volumes of one host.
    SixtyFour,
    /// Eight volumes of each of eight hosts.
    Spread,
}

impl Group {
    /// All groups.
    pub const ALL: [Self; 5] = [Self::One, Self::Eight, Self::Sixteen, Self::SixtyFour, Self::Spread];

    /// Without those of sixty-four.
    pub const SMALL: [Self; 3] = [Self::One, Self::Eight, Self::Sixteen];

    /// In selectors and names.
    pub const fn label(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Eight => "eight",
            Self::Sixteen => "sixteen",
            Self::SixtyFour => "sixtyfour",
            Self::Spread => "spread",
        }
    }

    /// In the table.
    pub const fn title(self) -> &'static str {
        match self {
            Self::One => "1 volume",
            Self::Eight => "8 volumes, 1 host",
            Self::Sixteen => "16 volumes, 1 host",
            Self::SixtyFour => "64 volumes, 1 host",
            Self::Spread => "8 volumes on each of 8 hosts",
        }
    }

    /// Host of each volume. Groups have hosts of their own, so that a pool is not larger than it must be.
    fn places(self) -> Vec<&'static str> {
        match self {
            Self::One => vec![HOSTS[0]],
            Self::Eight => vec![HOSTS[1]; 8],
            Self::Sixteen => vec![HOSTS[2]; 16],
            Self::SixtyFour => vec![HOSTS[3]; 64],
            Self::Spread => HOSTS.iter().flat_map(|host| [*host; 8]).collect(),
        }
    }

    fn members(self) -> impl Iterator<Item = (String, &'static str)> {
        let name = move |(index, host)| (format!("{}-{index}", self.label()), host);
        self.places().into_iter().enumerate().map(name)
    }
}

/// The running hosts and their volumes.
pub struct Field {
    /// The hosts.
    pub stack: Stack,
    volumes: Vec<(Group, Volume)>,
}

impl Field {
    /// Builds it.
    pub async fn build(run: RunDir, rcu: Rcu, groups: &[Group]) -> Result<Self> {
        let count: usize = groups.iter().map(|group| group.places().len()).sum();
        let step = Step::begin(format!("{} hosts with {count} idle volumes", HOSTS.len()));
        let members = |group: Group| group.members().map(move |member| pod(group, member));
        let blueprint = Blueprint {
            hosts: HOSTS.map(String::from).to_vec(),
            pool_size: POOL,
            pods: groups.iter().copied().flat_map(members).collect(),
            rcu,
        };
        let stack = Stack::start(run, &blueprint).await?;
        let mut volumes = Vec::new();
        for &group in groups {
            for (name, host) in group.members() {
                volumes.push((group, stack.provision(&name, host, SIZE, FILESYSTEM).await?));
            }
        }
        step.done();
        Ok(Self { stack, volumes })
    }

    /// Volumes of a group.
    pub fn volumes(&self, group: Group) -> impl Iterator<Item = &Volume> {
        self.volumes.iter().filter(move |(of, _)| *of == group).map(|(_, volume)| volume)
    }

    /// The pool of a host.
    pub fn pool(&self, host: &str) -> Result<&Path> {
        let found = self.stack.hosts().iter().find(|candidate| candidate.name == host);
        Ok(&found.with_context(|| format!("no host {host}"))?.pool)
    }

    /// Ends everything; what needed force.
    pub fn close(self) -> Result<Leftovers> {
        self.stack.close()
    }
}

fn pod(group: Group, (name, host): (String, &str)) -> Pod {
    Pod {
        name: name.clone(),
        labels: BTreeMap::from([("group".into(), group.label().into())]),
        host: host.into(),
        containers: vec!["idle".into()],
        volumes: vec![name],
        exec: vec!["env".into()],
    }
}
