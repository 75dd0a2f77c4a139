//! Requests to a pod.

use serde::{Deserialize, Serialize};

use super::env::{EnvEntry, SecretRef};

/// One request to a pod's own address: no redirect is followed, no proxy is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpCall {
    /// The method; GET when absent.
    #[serde(default, skip_serializing_if = "super::is_default")]
    pub method: Method,
    /// The port.
    #[cfg_attr(feature = "kube", schemars(range(min = 1, max = 65535)))]
    pub port: u16,
    /// Path and query; `/` when absent.
    #[cfg_attr(feature = "kube", schemars(length(max = 4096), regex(pattern = "^/")))]
    #[serde(default = "root", skip_serializing_if = "is_root")]
    pub path: String,
    /// The expected status; any of 200 to 299 when absent.
    #[cfg_attr(feature = "kube", schemars(range(min = 100, max = 599)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Headers.
    #[cfg_attr(feature = "kube", schemars(length(max = 64)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<EnvEntry>,
    /// Body.
    #[cfg_attr(feature = "kube", schemars(length(max = 65536)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Over TLS; the pod must show a certificate of this authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

/// Whose certificate is trusted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tls {
    /// Certificates of the authority, PEM.
    pub ca: SecretRef,
    /// The name that the certificate must carry; the pod's address when absent.
    #[cfg_attr(feature = "kube", schemars(length(min = 1, max = 253)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

/// What is asked of the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// GET.
    #[default]
    Get,
    /// HEAD.
    Head,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// PATCH.
    Patch,
    /// DELETE.
    Delete,
}

impl Method {
    /// As it is written in a request.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

impl HttpCall {
    /// Whether this status is the expected one.
    pub fn is_expected(&self, status: u16) -> bool {
        match self.status {
            Some(expected) => status == expected,
            None => (200..300).contains(&status),
        }
    }
}

fn root() -> String {
    "/".to_owned()
}

fn is_root(path: &String) -> bool {
    path == "/"
}
