//! One host: its pools, the volumes in use on it, and its part of a round.
//!
//! [`config`] is what its file says, [`pool`] what is on disk, [`pools`] all of them together, [`creation`] makes one,
//! [`health`] what is wrong with them, [`recovery`] undoes what an earlier agent left, [`orphans`] what nobody owns, [`locks`] keeps operations on one volume apart,
//! [`mounts`] looks at the kernel and [`volumes`] changes what it sees, [`round`] cuts, [`blocks`] tells which blocks
//! changed, [`transfer`] copies volumes from host to host. [`local`] is what a controller may ask of it, `listing` its lists in
//! pieces, [`service`] the API in front of it, [`run`] the process around it.

pub mod blocks;
pub mod config;
pub mod creation;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod health;
mod listing;
pub mod local;
pub mod locks;
pub mod mounts;
pub mod moves;
pub mod orphans;
pub mod pool;
pub mod pools;
pub mod recovery;
pub mod round;
pub mod run;
pub mod service;
pub mod transfer;
pub mod volumes;
