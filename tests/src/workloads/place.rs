//! Directories that belong to a server and to nobody else.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use anyhow::{Context, Result};

/// A user that only one server runs as: a number without an entry in the user database, so that no package has to make
/// one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner(u32);

impl Owner {
    /// User and group of this number.
    pub const fn new(id: u32) -> Self {
        Self(id)
    }

    /// As [`crate::harness::Spec::user`] wants it.
    pub fn name(self) -> String {
        self.0.to_string()
    }

    /// Makes a directory that only this user can look into.
    pub fn make(self, directory: &Path) -> Result<()> {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        chown(directory, Some(self.0), Some(self.0))?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
        Ok(())
    }
}
