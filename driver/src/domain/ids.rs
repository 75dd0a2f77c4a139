//! Identities. Ids hold the hash of the name that the orchestrator gave, so a retry finds what the first try made, and
//! an incarnation, so that an object that is made again under its name is never taken for the one that was deleted. Every
//! id says which pool it lives on, so routing needs no lookup.
//!
//! ```text
//! pool      3f9a0c11d2e4
//! volume    3f9a0c11d2e4-v<32 hex>-<8 hex>                     hash of the CSI volume name, the volume's birth
//! snapshot  3f9a0c11d2e4-v<32 hex>-<8 hex>-s<32 hex>-<8 hex>   its volume; s: taken alone, g: in a group; the attempt
//! cut       3f9a0c11d2e4-s<32 hex>                             pool = home pool; s: single snapshot, g: group
//! handle    3f9a0c11d2e4-s<32 hex>-<8 hex>                     a cut as its users know it: with the attempt that took it
//! ```
//! A pool has one volume, and one cut of each kind, of a name at a time. So [`CutId`], by which attempts at a cut find each
//! other, has no incarnation; what is given to users and stored by them has one.
//!
//! All ids are lower-case hex, digits, `-` and the letters above: safe as file names, below 128 bytes (CSI limit).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Hex digits in a pool id (48 random bits).
const POOL_HEX: usize = 12;
/// Hex digits in a name hash (128 bits of BLAKE3).
const HASH_HEX: usize = 32;
/// Hex digits of an incarnation.
const INCARNATION_HEX: usize = 8;

/// A text that is not an id of the kind that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {kind} id; a {kind} id looks like {example}")]
pub struct NotAnId {
    kind: &'static str,
    /// At most 64 characters of what was given.
    text: String,
    example: &'static str,
}

impl NotAnId {
    fn new(kind: &'static str, text: &str, example: &'static str) -> Self {
        Self { kind, text: text.chars().take(64).collect(), example }
    }
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Id of a pool: 12 hex digits, made at random when the pool is created and stored in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PoolId(String);

impl PoolId {
    /// The id of these six random bytes.
    pub fn from_random(bytes: [u8; 6]) -> Self {
        Self(bytes.iter().fold(String::new(), |text, b| text + &format!("{b:02x}")))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PoolId {
    type Err = NotAnId;
    fn from_str(text: &str) -> Result<Self, NotAnId> {
        if is_hex(text, POOL_HEX) {
            Ok(Self(text.into()))
        } else {
            Err(NotAnId::new("pool", text, "3f9a0c11d2e4"))
        }
    }
}

/// Tells objects of one name apart: 32 random bits, written as 8 hex digits. A volume keeps the one that it was born with,
/// also when it moves; the snapshots of a cut have that of the attempt that took them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Incarnation(pub u32);

impl FromStr for Incarnation {
    type Err = NotAnId;
    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let number = u32::from_str_radix(text, 16).ok().filter(|_| is_hex(text, INCARNATION_HEX));
        number.map(Self).ok_or_else(|| NotAnId::new("incarnation", text, "8 hex digits"))
    }
}

/// 128-bit hash of a name that the orchestrator gave, as 32 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NameHash(String);

impl NameHash {
    /// Hash of a name. The same name always gives the same hash.
    pub fn of(name: &str) -> Self {
        Self(blake3::hash(name.as_bytes()).to_hex().chars().take(HASH_HEX).collect())
    }

    /// No hash is lower: where ranges of ids begin.
    pub fn lowest() -> Self {
        Self("0".repeat(HASH_HEX))
    }

    /// The hash as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NameHash {
    type Err = NotAnId;
    fn from_str(text: &str) -> Result<Self, NotAnId> {
        if is_hex(text, HASH_HEX) {
            Ok(Self(text.into()))
        } else {
            Err(NotAnId::new("name hash", text, "32 hex digits"))
        }
    }
}

/// Id of a volume: the pool it lives on, the hash of its CSI name, and which volume of that name it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VolumeId {
    /// The pool that holds the volume.
    pub pool: PoolId,
    /// Hash of the volume's CSI name.
    pub hash: NameHash,
    /// Other volumes of that name, before and after it, have another one.
    pub birth: Incarnation,
}

impl VolumeId {
    /// Id of the volume called `name` that is born on `pool`.
    pub fn new(pool: PoolId, name: &str, birth: Incarnation) -> Self {
        Self { pool, hash: NameHash::of(name), birth }
    }
}

impl FromStr for VolumeId {
    type Err = NotAnId;
    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let parse = || {
            let (pool, rest) = text.split_once("-v")?;
            let (hash, birth) = rest.split_once('-')?;
            Some(Self { pool: pool.parse().ok()?, hash: hash.parse().ok()?, birth: birth.parse().ok()? })
        };
        parse().ok_or_else(|| NotAnId::new("volume", text, "3f9a0c11d2e4-v<32 hex digits>-<8 hex digits>"))
    }
}

/// How a cut was asked for: one snapshot by itself, or a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CutKind {
    /// One volume, asked for by `CreateSnapshot`.
    Single,
    /// Any number of volumes, asked for by `CreateVolumeGroupSnapshot` or by the operator.
    Group,
}

