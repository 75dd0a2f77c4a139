//! Opening a pool: read everything once, sweep away what crashes left.
//!
//! 1. Half-made names are removed; deleted trees are queued for the cleaner.
//! 2. Volumes and cut records are read into the index. What cannot be read is reported and left alone.
//! 3. Unsealed cuts whose home is this pool are void. Those with another home are reported: only that home knows.
//! 4. Snapshot trees that no record lists are garbage: a void or a delete was under way.
//!
//! One object that cannot be read or removed does not keep the pool from opening: it is reported, left alone, and whoever
//! asks for it is told so instead of "it does not exist".

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use jiff::Timestamp;

use super::index::Index;
use super::layout::{Layout, Name, PART_RECORD, VOLUME_RECORD, half_made, move_file};
use super::promises::Promises;
use super::reclaim::Reclaim;
use super::trash::Trash;
use super::{Access, Pool, PoolError, Result, making, records};
use crate::domain::record::{CutRecord, CutState, MoveRecord, MoveState, VolumeRecord};
use crate::domain::{CutId, CutKind, NameHash, PoolId, SnapshotId, VolumeId};
use crate::host::{FileKind, Host};

/// What opening a pool found.
#[derive(Debug, Default)]
pub struct SweepReport {
    /// Half-made things that were removed.
    pub removed: Vec<PathBuf>,
    /// Cuts that were voided, because their home is this pool and they were not sealed.
    pub voided: Vec<CutId>,
    /// Unsealed cuts whose home is another pool: seal or void them as the home says.
    pub undecided: Vec<CutId>,
    /// Objects that are not as they should be, left alone.
    pub broken: Vec<Broken>,
    /// Deleted trees that wait for the cleaner.
    pub trash: usize,
}

/// Something in a pool that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Where.
    pub path: PathBuf,
    /// Why.
    pub why: String,
}

/// See [`Pool::open`].
pub(super) fn open(host: Arc<dyn Host>, dir: &Path) -> Result<(Pool, SweepReport)> {
    let (layout, record, kind, access) = making::identify(&*host, dir)?;
    let mut survey = Survey::new(&*host, layout.clone(), access, &record.id);
    survey.moves()?;
    survey.volumes()?;
    survey.stale_moves();
    survey.cuts()?;
    survey.snapshots()?;
    let Survey { index, trash, next, mut report, mut half_made, parts, orphans, stale_moves, .. } = survey;

    let pool = Pool {
        host,
        backend: kind.backend(),
        layout,
        record,
        access,
        index: RwLock::new(index),
        claims: super::Claims::default(),
        trash: Trash::new(trash, next),
        promises: Promises::default(),
        reclaim: Reclaim::default(),
    };
    for part in parts {
        match pool.is_awaited(&part, Timestamp::now()) {
            Ok(true) => {
                if let Err(error) = pool.count_part(&part) {
                    report.resists(part, &error);
                }
            }
            Ok(false) => half_made.push((part, FileKind::Directory)),
            Err(error) => report.resists(part, &error),
        }
    }
    let report = match access {
        Access::Writable => {
            for id in stale_moves {
                if let Err(error) = pool.drop_move(&id) {
                    report.resists(pool.layout.moves().join(move_file(&id)), &error);
                }
            }
            pool.sweep(report, half_made, orphans)
        }
        Access::ReadOnly => report,
    };
    Ok((pool, report))
}

impl Pool {
    /// Steps 3 and 4, and the removal of what is half made.
    fn sweep(
        &self,
        mut report: SweepReport,
        half_made: Vec<(PathBuf, FileKind)>,
        orphans: Vec<PathBuf>,
    ) -> SweepReport {
        for (path, kind) in half_made {
            let removed = match kind {
                FileKind::Directory => self.backend.remove(&*self.host, &path),
                FileKind::File | FileKind::Block | FileKind::Other => self.host.remove_file(&path),
            };
            match removed {
                Ok(()) => report.removed.push(path),
                Err(error) => report.resists(path, &error),
            }
        }
        let unsealed: Vec<_> = self.cuts().into_iter().filter(|cut| cut.state == CutState::Round).collect();
        for cut in unsealed {
            if cut.id.home != *self.id() {
                report.undecided.push(cut.id.clone());
                continue;
            }
            match self.void_cut(&cut.id) {
                Ok(()) => report.voided.push(cut.id.clone()),
                Err(error) => report.resists(self.layout.cut(&cut.id), &error),
            }
        }
        for tree in orphans {
            match self.discard(&tree) {
                Ok(()) => report.removed.push(tree),
                Err(error) => report.resists(tree, &error),
            }
        }
        report.trash = self.trash_len();
        report
    }
}

