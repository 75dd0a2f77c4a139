//! The guard: a dead-man switch for frozen filesystems.
//!
//! # Flow
//! 1. An agent that is about to freeze connects and sends [`wire::Request::Arm`] with a limit and one descriptor
//!    per member (an open directory of the mounted filesystem), and [`wire::Request::ArmLimits`] with the limits of
//!    raw devices (open files of cgroups).
//! 2. The guard checks that each is a volume image on a loop device, writes down what it is ([`Records`]), and
//!    answers `Armed`.
//! 3. The agent freezes, cuts, thaws, and sends `Disarm`; the guard answers whether it had fired.
//!
//! # Guarantees
//! * When the connection ends without `Disarm`, everything that was armed is thawed at once. A frozen filesystem
//!   has no owner: SIGKILL of the freezer leaves it frozen, so somebody else must hold the descriptors.
//! * When the limit passes, everything is thawed, and thawed again until the agent speaks: FIFREEZE cannot be
//!   interrupted, and one that returns late must not leave a filesystem frozen.
//! * Time is this process's own monotonic clock, counted from the arrival of `Arm`.
//! * An end of connection means that no FIFREEZE of that agent is still running: the kernel closes a process's
//!   descriptors only when its last thread has left the kernel.
//!
//! * What a guard that was killed had armed is let go by the next one before anything else: should agent and guard
//!   die together, whichever of them starts first does it.
//! * One guard serves a socket; a second one does not start.
//!
//! # Assumptions
//! One connection is one hold. The guard needs no network, no Kubernetes and no disk after its start: its memory
//! is locked, because a page fault on a frozen root would stop it.

pub mod client;
pub mod expedite;
pub mod fault;
mod records;
pub mod server;
pub mod thaw;
pub mod throttle;
pub mod wire;

pub use client::{Armed, GuardError, Outcome, Throttle};
pub use records::Records;