impl CutKind {
    fn letter(self) -> char {
        match self {
            Self::Single => 's',
            Self::Group => 'g',
        }
    }

    /// Splits `<left>-s<hash>` or `<left>-g<hash>`.
    fn split(text: &str) -> Option<(&str, Self, NameHash)> {
        let (left, tail) = text.rsplit_once('-')?;
        let kind = match tail.get(..1)? {
            "s" => Self::Single,
            "g" => Self::Group,
            _ => return None,
        };
        Some((left, kind, tail.get(1..)?.parse().ok()?))
    }
}

/// Id of one snapshot: its volume, the cut it belongs to (by name hash), and the attempt that took it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotId {
    /// The volume that was cut.
    pub volume: VolumeId,
    /// Whether it was cut alone or in a group.
    pub kind: CutKind,
    /// Hash of the name of the cut.
    pub hash: NameHash,
    /// The attempt at the cut that took it.
    pub attempt: Incarnation,
}

impl SnapshotId {
    /// The member of `cut` that this attempt takes of `volume`.
    pub fn of(volume: &VolumeId, cut: &CutId, attempt: Incarnation) -> Self {
        Self { volume: volume.clone(), kind: cut.kind, hash: cut.hash.clone(), attempt }
    }
}

impl FromStr for SnapshotId {
    type Err = NotAnId;
    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let parse = || {
            let (cut, attempt) = text.rsplit_once('-')?;
            let (volume, kind, hash) = CutKind::split(cut)?;
            Some(Self { volume: volume.parse().ok()?, kind, hash, attempt: attempt.parse().ok()? })
        };
        let example = "3f9a0c11d2e4-v<32 hex digits>-<8 hex digits>-s<32 hex digits>-<8 hex digits>";
        parse().ok_or_else(|| NotAnId::new("snapshot", text, example))
    }
}

/// Id of a cut: its home pool (the member pool with the lowest id) and the hash of its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CutId {
    /// The pool whose sealed record makes the cut exist.
    pub home: PoolId,
    /// Whether one snapshot or a group was asked for.
    pub kind: CutKind,
    /// Hash of the name of the cut.
    pub hash: NameHash,
}

impl CutId {
    /// Id of the cut called `name` over `members`; `None` when there is no member.
    pub fn new<'a>(
        kind: CutKind,
        name: &str,
        members: impl IntoIterator<Item = &'a VolumeId>,
    ) -> Option<Self> {
        let home = members.into_iter().map(|volume| &volume.pool).min()?.clone();
        Some(Self { home, kind, hash: NameHash::of(name) })
    }
}

impl FromStr for CutId {
    type Err = NotAnId;
    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let parse = || {
            let (home, kind, hash) = CutKind::split(text)?;
            Some(Self { home: home.parse().ok()?, kind, hash })
        };
        parse().ok_or_else(|| NotAnId::new("cut", text, "3f9a0c11d2e4-g<32 hex digits>"))
    }
}

/// A cut as its users know it: whoever keeps this never means one that was taken later under the same name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CutHandle {
    /// The cut.
    pub cut: CutId,
    /// The attempt that took it.
    pub attempt: Incarnation,
}

impl FromStr for CutHandle {
    type Err = NotAnId;
    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let parse = || {
            let (cut, attempt) = text.rsplit_once('-')?;
            Some(Self { cut: cut.parse().ok()?, attempt: attempt.parse().ok()? })
        };
        parse().ok_or_else(|| NotAnId::new("cut", text, "3f9a0c11d2e4-g<32 hex digits>-<8 hex digits>"))
    }
}

/// Longest name of a host: it is a topology value, which Kubernetes keeps as a label.
pub const HOST_NAME_MAX: usize = 63;

/// Name of a host, as the orchestrator calls the node: 1 to 63 characters, letters, digits, `.` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

impl HostName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = NotAnId;
    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let bytes = text.as_bytes();
        if bytes.len() <= HOST_NAME_MAX
            && edge(bytes.first().copied())
            && edge(bytes.last().copied())
            && text.bytes().all(allowed)
        {
            Ok(Self(text.into()))
        } else {
            Err(NotAnId::new("host", text, "node-1 (lower case, 63 characters at most)"))
        }
    }
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for NameHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-v{}-{}", self.pool, self.hash, self.birth)
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}{}-{}", self.volume, self.kind.letter(), self.hash, self.attempt)
    }
}

impl fmt::Display for CutId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}{}", self.home, self.kind.letter(), self.hash)
    }
}

impl fmt::Display for CutHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.cut, self.attempt)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Serde goes through text, so that a record with a broken id is refused when it is read.
macro_rules! through_text {
    ($($id:ty),*) => {$(
        impl TryFrom<String> for $id {
            type Error = NotAnId;
            fn try_from(text: String) -> Result<Self, NotAnId> { text.parse() }
        }
        impl From<$id> for String {
            fn from(id: $id) -> String { id.to_string() }
        }
    )*};
}
through_text!(PoolId, NameHash, Incarnation, VolumeId, SnapshotId, CutId, CutHandle, HostName);

#[cfg(test)]
mod tests;
