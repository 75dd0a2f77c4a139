//! Packs a directory as an image: one layer, no compression, the same bytes for the same content.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Image, full_name};
use crate::cluster::launch::run;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// How a container of the image starts.
#[derive(Debug, Clone, Default)]
pub struct Start {
    /// Program and leading arguments.
    pub entrypoint: Vec<String>,
    /// `NAME=value`.
    pub environment: Vec<String>,
    /// Numeric user and group; root when empty.
    pub user: String,
}

/// Packs `root` as `<into>/<name>.tar`; `:` in the name becomes `_`.
pub fn pack(name: &str, root: &Path, start: &Start, into: &Path) -> Result<Image> {
    let stem = name.replace([':', '/'], "_");
    let work = into.join(format!("{stem}.layout"));
    drop(fs::remove_dir_all(&work));
    let blobs = work.join("blobs/sha256");
    fs::create_dir_all(&blobs).with_context(|| format!("cannot make {}", blobs.display()))?;
    let layer = work.join("layer");
    tar(root, &layer).with_context(|| format!("cannot pack {}", root.display()))?;
    let (layer_digest, layer_size) = publish(&layer, &blobs)?;
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {"Entrypoint": start.entrypoint, "Env": start.environment, "User": start.user},
        "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
    });
    let (config_digest, config_size) = blob(&work, &blobs, &config)?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": config_digest, "size": config_size},
        "layers": [{"mediaType": LAYER, "digest": layer_digest, "size": layer_size}],
    });
    let (digest, size) = blob(&work, &blobs, &manifest)?;
    let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": MANIFEST,
            "digest": digest,
            "size": size,
            "annotations": {
                "io.containerd.image.name": full_name(name),
                "org.opencontainers.image.ref.name": tag,
            },
        }],
    });
    fs::write(work.join("index.json"), index.to_string())?;
    fs::write(work.join("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}).to_string())?;
    let archive = into.join(format!("{stem}.tar"));
    let partial = into.join(format!("{stem}.partial"));
    tar(&work, &partial)?;
    fs::rename(&partial, &archive)?;
    fs::remove_dir_all(&work)?;
    Ok(Image { name: name.into(), archive, digest })
}

/// Go's name of the machine.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn tar(root: &Path, archive: &Path) -> Result<()> {
    let mut command = Command::new("tar");
    command.args(["--sort=name", "--mtime=@0", "--numeric-owner", "--format=gnu", "-C"]).arg(root);
    run(command.arg("-cf").arg(archive).arg("."))?;
    Ok(())
}

fn blob(work: &Path, blobs: &Path, value: &Value) -> Result<(String, u64)> {
    let path = work.join("blob");
    fs::write(&path, value.to_string())?;
    publish(&path, blobs)
}

/// Moves a file to where its digest says; digest and size.
fn publish(file: &Path, blobs: &Path) -> Result<(String, u64)> {
    let line = run(Command::new("sha256sum").arg("--binary").arg(file))?;
    let hash = line.split(' ').next().context("sha256sum printed nothing")?.trim_start_matches('\\');
    let size = fs::metadata(file)?.len();
    fs::rename(file, blobs.join(hash))?;
    Ok((format!("sha256:{hash}"), size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_content_packs_to_the_same_digest_and_other_content_to_another() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("file"), "one").unwrap();
        let pack = || super::pack("thing:1", &root, &Start::default(), scratch.path()).unwrap();
        let first = pack();
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!(first.digest, pack().digest);
        fs::write(root.join("file"), "two").unwrap();
        assert_ne!(first.digest, pack().digest);
        let listed = run(Command::new("tar").arg("-tf").arg(&first.archive)).unwrap();
        assert!(listed.contains("./index.json") && listed.contains("./oci-layout"), "{listed}");
    }
}
