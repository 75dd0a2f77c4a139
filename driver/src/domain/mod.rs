//! What Stillpoint talks about, without any input or output: ids, sizes, records, levels, faults,
//! timelines and the two machines of a round. Nothing here knows gRPC, Kubernetes or the kernel.

pub mod blocks;
pub mod bytes;
pub mod fault;
pub mod filesystem;
pub mod health;
pub mod ids;
pub mod inventory;
pub mod level;
pub mod listing;
pub mod mount_options;
pub mod node;
pub mod record;
pub mod round;
pub mod timeline;
pub mod transfer;

pub use bytes::Bytes;
pub use fault::{Code, Fault};
pub use filesystem::Filesystem;
pub use ids::{CutHandle, CutId, CutKind, HostName, Incarnation, NameHash, PoolId, SnapshotId, VolumeId};
pub use inventory::{Departure, HostInfo, Move, Moved, NewVolume, PoolInfo, VolumeInfo, Waiting};
pub use level::Level;
