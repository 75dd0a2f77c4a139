//! What happened when during a cut.
//!
//! Hosts report instants of their own monotonic clocks. The controller aligns them: of all its request/answer
//! pairs with a host it takes the one with the shortest round trip and assumes that the host's answer lies in
//! its middle; half of that round trip is the error bound, which is shown. All instants in a [`Timeline`] are
//! microseconds relative to the moment when the controller asked for the first hold.

use serde::{Deserialize, Serialize};

use super::{HostName, VolumeId};

/// A cut over all hosts. Instants and lengths in microseconds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Timeline {
    /// From the first hold requested to the last thaw done: nobody was held longer.
    pub window_us: u64,
    /// Between the first and the last member's cut, on aligned clocks.
    pub skew_us: u64,
    /// The longest time that any single member could not be written.
    pub longest_stall_us: u64,
    /// One lane per host.
    pub hosts: Vec<HostLane>,
}

/// One host's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostLane {
    /// The host.
    pub host: HostName,
    /// Instants of this host may be off by this much in either direction.
    pub clock_error_us: u64,
    /// One lane per member on this host.
    pub volumes: Vec<VolumeLane>,
}

/// One member's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeLane {
    /// The member.
    pub volume: VolumeId,
    /// Its name, for people.
    pub name: String,
    /// In the order in which they happened.
    pub spans: Vec<Span>,
}

/// One thing that was done to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// What.
    pub phase: Phase,
    /// Start, relative to the first hold; negative for what was prepared before.
    pub start_us: i64,
    /// End, relative to the first hold.
    pub end_us: i64,
}

/// What can be done to a member in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// `syncfs` before the hold, while writers go on.
    Flush,
    /// `FIFREEZE`: from the call to its success.
    Freeze,
    /// The snapshot.
    Cut,
    /// `FITHAW`.
    Thaw,
}
