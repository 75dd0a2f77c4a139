//! Everything that a test with real hosts needs: a directory that cleans itself up, processes that cannot
//! outlive us, addresses on the loopback, and a whole Stillpoint of three hosts on one machine.

pub mod bench;
pub mod binaries;
pub mod blkcg;
pub mod csi;
pub mod go;
pub mod hosts;
pub mod leftovers;
pub mod net;
pub mod operator;
pub mod process;
pub mod progress;
pub mod rundir;
pub mod site;
pub mod skips;
pub mod stack;

pub use process::{Process, Spec};
pub use progress::Step;
pub use rundir::RunDir;
pub use skips::{Lack, skip};
pub use stack::{Blueprint, Pod, Stack};
