//! What is asked of the controller about volumes, free of CSI.

use super::consumers::ClaimRef;
use crate::backend::BackendKind;
use crate::domain::record::Source;
use crate::domain::{Bytes, Fault, Filesystem, HostName};

/// Size of a volume when nothing is asked for.
pub const DEFAULT_SIZE: Bytes = Bytes::gib(1);
/// Smallest raw volume; filesystems have minima of their own.
pub const SMALLEST_DEVICE: Bytes = Bytes::mib(1);
/// Largest volume: beyond any single local disk, and far below what image files and filesystems can hold, so that
/// a size that overflows somewhere is refused here.
pub const LARGEST: Bytes = Bytes(64 << 40);
/// Sizes are whole multiples of this: the largest sector of the disks and loop devices below.
pub const GRAIN: u64 = 4096;

/// A size between bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeRange {
    /// At least; zero where nothing is asked for.
    pub required: Bytes,
    /// At most.
    pub limit: Option<Bytes>,
}

/// Why no size fits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// The upper bound is below what is possible.
    #[error(
        "a volume of at most {limit} bytes is not possible: the smallest that fits is {smallest} bytes; raise limit_bytes"
    )]
    LimitTooSmall {
        /// Asked for.
        limit: u64,
        /// Possible.
        smallest: u64,
    },
    /// More than [`LARGEST`].
    #[error("a volume of {required} bytes is too large: the largest is {} ({} bytes)", LARGEST, LARGEST.0)]
    TooLarge {
        /// Asked for.
        required: u64,
    },
}

impl From<SizeError> for Fault {
    fn from(error: SizeError) -> Self {
        Self::out_of_range(error.to_string())
    }
}

impl SizeRange {
    /// No wish at all.
    pub const ANY: Self = Self { required: Bytes(0), limit: None };

    /// The size to make: what is required or else `otherwise`, at least `smallest`, whole [`GRAIN`]s, within the
    /// limit.
    pub fn choose(self, smallest: Bytes, otherwise: Bytes) -> Result<Bytes, SizeError> {
        let wanted = if self.required.0 == 0 { otherwise } else { self.required };
        if wanted > LARGEST || smallest > LARGEST {
            return Err(SizeError::TooLarge { required: wanted.max(smallest).0 });
        }
        let size = Bytes(wanted.max(smallest).0.next_multiple_of(GRAIN));
        let Some(limit) = self.limit.filter(|limit| *limit < size) else { return Ok(size) };
        let below = Bytes(limit.0 / GRAIN * GRAIN);
        if below >= smallest && below >= self.required && below.0 > 0 {
            Ok(below)
        } else {
            let least = self.required.max(smallest).0.next_multiple_of(GRAIN);
            Err(SizeError::LimitTooSmall { limit: limit.0, smallest: least })
        }
    }

    /// Whether a volume of this size is what was asked for.
    pub fn admits(self, size: Bytes) -> bool {
        size >= self.required && self.limit.is_none_or(|limit| size <= limit)
    }
}

/// Where a volume may be and where it should be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Places {
    /// One of these it must be; `None`: anywhere. `Some` and empty: the orchestrator named only places that can
    /// not be ours.
    pub requisite: Option<Vec<HostName>>,
    /// Best first.
    pub preferred: Vec<HostName>,
}

impl Places {
    /// Whether nothing at all was said.
    pub fn is_silent(&self) -> bool {
        self.requisite.is_none() && self.preferred.is_empty()
    }

    /// Whether a volume may be on this host.
    pub fn allow(&self, host: &HostName) -> bool {
        self.requisite.as_ref().is_none_or(|hosts| hosts.contains(host))
    }
}

/// What a volume is used as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A filesystem; `None`: the source's, else the default one.
    Filesystem(Option<Filesystem>),
    /// A raw device.
    Device,
}

/// A volume to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeOrder {
    /// The orchestrator's name: the volume's identity.
    pub name: String,
    /// How large.
    pub size: SizeRange,
    /// What it is used as.
    pub content: Content,
    /// Backend that was asked for.
    pub backend: Option<BackendKind>,
    /// What it is filled with.
    pub source: Option<Source>,
    /// Where.
    pub places: Places,
    /// Where a copy goes first.
    pub copies: Copies,
    /// The claim that it is for, where the orchestrator says so.
    pub claim: Option<ClaimRef>,
}

/// Where the copy of a snapshot or volume goes first, among the places that are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Copies {
    /// To its source's pool where the pods that wait for it can surely run there ([`super::consumers`]), else to the
    /// place that the request prefers.
    #[default]
    Auto,
    /// To its source's pool, at once and sharing its blocks; elsewhere only where that is not allowed or full.
    BesideSource,
    /// To the places that the request prefers, by copying all data: so that copies of sources on several hosts can be
    /// used in one place.
    WherePreferred,
}

/// A question for free space.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CapacityQuery {
    /// Only pools of this backend.
    pub backend: Option<BackendKind>,
    /// Only this place.
    pub place: Place,
}

/// One place in a question.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Place {
    /// All hosts.
    #[default]
    Anywhere,
    /// One host.
    On(HostName),
    /// A place that cannot be ours.
    Nowhere,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(required: u64, limit: u64) -> SizeRange {
        SizeRange { required: Bytes(required), limit: (limit > 0).then_some(Bytes(limit)) }
    }

    #[test]
    fn an_exact_size_is_given_exactly() {
        let exact = Bytes::gib(1).0;
        assert_eq!(range(exact, exact).choose(Bytes::mib(300), DEFAULT_SIZE), Ok(Bytes(exact)));
    }

    #[test]
    fn without_a_wish_the_default_is_made_and_a_limit_lowers_it() {
        assert_eq!(SizeRange::ANY.choose(Bytes::mib(300), DEFAULT_SIZE), Ok(DEFAULT_SIZE));
        let half = Bytes::mib(512).0;
        assert_eq!(range(0, half + 1).choose(Bytes::mib(300), DEFAULT_SIZE), Ok(Bytes(half)));
    }

    #[test]
    fn a_small_wish_grows_to_what_the_filesystem_needs_unless_a_limit_forbids() {
        assert_eq!(range(1, 0).choose(Bytes::mib(300), DEFAULT_SIZE), Ok(Bytes::mib(300)));
        let refused = range(1, Bytes::mib(100).0).choose(Bytes::mib(300), DEFAULT_SIZE);
        assert_eq!(
            refused,
            Err(SizeError::LimitTooSmall { limit: Bytes::mib(100).0, smallest: Bytes::mib(300).0 })
        );
    }

    #[test]
    fn a_size_that_no_disk_has_is_refused() {
        for required in [LARGEST.0 + 1, u64::MAX >> 1, u64::MAX] {
            let refused = range(required, 0).choose(SMALLEST_DEVICE, DEFAULT_SIZE);
            assert_eq!(refused, Err(SizeError::TooLarge { required }));
        }
    }

    proptest! {
        #[test]
        fn a_chosen_size_is_whole_and_within_the_bounds(
            required in 0..LARGEST.0, room in 0_u64..(1 << 40), limited: bool, smallest in 1_u64..(1 << 33),
        ) {
            let asked = range(required, if limited { required + room } else { 0 });
            if let Ok(size) = asked.choose(Bytes(smallest), DEFAULT_SIZE) {
                prop_assert_eq!(size.0 % GRAIN, 0);
                prop_assert!(asked.admits(size) && size.0 >= smallest);
            } else {
                let least = required.max(smallest).next_multiple_of(GRAIN);
                prop_assert!(limited && required + room < least.max(DEFAULT_SIZE.0), "refused for no reason");
            }
        }
    }
}
