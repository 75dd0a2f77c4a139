//! Memory: for trying the API and for tests. It keeps nothing itself: it is a pool on [`FakeHost`]'s filesystem
//! in the process's memory, with directories as trees and the model's reflinks as copies. An agent with a memory
//! pool is therefore wired with `FakeHost` in place of the kernel, and everything is gone with the process.
//!
//! [`FakeHost`]: crate::host::fake::FakeHost

use std::path::Path;
use std::time::Duration;

use super::{Backend, BackendKind, copy_by_reflink, create_plain, remove_plain};
use crate::host::{Host, Result};

/// Trees as directories in memory.
#[derive(Debug, Clone, Copy)]
pub struct Memory;

impl Backend for Memory {
    fn kind(&self) -> BackendKind {
        BackendKind::Memory
    }

    fn create(&self, host: &dyn Host, tree: &Path) -> Result<()> {
        create_plain(host, tree)
    }

    fn copy(&self, host: &dyn Host, from: &Path, to: &Path, _read_only: bool) -> Result<()> {
        copy_by_reflink(host, from, to)
    }

    fn remove(&self, host: &dyn Host, tree: &Path) -> Result<()> {
        remove_plain(host, tree)
    }

    fn predict_copy(&self, _host: &dyn Host, _tree: &Path) -> Result<Duration> {
        Ok(Duration::from_micros(50))
    }
}