impl SweepReport {
    /// Something could not be removed; the collector of orphans tries again.
    fn resists(&mut self, path: PathBuf, why: &dyn std::fmt::Display) {
        self.broken.push(Broken { path, why: format!("it could not be removed: {why}") });
    }
}

/// Reads a pool; changes nothing.
struct Survey<'a> {
    host: &'a dyn Host,
    layout: Layout,
    access: Access,
    pool: &'a PoolId,
    index: Index,
    half_made: Vec<(PathBuf, FileKind)>,
    /// Volumes that were arriving.
    parts: Vec<PathBuf>,
    trash: Vec<PathBuf>,
    next: u64,
    report: SweepReport,
    /// Volumes that a record says leave, or have gone, and that is not so.
    stale_moves: Vec<VolumeId>,
    /// Snapshot trees that no record lists.
    orphans: Vec<PathBuf>,
    /// Snapshots that a record lists.
    listed: BTreeSet<SnapshotId>,
    /// Cuts whose records cannot be read: their trees are left alone.
    unreadable: BTreeSet<(CutKind, NameHash)>,
}

impl<'a> Survey<'a> {
    fn new(host: &'a dyn Host, layout: Layout, access: Access, pool: &'a PoolId) -> Self {
        Self {
            host,
            layout,
            access,
            pool,
            index: Index::of(pool.clone()),
            half_made: Vec::new(),
            parts: Vec::new(),
            trash: Vec::new(),
            next: 0,
            report: SweepReport::default(),
            stale_moves: Vec::new(),
            orphans: Vec::new(),
            listed: BTreeSet::new(),
            unreadable: BTreeSet::new(),
        }
    }

    /// Names of objects in a directory; garbage is noted.
    fn objects(&mut self, directory: &Path) -> Result<Vec<String>> {
        let mut objects = Vec::new();
        for (name, kind) in self.host.list(directory)? {
            let path = directory.join(&name);
            match Name::of(&name) {
                Name::Object(_) => objects.push(name),
                Name::Part => self.parts.push(path),
                Name::HalfMade => self.half_made.push((path, kind)),
                Name::Gone(number) => {
                    self.next = self.next.max(number.saturating_add(1));
                    self.trash.push(path);
                }
            }
        }
        Ok(objects)
    }

    fn broken(&mut self, path: PathBuf, why: impl ToString) {
        self.report.broken.push(Broken { path, why: why.to_string() });
    }

    fn moves(&mut self) -> Result<()> {
        let directory = self.layout.moves();
        if self.host.stat(&directory)?.is_none() {
            return Ok(());
        }
        for name in self.objects(&directory)? {
            let path = directory.join(&name);
            match records::read::<MoveRecord>(self.host, &path) {
                Ok(Some(record)) if move_file(&record.volume.id) == name => self.index.put_move(record),
                other => {
                    let why =
                        other.map_or_else(|error| error.to_string(), |_| "it is of another volume".into());
                    // Whether the volume is still here is what nobody can tell now.
                    if let Some(Ok(volume)) = name.strip_suffix(".json").map(str::parse) {
                        self.index.put_unreadable(volume, path.clone(), why.clone());
                    }
                    self.broken(path, why);
                }
            }
        }
        Ok(())
    }

    /// A volume that was deleted while it was leaving, or that is here again.
    fn stale_moves(&mut self) {
        let is_stale = |record: &&MoveRecord| {
            let is_here = self.index.volume(&record.volume.id).is_some();
            match record.state {
                MoveState::Leaving => !is_here,
                MoveState::Left => false,
                MoveState::Gone => is_here,
            }
        };
        self.stale_moves =
            self.index.moves().filter(is_stale).map(|record| record.volume.id.clone()).collect();
    }

