//! Environment of commands, headers of requests, and where secrets are.

use serde::{Deserialize, Serialize};

/// A name with a value, or with the place of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(
    feature = "kube",
    derive(schemars::JsonSchema),
    schemars(extend("x-kubernetes-validations" = [{
        "rule": "has(self.value) != has(self.secret)",
        "message": "give one of `value` and `secret: {name, key}`"
    }]))
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnvEntry {
    /// Its name.
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 256)))]
    pub name: String,
    /// The value, which may contain `${params.name}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Where the value is; it is read when it is used, and shown nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretRef>,
}

/// One key of one Secret in the pod's namespace; standalone: the file `<secrets>/<name>/<key>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretRef {
    /// The Secret.
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 253)))]
    pub name: String,
    /// The key in it.
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 253)))]
    pub key: String,
}

/// A name that every shell takes for a variable.
pub fn is_variable(text: &str) -> bool {
    let mut bytes = text.bytes();
    let first = bytes.next().is_some_and(|c| c.is_ascii_alphabetic() || c == b'_');
    first && text.len() <= 256 && bytes.all(|c| c.is_ascii_alphanumeric() || c == b'_')
}

/// A key of a Secret as Kubernetes allows it; also a safe file name.
pub fn is_secret_key(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
        && text != "."
        && text != ".."
}
