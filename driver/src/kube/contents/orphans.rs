//! Snapshots that nothing in the cluster knows, and contents whose snapshot does not exist. Nothing is ever deleted here:
//! each is counted, and shown with the command that adopts or deletes it.
//!
//! A snapshot loses its content when somebody deletes the content and its finalizer by hand, or a tool does; a content
//! loses its snapshot with the pool, or by a deletion behind Kubernetes' back. What agents collect by themselves
//! (`agent::orphans`: halves that no call finished) is something else.
//!
//! # Flow of a check
//! 1. All contents are listed, page by page; of each its handle is kept.
//! 2. The driver's snapshots are gone through, page by page. One node that does not answer ends the check without a
//!    result: nothing is concluded from silence.
//! 3. A snapshot that no content names, and a content whose handle was not among them and is not found when it is asked
//!    for by itself, are suspected.
//! 4. What is suspected by two checks in a row, and is older than the grace period, is an orphan.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::Client;
use stillpoint_rules::kube::{EventKind, Events, ObjectRef};

use super::commands::{delete_dangling, kind_of};
use super::{Content, each};
use crate::controller::paging::PageRequest;
use crate::csi::ports::Cutting;
use crate::domain::{CutHandle, CutKind, Fault, SnapshotId};
use crate::observe::metrics::orphans as metrics;

/// Snapshots in one page of the driver's list.
const PAGE: i32 = 1000;
/// Orphans of which each is shown; more are only counted.
const SHOWN: usize = 100;

/// A snapshot or group that no content names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unclaimed {
    /// Its id.
    pub cut: CutHandle,
    /// The name by which it was asked for.
    pub name: String,
    /// When it was taken.
    pub taken_at: Timestamp,
    /// Its snapshots.
    pub members: Vec<SnapshotId>,
}

/// A content whose snapshot does not exist.
pub type Dangling = Content;

/// What a check has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Snapshots without a content, by id.
    pub unclaimed: BTreeMap<String, Unclaimed>,
    /// Contents without a snapshot, by kind and name.
    pub dangling: BTreeMap<String, Dangling>,
}

impl Found {
    /// What an earlier check has found too.
    fn and(mut self, earlier: &Self) -> Self {
        self.unclaimed.retain(|id, _| earlier.unclaimed.contains_key(id));
        self.dangling
            .retain(|key, content| earlier.dangling.get(key).is_some_and(|before| before.uid == content.uid));
        self
    }
}

/// What the last check has left.
#[derive(Debug, Clone, Default)]
pub struct Checks {
    suspected: Found,
    orphans: Found,
}

/// Handles that contents name.
#[derive(Default)]
struct Named {
    groups: BTreeSet<String>,
    singles: BTreeSet<String>,
    contents: Vec<Content>,
}

impl fmt::Display for Unclaimed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.cut.cut.kind {
            CutKind::Single => "snapshot",
            CutKind::Group => "group snapshot",
        };
        write!(f, "{what} {} of {} ({} volumes)", self.cut, self.taken_at, self.members.len())
    }
}

/// Looks for orphans now and then.
pub struct Orphans {
    client: Client,
    cuts: Arc<dyn Cutting>,
    events: Events,
    /// Younger ones are left alone; also the pause between two checks.
    grace: Duration,
    /// Where adopted snapshots go.
    namespace: String,
}

impl Orphans {
    /// Over this cluster. `reporter` names this process in events; adopted snapshots would go to `namespace`.
    pub fn new(
        client: Client,
        cuts: Arc<dyn Cutting>,
        reporter: &str,
        grace: Duration,
        namespace: &str,
    ) -> Self {
        let events = Events::new(client.clone(), reporter);
        Self { client, cuts, events, grace, namespace: namespace.to_owned() }
    }

    /// Runs for ever.
    pub async fn run(&self) {
        let mut checks = Checks::default();
        loop {
            tokio::time::sleep(self.grace).await;
            if let Err(fault) = self.check_again(&mut checks, Timestamp::now()).await {
                tracing::info!(%fault, "orphans cannot be looked for now; the last figures stay");
            }
        }
    }

    /// A check after earlier ones: what they suspected too is counted, and shown where it is new.
    pub async fn check_again(&self, checks: &mut Checks, now: Timestamp) -> Result<(), Fault> {
        let found = self.check(now).await?;
        let orphans = found.clone().and(&checks.suspected);
        self.show(&orphans, &checks.orphans).await;
        metrics::found(orphans.unclaimed.len(), orphans.dangling.len());
        *checks = Checks { suspected: found, orphans };
        Ok(())
    }