    fn volumes(&mut self) -> Result<()> {
        let directory = self.layout.volumes();
        for name in self.objects(&directory)? {
            let tree = directory.join(&name);
            let has_left = |id| self.index.a_move(&id).is_some_and(|record| record.state == MoveState::Left);
            let is_unreadable = |id| self.index.unreadable(&id).is_some();
            if name.parse().is_ok_and(|id: VolumeId| has_left(id.clone()) || is_unreadable(id)) {
                continue;
            }
            match read_volume(self.host, &tree, &name) {
                Ok(record) => self.index.put_volume(record),
                Err(error) => {
                    if let Ok(id) = name.parse() {
                        self.index.put_unreadable(id, tree.join(VOLUME_RECORD), error.to_string());
                    }
                    self.broken(tree, error);
                    continue;
                }
            }
            if self.access == Access::Writable {
                // An expansion, or the end of an arrival, that died half-way.
                for left in [half_made(VOLUME_RECORD), PART_RECORD.to_owned()] {
                    let path = tree.join(left);
                    if let Err(error) = self.host.remove_file(&path) {
                        self.report.resists(path, &error);
                    }
                }
            }
        }
        Ok(())
    }

    fn cuts(&mut self) -> Result<()> {
        let directory = self.layout.cuts();
        for name in self.objects(&directory)? {
            let path = directory.join(&name);
            let Some(Ok(id)) = name.strip_suffix(".json").map(str::parse::<CutId>) else {
                self.broken(path, "not the name of a cut's record");
                continue;
            };
            match records::read::<CutRecord>(self.host, &path) {
                Ok(Some(record)) if record.id == id => {
                    self.listed.extend(record.members.iter().map(|member| member.snapshot.clone()));
                    self.index.put_cut(&record);
                }
                Ok(other) => {
                    let why = if other.is_some() { "it is the record of another cut" } else { "it is gone" };
                    self.unreadable.insert((id.kind, id.hash));
                    self.broken(path, why);
                }
                Err(error) => {
                    self.unreadable.insert((id.kind, id.hash));
                    self.broken(path, error);
                }
            }
        }
        Ok(())
    }

    fn snapshots(&mut self) -> Result<()> {
        let mut present = BTreeSet::new();
        let directory = self.layout.snapshots();
        for name in self.objects(&directory)? {
            let path = directory.join(&name);
            let Ok(volume) = name.parse::<VolumeId>() else {
                self.broken(path, "not the snapshots of a volume");
                continue;
            };
            // What cannot be listed is not garbage either.
            if let Err(error) = self.snapshots_of(&volume, &path, &mut present) {
                self.broken(path, error);
            }
        }
        self.report_lost(&present);
        Ok(())
    }

    fn snapshots_of(
        &mut self,
        volume: &VolumeId,
        directory: &Path,
        present: &mut BTreeSet<SnapshotId>,
    ) -> Result<()> {
        let trash_before = self.trash.len();
        let names = self.objects(directory)?;
        if names.is_empty() && self.trash.len() == trash_before && self.index.volume(volume).is_none() {
            self.half_made.push((directory.to_owned(), FileKind::Directory));
        }
        for name in names {
            let tree = directory.join(&name);
            match name.parse::<SnapshotId>() {
                Ok(id) if self.listed.contains(&id) => drop(present.insert(id)),
                Ok(id) if self.unreadable.contains(&(id.kind, id.hash.clone())) => {
                    self.broken(tree, "the record of its cut cannot be read");
                }
                Ok(_) => self.orphans.push(tree),
                Err(error) => self.broken(tree, error),
            }
        }
        Ok(())
    }

    /// Sealed records whose trees are missing: somebody removed them behind our back.
    fn report_lost(&mut self, present: &BTreeSet<SnapshotId>) {
        let sealed = self.index.cuts().filter(|cut| cut.state == CutState::Sealed);
        let lost: Vec<_> = sealed
            .flat_map(|cut| &cut.members)
            .filter(|member| member.volume.pool == *self.pool && !present.contains(&member.snapshot))
            .map(|member| self.layout.snapshot(&member.snapshot))
            .collect();
        for tree in lost {
            self.broken(tree, "the snapshot's tree is missing, though its cut is sealed");
        }
    }
}

fn read_volume(host: &dyn Host, tree: &Path, name: &str) -> Result<VolumeRecord> {
    let path = tree.join(VOLUME_RECORD);
    let torn = |why: &str| PoolError::Torn { path: path.clone(), why: why.to_owned() };
    let id: VolumeId = name.parse().map_err(|_| torn("its directory is not named as a volume"))?;
    let record: VolumeRecord = records::read(host, &path)?.ok_or_else(|| torn("it is missing"))?;
    if record.id != id {
        return Err(torn("it is the record of another volume"));
    }
    match host.stat(&tree.join(crate::backend::IMAGE))? {
        Some(meta) if meta.kind == FileKind::File => Ok(record),
        _ => Err(torn("the image beside it is missing")),
    }
}
