//! Container images without a registry: a root filesystem is put together in a directory, packed as an OCI layout,
//! and imported into every node.

pub mod databases;
pub mod oci;
pub mod rootfs;
pub mod stock;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::launch::run;
use super::{Layout, Place, node, place};

pub use stock::PAUSE;

/// A packed image.
#[derive(Debug, Clone)]
pub struct Image {
    /// As pods name it, for example `stillpoint:dev`.
    pub name: String,
    /// The OCI layout.
    pub archive: PathBuf,
    /// Digest of its manifest.
    pub digest: String,
}

/// What a runtime makes of a name, by the rules of the distribution reference format: a first part with a dot or a
/// port is a registry, and a name without one gets the default.
pub fn full_name(name: &str) -> String {
    match name.split_once('/') {
        Some((registry, _)) if registry.contains(['.', ':']) => name.into(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    }
}

/// Imports an image into every node that does not have this very image yet; whether any got it now.
pub fn import(layout: &Layout, image: &Image) -> Result<bool> {
    let mut results = Vec::new();
    std::thread::scope(|scope| {
        let imports: Vec<_> =
            Place::nodes().map(|node| scope.spawn(move || import_into(layout, node, image))).collect();
        results.extend(imports.into_iter().map(std::thread::ScopedJoinHandle::join));
    });
    let mut any = false;
    for result in results {
        any |= result.map_err(|_| anyhow::anyhow!("importing {} broke down", image.name))??;
    }
    Ok(any)
}

fn import_into(layout: &Layout, node: Place, image: &Image) -> Result<bool> {
    let holder = place::holder(layout, node).with_context(|| format!("{node} is not up"))?;
    let known = run(node::ctr(layout, holder).args(["images", "list"]))?;
    if known.lines().any(|line| line.starts_with(&full_name(&image.name)) && line.contains(&image.digest)) {
        return Ok(false);
    }
    let mut import = node::ctr(layout, holder);
    run(import.args(["images", "import", "--local"]).arg(&image.archive))
        .with_context(|| format!("cannot import {} into {node}", image.name))?;
    let known = run(node::ctr(layout, holder).args(["images", "list", "-q"]))?;
    ensure!(
        known.lines().any(|line| line == full_name(&image.name)),
        "{node} imported {} and does not have it under that name; it has:\n{known}",
        image.name
    );
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::full_name;

    #[test]
    fn a_name_without_a_registry_gets_the_default_and_one_with_a_registry_stays() {
        assert_eq!(full_name("busybox:stillpoint"), "docker.io/library/busybox:stillpoint");
        assert_eq!(full_name("team/busybox:1"), "docker.io/team/busybox:1");
        for name in ["registry.k8s.io/e2e-test-images/busybox:1.37.0-1", "localhost:5000/busybox:1"] {
            assert_eq!(full_name(name), name);
        }
    }
}
