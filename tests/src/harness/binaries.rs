//! Where the product's binaries and our own files are.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// `target/<profile>`: the directory of the running binary, or its parent for a test in `deps/`.
pub fn profile_directory() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    let directory = own.parent().context("this program is in no directory")?;
    let is_deps = directory.file_name().is_some_and(|name| name == "deps");
    Ok(if is_deps { directory.parent().unwrap_or(directory) } else { directory }.to_path_buf())
}

/// Cargo's target directory.
pub fn target_directory() -> Result<PathBuf> {
    let profile = profile_directory()?;
    Ok(profile.parent().unwrap_or(&profile).to_path_buf())
}

/// Directory of this crate, for files that are part of the source.
pub fn source_directory() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A binary of this workspace: from the directory that `STILLPOINT_BINARIES` names if it has one, else beside this program.
pub fn binary(name: &str) -> Result<PathBuf> {
    let chosen = std::env::var_os("STILLPOINT_BINARIES").map(|directory| PathBuf::from(directory).join(name));
    let path = match chosen.filter(|path| path.is_file()) {
        Some(path) => path,
        None => profile_directory()?.join(name),
    };
    if !path.is_file() {
        bail!("{} is not built; run: cargo build --workspace --bins", path.display());
    }
    Ok(path)
}

/// Fails when a tool is missing, with the Debian package that has it.
pub fn require_tools(tools: &[(&str, &str)]) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> =
        std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).collect();
    let missing: Vec<&str> = tools
        .iter()
        .filter(|(tool, _)| !directories.iter().any(|directory| directory.join(tool).is_file()))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!("tools are missing; run: apt-get install -y {}", missing.join(" "))
}

/// `debug` or `release`, so that a measurement says what it measured.
pub fn profile() -> Result<String> {
    let directory = profile_directory()?;
    Ok(directory.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned()))
}