    /// One check. What is younger than the grace period at `now` is not suspected.
    pub async fn check(&self, now: Timestamp) -> Result<Found, Fault> {
        let grace = SignedDuration::try_from(self.grace).unwrap_or(SignedDuration::MAX);
        let oldest = now.saturating_sub(grace).unwrap_or(Timestamp::MIN);
        let mut named = Named::default();
        for kind in [CutKind::Single, CutKind::Group] {
            let mut note = |object| {
                let Some(content) = Content::of(kind, &object) else { return };
                let Some(handle) = content.handle.clone() else { return };
                match kind {
                    CutKind::Single => named.singles.insert(handle),
                    CutKind::Group => named.groups.insert(handle),
                };
                named.contents.push(content);
            };
            each(&self.client, kind, &mut note).await?;
        }
        let (unclaimed, seen) = self.unclaimed(&named, oldest).await?;
        let mut found = Found { unclaimed, dangling: BTreeMap::new() };
        for content in named.contents {
            let handle = content.handle.clone().unwrap_or_default();
            let is_old = content.created_at.is_some_and(|at| at < oldest);
            if is_old
                && !content.is_going
                && !seen.contains(&handle)
                && !self.exists(content.kind, &handle).await?
            {
                found.dangling.insert(format!("{:?} {}", content.kind, content.name), content);
            }
        }
        Ok(found)
    }

    /// Snapshots that no content names, and which of the named handles were seen.
    async fn unclaimed(
        &self,
        named: &Named,
        oldest: Timestamp,
    ) -> Result<(BTreeMap<String, Unclaimed>, BTreeSet<String>), Fault> {
        let (mut unclaimed, mut seen) = (BTreeMap::<String, Unclaimed>::new(), BTreeSet::new());
        let mut token = String::new();
        loop {
            let page = self.cuts.snapshots(None, &PageRequest::new(PAGE, &token)?).await?;
            for entry in page.entries {
                let (id, cut) = (entry.id.to_string(), entry.cut.to_string());
                // A content may also name one member of a group: it is what a restored copy of a VolumeSnapshot has.
                if named.singles.contains(&id) {
                    seen.insert(id);
                }
                let is_named = match entry.kind() {
                    CutKind::Single => seen.contains(&entry.id.to_string()),
                    CutKind::Group => named.groups.contains(&cut),
                };
                if is_named {
                    seen.insert(cut);
                } else if entry.cut_at < oldest {
                    let orphan = unclaimed.entry(cut).or_insert_with(|| Unclaimed {
                        cut: entry.cut.clone(),
                        name: entry.cut_name.clone(),
                        taken_at: entry.cut_at,
                        members: vec![],
                    });
                    orphan.members.push(entry.id);
                }
            }
            if page.next.is_empty() {
                return Ok((unclaimed, seen));
            }
            token = page.next;
        }
    }

    /// Whether the driver has it; what is no id of ours does not exist.
    async fn exists(&self, kind: CutKind, handle: &str) -> Result<bool, Fault> {
        match kind {
            CutKind::Single => match handle.parse::<SnapshotId>() {
                Ok(id) => Ok(self.cuts.of_snapshot(&id).await?.is_some()),
                Err(_) => Ok(false),
            },
            CutKind::Group => match handle.parse::<CutHandle>() {
                Ok(id) => Ok(self.cuts.get(&id).await?.is_some()),
                Err(_) => Ok(false),
            },
        }
    }

    /// Shows what was not known before.
    async fn show(&self, orphans: &Found, known: &Found) {
        let new = orphans.unclaimed.iter().filter(|(id, _)| !known.unclaimed.contains_key(*id));
        for (_, orphan) in new.take(SHOWN) {
            tracing::warn!(
                adopt = orphan.adopt(&self.namespace),
                delete_when_adopted = orphan.delete(&self.namespace),
                "{orphan} uses space, and no VolumeSnapshotContent or VolumeGroupSnapshotContent names it"
            );
        }
        let new = orphans.dangling.iter().filter(|(key, _)| !known.dangling.contains_key(*key));
        for (_, content) in new.take(SHOWN) {
            let (kind, _) = kind_of(content);
            let command = delete_dangling(content, orphans.dangling.values());
            let handle = content.handle.as_deref().unwrap_or_default();
            let text = format!(
                "its snapshot {handle} does not exist, so nothing can be restored from it; delete it: {command}"
            );
            tracing::warn!(content = content.name, "{kind}: {text}");
            self.events.tell(&about(content), EventKind::Warning, "SnapshotMissing", &text).await;
        }
    }
}

/// Events about objects without a namespace are kept in `default`.
fn about(content: &Content) -> ObjectRef {
    let (group, kind) = match content.kind {
        CutKind::Single => ("snapshot.storage.k8s.io/v1", "VolumeSnapshotContent"),
        CutKind::Group => ("groupsnapshot.storage.k8s.io/v1", "VolumeGroupSnapshotContent"),
    };
    ObjectRef {
        api_version: group.into(),
        kind: kind.into(),
        namespace: "default".into(),
        name: content.name.clone(),
        uid: content.uid.clone(),
    }
}
