//! Who else takes a snapshot of the same volumes, in the same rounds.

use serde::Serialize;

/// Somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Rival {
    /// FIFREEZE, the btrfs snapshots and FITHAW by one process, a thread per volume: nothing can be faster.
    Kernel,
    /// The same over volumes whose images are in one subvolume per node.
    KernelTogether,
    /// fsfreeze of all volumes of all nodes at once, with expedited grace periods.
    Parallel,
    /// The same over volumes whose images are in one subvolume per node.
    ParallelTogether,
    /// One volume after another.
    Serial,
}

impl Rival {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Kernel, Self::KernelTogether, Self::Parallel, Self::ParallelTogether, Self::Serial];

    /// Head of its column.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Kernel => "kernel alone",
            Self::KernelTogether => "kernel alone, one subvolume per node",
            Self::Parallel => "parallel script",
            Self::ParallelTogether => "parallel script, one subvolume per node",
            Self::Serial => "serial script",
        }
    }

    /// Whether an administrator could write it with the usual tools.
    pub const fn is_script(self) -> bool {
        match self {
            Self::Parallel | Self::ParallelTogether | Self::Serial => true,
            Self::Kernel | Self::KernelTogether => false,
        }
    }
}
