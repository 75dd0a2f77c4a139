//! Stillpoint: thin volumes with instant snapshots on plain local disks, and one consistent cut over many hosts.
//!
//! Read in this order: [`domain`] (what we talk about; pure), [`host`] (the kernel behind a trait), [`backend`]
//! (how a pool stores a volume), [`agent`] (one host), [`controller`] (many hosts), [`csi`] (what orchestrators
//! speak), [`cli`] (what people type).

pub mod agent;
pub mod args;
pub mod backend;
pub mod cli;
pub mod controller;
pub mod csi;
pub mod cutter;
pub mod domain;
pub mod host;
pub mod identity;
pub mod kube;
pub mod observe;
pub mod proto;
pub mod standalone;
pub mod text_file;
pub mod wire;
