//! Everything that a test with real hosts needs: a directory that cleans itself up, processes that cannot
//! outlive us, addresses on the loopback, and a whole Stillpoint of three hosts on one machine.

pub mod binaries;
pub mod csi;
pub mod leftovers;
pub mod net;
pub mod operator;
pub mod process;
pub mod progress;
pub mod rundir;
pub mod stack;

pub use process::{Process, Spec};
pub use progress::Step;
pub use rundir::RunDir;
pub use stack::{Blueprint, Pod, Stack};
