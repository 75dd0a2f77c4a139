//! One filesystem: what is seen now, and what would be found after a power failure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::Crash;
use crate::domain::Bytes;

/// An errno.
pub(super) type Errno = i32;

const ROOT: u64 = 1;
/// Fewer nodes than this are not worth a look.
const COLLECT_AT: usize = 256;
/// Contents of images are kept per block.
pub(super) const BLOCK: u64 = 4096;
pub(super) const BLOCK_LENGTH: usize = 4096;

#[derive(Debug, Clone)]
pub(super) struct Disk {
    pub(super) kind: String,
    capacity: Bytes,
    ballast: u64,
    live: Nodes,
    /// What was synced, by inode. A name here may lead to a node that was never synced itself: that one is empty.
    durable: Nodes,
    next_inode: u64,
    next_block: u64,
    /// At least what all files take when shared blocks are counted each time; counted anew when it matters.
    at_most: u64,
    /// Deleted subvolumes whose space is not free yet.
    dying: Vec<u64>,
    /// The cleaner works on them.
    is_cleaning: bool,
    /// With so many nodes it is time to look for ones that nobody can reach any more.
    collect_at: usize,
}

type Nodes = BTreeMap<u64, Node>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Directory(Directory),
    File(Content),
    /// A block device node.
    Device(u64),
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Directory {
    pub(super) entries: BTreeMap<String, u64>,
    pub(super) subvolume: Option<Subvolume>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subvolume {
    Writable,
    ReadOnly,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Content {
    pub(super) size: u64,
    /// Of a small file: a record.
    pub(super) bytes: Arc<Vec<u8>>,
    /// Of an image: written blocks. Copies share them until they are overwritten.
    blocks: BTreeMap<u64, Block>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Block {
    content: u64,
    /// Of a block that was written byte by byte; else `content` stands for all of it.
    bytes: Option<Arc<[u8]>>,
    /// Identity of the physical block.
    id: u64,
}

impl Content {
    pub(super) fn of_bytes(bytes: &[u8]) -> Self {
        Self { size: bytes.len() as u64, bytes: Arc::new(bytes.to_vec()), blocks: BTreeMap::new() }
    }

    pub(super) fn sparse(size: u64) -> Self {
        Self { size, ..Self::default() }
    }

    pub(super) fn allocated(&self) -> u64 {
        self.blocks.len() as u64 * BLOCK + self.bytes.len() as u64
    }

    /// Blocks from this one on, with what identifies where they are.
    pub(super) fn addresses(&self, from: u64) -> impl Iterator<Item = (u64, u64)> {
        self.blocks.range(from..).map(|(block, found)| (*block, found.id * BLOCK))
    }

    /// Runs of blocks that lie beside each other.
    pub(super) fn extents(&self) -> u64 {
        let starts = self
            .blocks
            .keys()
            .filter(|block| block.checked_sub(1).is_none_or(|before| !self.blocks.contains_key(&before)));
        starts.count() as u64
    }
}

impl Node {
    pub(super) fn directory() -> Self {
        Self::Directory(Directory::default())
    }

    fn allocated(&self) -> u64 {
        match self {
            Self::File(content) => content.allocated(),
            Self::Directory(_) | Self::Device(_) => 0,
        }
    }

    /// The same kind of node, never synced.
    fn blank(&self) -> Self {
        match self {
            Self::Directory(directory) => {
                Self::Directory(Directory { entries: BTreeMap::new(), ..directory.clone() })
            }
            Self::File(_) => Self::File(Content::default()),
            Self::Device(device) => Self::Device(*device),
        }
    }
}

impl Disk {
    pub(super) fn new(kind: &str, capacity: Bytes) -> Self {
        let nodes = Nodes::from([(ROOT, Node::directory())]);
        Self {
            kind: kind.to_owned(),
            capacity,
            ballast: 0,
            durable: nodes.clone(),
            live: nodes,
            next_inode: ROOT + 1,
            next_block: 1,
            at_most: 0,
            dying: Vec::new(),
            is_cleaning: false,
            collect_at: COLLECT_AT,
        }
    }

    // ---- looking --------------------------------------------------------------------------------

    /// Inode of a path on this disk.
    pub(super) fn find(&self, path: &Path) -> Option<u64> {
        path.components().try_fold(ROOT, |inode, part| match part {
            Component::RootDir | Component::CurDir => Some(inode),
            Component::Normal(name) => match self.live.get(&inode)? {
                Node::Directory(directory) => directory.entries.get(name.to_str()?).copied(),
                Node::File(_) | Node::Device(_) => None,
            },
            Component::ParentDir | Component::Prefix(_) => None,
        })
    }

    pub(super) fn node(&self, path: &Path) -> Option<&Node> {
        self.live.get(&self.find(path)?)
    }

    pub(super) fn file(&self, path: &Path) -> Result<&Content, Errno> {
        match self.node(path) {
            Some(Node::File(content)) => Ok(content),
            Some(Node::Directory(_)) => Err(libc::EISDIR),
            Some(Node::Device(_)) => Err(libc::EINVAL),
            None => Err(libc::ENOENT),
        }
    }

    pub(super) fn directory(&self, path: &Path) -> Result<&Directory, Errno> {
        match self.node(path) {
            Some(Node::Directory(directory)) => Ok(directory),
            Some(Node::File(_) | Node::Device(_)) => Err(libc::ENOTDIR),
            None => Err(libc::ENOENT),
        }
    }

    pub(super) fn kind_of(&self, inode: u64) -> Option<&Node> {
        self.live.get(&inode)
    }

    /// Whether a path is inside a read-only subvolume (its own root excluded: that one may be renamed).
    pub(super) fn is_below_read_only(&self, path: &Path) -> bool {
        path.ancestors().skip(1).any(|above| self.is_read_only_subvolume(above))
    }

    pub(super) fn is_read_only_subvolume(&self, path: &Path) -> bool {
        self.directory(path).is_ok_and(|directory| directory.subvolume == Some(Subvolume::ReadOnly))
    }

    // ---- changing -------------------------------------------------------------------------------

    pub(super) fn insert(&mut self, path: &Path, node: Node) -> Result<u64, Errno> {
        let inode = self.next_inode;
        let name = name_of(path)?;
        let parent = self.parent_mut(path)?;
        if parent.entries.contains_key(&name) {
            return Err(libc::EEXIST);
        }
        parent.entries.insert(name, inode);
        self.next_inode += 1;
        self.at_most += node.allocated();
        self.live.insert(inode, node);
        Ok(inode)
    }

    /// Replaces or creates a file's content.
    pub(super) fn put_file(&mut self, path: &Path, content: Content) -> Result<u64, Errno> {
        self.check_room(content.bytes.len() as u64)?;
        match self.find(path) {
            Some(inode) => {
                self.file(path)?;
                self.at_most += content.allocated();
                self.live.insert(inode, Node::File(content));
                Ok(inode)
            }
            None => self.insert(path, Node::File(content)),
        }
    }

    /// Removes a name. The node stays for who has it open.
    pub(super) fn unlink(&mut self, path: &Path) -> Result<(), Errno> {
        let name = name_of(path)?;
        self.parent_mut(path)?.entries.remove(&name).map(drop).ok_or(libc::ENOENT)
    }

    /// As [`Disk::unlink`], of a subvolume: what it has stays in use until the cleaner has come to it.
    pub(super) fn delete_subvolume(&mut self, path: &Path) -> Result<(), Errno> {
        let inode = self.find(path).ok_or(libc::ENOENT)?;
        self.unlink(path)?;
        self.dying.push(inode);
        Ok(())
    }

    pub(super) fn wake_cleaner(&mut self) {
        self.is_cleaning = true;
    }

    /// The cleaner, if it is awake, frees one deleted subvolume; says how many were left before.
    pub(super) fn clean_one(&mut self) -> usize {
        let left = self.dying.len();
        if self.is_cleaning {
            self.dying.pop();
            self.is_cleaning = !self.dying.is_empty();
        }
        left
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> Result<(), Errno> {
        let inode = self.find(from).ok_or(libc::ENOENT)?;
        if from.parent() != to.parent() && self.is_read_only_subvolume(from) {
            return Err(libc::EROFS);
        }
        match (self.kind_of(inode), self.node(to)) {
            (_, None) | (Some(Node::File(_)), Some(Node::File(_))) => {}
            (Some(Node::Directory(_)), Some(Node::Directory(there))) if there.entries.is_empty() => {}
            (_, Some(Node::Directory(_))) => return Err(libc::ENOTEMPTY),
            (_, Some(Node::File(_) | Node::Device(_))) => return Err(libc::ENOTDIR),
        }
        let name = name_of(to)?;
        self.parent_mut(to)?.entries.insert(name, inode);
        self.unlink(from)
    }

    /// Copies a directory with everything in it, under new inodes that share their blocks. All of it is durable as
    /// soon as its name is: a btrfs snapshot is crash-atomic.
    pub(super) fn snapshot(&mut self, from: &Path, to: &Path, mode: Subvolume) -> Result<(), Errno> {
        let mut source = self.directory(from)?.clone();
        source.subvolume.ok_or(libc::EINVAL)?;
        source.subvolume = Some(mode);
        for inode in source.entries.values_mut() {
            let copy = self.live.get(inode).cloned().ok_or(libc::EIO)?;
            *inode = self.next_inode;
            self.next_inode += 1;
            self.at_most += copy.allocated();
            self.durable.insert(*inode, copy.clone());
            self.live.insert(*inode, copy);
        }
        let inode = self.insert(to, Node::Directory(source.clone()))?;
        self.durable.insert(inode, Node::Directory(source));
        Ok(())
    }

    /// What is beside this path already, if anything is: another snapshot of the same volume.
    pub(super) fn sibling(&self, path: &Path) -> Option<PathBuf> {
        let (parent, name) = (path.parent()?, path.file_name()?);
        let beside = self.directory(parent).ok()?.entries.keys().find(|one| name != one.as_str())?;
        Some(parent.join(beside))
    }

    /// The file of this name in a tree that is beside the tree of this one.
    pub(super) fn sibling_of_tree(&self, file: &Path) -> Option<PathBuf> {
        let beside = self.sibling(file.parent()?)?.join(file.file_name()?);
        self.find(&beside).map(|_| beside)
    }

    pub(super) fn write_block(&mut self, inode: u64, block: u64, content: u64) -> Result<(), Errno> {
        self.put_block(inode, block, content, None)
    }

    /// Writes a whole block as it is.
    pub(super) fn write_bytes(&mut self, inode: u64, block: u64, bytes: &[u8]) -> Result<(), Errno> {
        let first = bytes.first_chunk().map_or(0, |word| u64::from_be_bytes(*word));
        let is_uniform = bytes.chunks(8).all(|word| word == first.to_be_bytes());
        self.put_block(inode, block, first, (!is_uniform).then(|| bytes.into()))
    }

    /// A whole block as bytes; zeros where nothing was written.
    pub(super) fn read_bytes(&self, inode: u64, block: u64) -> Vec<u8> {
        let found = match self.live.get(&inode) {
            Some(Node::File(file)) => file.blocks.get(&block),
            _ => None,
        };
        match found {
            Some(Block { bytes: Some(bytes), .. }) => bytes.to_vec(),
            Some(block) => block.content.to_be_bytes().repeat(BLOCK_LENGTH / 8),
            None => vec![0; BLOCK_LENGTH],
        }
    }

    fn put_block(
        &mut self,
        inode: u64,
        block: u64,
        content: u64,
        bytes: Option<Arc<[u8]>>,
    ) -> Result<(), Errno> {
        let there = match self.live.get(&inode) {
            Some(Node::File(file)) if (block + 1) * BLOCK > file.size => return Err(libc::EIO),
            Some(Node::File(file)) => file.blocks.get(&block).map(|old| old.id),
            _ => return Err(libc::ENOENT),
        };
        if !self.has_plenty(BLOCK) && there.is_none_or(|id| self.is_shared(inode, block, id)) {
            self.check_room(BLOCK)?;
        }
        let id = self.next_block;
        self.next_block += 1;
        self.at_most += if there.is_none() { BLOCK } else { 0 };
        if let Some(Node::File(file)) = self.live.get_mut(&inode) {
            file.blocks.insert(block, Block { content, bytes, id });
        }
        Ok(())
    }

    pub(super) fn read_block(&self, inode: u64, block: u64) -> u64 {
        match self.live.get(&inode) {
            Some(Node::File(file)) => file.blocks.get(&block).map(|b| b.content).unwrap_or_default(),
            _ => 0,
        }
    }

    fn is_shared(&self, inode: u64, block: u64, id: u64) -> bool {
        self.live.iter().any(|(other, node)| {
            *other != inode
                && matches!(node, Node::File(file) if file.blocks.get(&block).is_some_and(|b| b.id == id))
        })
    }

    fn parent_mut(&mut self, path: &Path) -> Result<&mut Directory, Errno> {
        let parent = path.parent().and_then(|parent| self.find(parent)).ok_or(libc::ENOENT)?;
        match self.live.get_mut(&parent) {
            Some(Node::Directory(directory)) => Ok(directory),
            _ => Err(libc::ENOTDIR),
        }
    }

    // ---- space ----------------------------------------------------------------------------------

    pub(super) fn capacity(&self) -> Bytes {
        self.capacity
    }

    pub(super) fn grow(&mut self, capacity: Bytes) {
        self.capacity = self.capacity.max(capacity);
    }

    pub(super) fn free(&self) -> Bytes {
        self.capacity.saturating_sub(Bytes(self.used() + self.ballast))
    }

    pub(super) fn leave_free(&mut self, free: Bytes) {
        self.ballast = self.capacity.saturating_sub(Bytes(self.used() + free.0)).0;
    }

    /// Shared blocks counted each time: as long as that fits, counting properly is not needed.
    fn has_plenty(&self, more: u64) -> bool {
        self.at_most + self.ballast + more <= self.capacity.0
    }

    fn check_room(&mut self, more: u64) -> Result<(), Errno> {
        if self.has_plenty(more) {
            return Ok(());
        }
        self.at_most = self.live.values().map(Node::allocated).sum();
        if self.has_plenty(more) {
            return Ok(());
        }
        if self.free().0 < more { Err(libc::ENOSPC) } else { Ok(()) }
    }

    /// Where everything that takes space begins.
    fn in_use(&self) -> Vec<u64> {
        self.dying.iter().copied().chain([ROOT]).collect()
    }

    fn used(&self) -> u64 {
        let mut blocks = BTreeSet::new();
        let mut bytes = 0;
        for inode in reachable_from(&self.live, self.in_use()) {
            if let Some(Node::File(file)) = self.live.get(&inode) {
                blocks.extend(file.blocks.values().map(|block| block.id));
                bytes += file.bytes.len() as u64;
            }
        }
        blocks.len() as u64 * BLOCK + bytes
    }

    /// Forgets nodes without a name, now and after any power failure, that are not among these, which somebody uses.
    pub(super) fn collect(&mut self, used: impl IntoIterator<Item = u64>) {
        if self.live.len() + self.durable.len() < self.collect_at {
            return;
        }
        let mut kept = reachable_from(&self.live, self.in_use());
        kept.extend(reachable(&self.durable));
        kept.extend(used);
        self.live.retain(|inode, _| kept.contains(inode));
        self.durable.retain(|inode, _| kept.contains(inode));
        self.collect_at = COLLECT_AT.max(2 * (self.live.len() + self.durable.len()));
    }

    // ---- durability -----------------------------------------------------------------------------

    pub(super) fn sync_all(&mut self) {
        self.durable = self.live.clone();
    }

    /// fsync of one node. Names in a directory become durable, what they lead to does not.
    pub(super) fn sync(&mut self, inode: u64) {
        let Some(node) = self.live.get(&inode).cloned() else { return };
        if let Node::Directory(directory) = &node {
            for child in directory.entries.values() {
                if let Some(live) = self.live.get(child) {
                    self.durable.entry(*child).or_insert_with(|| live.blank());
                }
            }
        }
        self.durable.insert(inode, node);
    }

    pub(super) fn crash(&mut self, style: Crash) {
        self.live = match style {
            Crash::Nothing => self.live.clone(),
            Crash::OnlySynced => self.durable.clone(),
            Crash::NamesWithoutContents => self
                .live
                .iter()
                .map(|(inode, node)| match node {
                    Node::Directory(_) | Node::Device(_) => (*inode, node.clone()),
                    Node::File(_) => {
                        (*inode, self.durable.get(inode).cloned().unwrap_or_else(|| node.blank()))
                    }
                })
                .collect(),
        };
        // Device nodes are the kernel's, and it begins anew.
        let devices = |(inode, node): (&u64, &Node)| matches!(node, Node::Device(_)).then_some(*inode);
        let devices: BTreeSet<u64> = self.live.iter().filter_map(devices).collect();
        for node in self.live.values_mut() {
            if let Node::Directory(directory) = node {
                directory.entries.retain(|_, inode| !devices.contains(inode));
            }
        }
        (self.dying, self.is_cleaning) = (Vec::new(), false);
        let kept = reachable(&self.live);
        self.live.retain(|inode, _| kept.contains(inode));
        self.durable = self.live.clone();
        self.at_most = self.live.values().map(Node::allocated).sum();
    }
}

fn reachable(nodes: &Nodes) -> BTreeSet<u64> {
    reachable_from(nodes, vec![ROOT])
}

fn reachable_from(nodes: &Nodes, mut waiting: Vec<u64>) -> BTreeSet<u64> {
    let mut seen = BTreeSet::new();
    while let Some(inode) = waiting.pop() {
        if seen.insert(inode)
            && let Some(Node::Directory(directory)) = nodes.get(&inode)
        {
            waiting.extend(directory.entries.values());
        }
    }
    seen
}

fn name_of(path: &Path) -> Result<String, Errno> {
    path.file_name().and_then(|name| name.to_str()).map(str::to_owned).ok_or(libc::EINVAL)
}
