//! Many hosts: [`fleet`] reaches their agents, [`placement`] decides where a volume goes and [`volumes`] makes it,
//! [`consumers`] says on which nodes the pods that wait for it can run. [`cuts`] takes consistent cuts over them (one [`round`] each, whose reports become [`lanes`] of a timeline on one
//! [`clock`]); [`blocks`] tells what changed between two of them, and
//! [`transfers`] copies a volume to another host, and [`moves`] moves it there. Lists of all hosts are one sorted list
//! ([`merge`]), given in pages ([`paging`]). [`process`] is what every controller process has around them.

pub mod blocks;
pub mod clock;
pub mod consumers;
pub mod cuts;
pub mod fleet;
pub mod lanes;
pub mod merge;
pub mod moves;
pub mod orders;
pub mod paging;
pub mod placement;
pub mod process;
pub mod round;
pub mod transfers;
pub mod volumes;

use crate::domain::{Fault, Incarnation};

/// One for a volume or an attempt that begins now.
fn incarnation() -> Result<Incarnation, Fault> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|error| Fault::internal(format!("no random numbers: {error}")))?;
    Ok(Incarnation(u32::from_be_bytes(bytes)))
}
