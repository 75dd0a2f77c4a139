//! Secrets as files: `<directory>/<name>/<key>`, as Kubernetes mounts them.

use std::io::Read;
use std::path::PathBuf;

use async_trait::async_trait;

use crate::api::{SecretRef, is_dns_subdomain, is_secret_key, limits};
use crate::ports::{SecretError, Secrets};
use crate::redact::secret_text;

/// Secrets below a directory. A rule names them; it cannot name any other file.
#[derive(Debug, Clone)]
pub struct FileSecrets {
    directory: PathBuf,
}

impl FileSecrets {
    /// Below this directory.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    fn read_now(&self, secret: &SecretRef) -> Result<String, String> {
        // Checked when the rule was read; a path is worth a second look.
        if !is_dns_subdomain(&secret.name) || !is_secret_key(&secret.key) {
            return Err("that is no name of a secret; correct the rule".to_owned());
        }
        let path = self.directory.join(&secret.name).join(&secret.key);
        let file = std::fs::File::open(&path)
            .map_err(|error| format!("{}: {error}; make the file", path.display()))?;
        let mut text = Vec::new();
        let read = file.take(limits::SECRET_BYTES as u64 + 1).read_to_end(&mut text);
        read.map_err(|error| format!("{}: {error}", path.display()))?;
        secret_text(text)
    }
}

#[async_trait]
impl Secrets for FileSecrets {
    async fn read(&self, namespace: &str, secret: &SecretRef) -> Result<String, SecretError> {
        let (place, wanted) = (self.clone(), secret.clone());
        let task = tokio::task::spawn_blocking(move || place.read_now(&wanted));
        let read = task.await.unwrap_or_else(|error| Err(error.to_string()));
        read.map_err(|why| SecretError::of(namespace, secret, why))
    }
}
