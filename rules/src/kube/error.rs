//! Failures of the API server in words.

use kube::client::UpgradeConnectionError;
use kube::error::Error;

/// Something the API server did not do.
#[derive(Debug, thiserror::Error)]
pub enum KubeError {
    /// The object does not exist.
    #[error("{0} does not exist")]
    NotFound(String),
    /// Somebody else changed it meanwhile.
    #[error("{0} was changed by somebody else meanwhile")]
    Conflict(String),
    /// Somebody has deleted it, and it waits for what is pending.
    #[error("{0} is being deleted")]
    Deleting(String),
    /// The controller may not.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// It refuses the object.
    #[error("the API server refuses {what}: {why}")]
    Refused {
        /// The object.
        what: String,
        /// The reason.
        why: String,
    },
    /// It does not answer, or not now.
    #[error("the API server could not be asked for {what}: {why}; it is tried again")]
    Unavailable {
        /// The object.
        what: String,
        /// The reason.
        why: String,
    },
}

/// The controller may not do something in a namespace; says the command that allows it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the controller may not {what} in namespace {namespace}; whoever administrates it allows that with \
     `kubectl stillpoint allow -n {namespace}{option}`"
)]
pub struct Forbidden {
    what: &'static str,
    namespace: String,
    option: &'static str,
}

impl Forbidden {
    /// Commands in pods, and requests to them.
    pub fn exec(namespace: &str) -> Self {
        Self { what: "run commands in pods", namespace: namespace.to_owned(), option: "" }
    }

    /// Secrets that rules name.
    pub fn secrets(namespace: &str) -> Self {
        Self { what: "read Secrets", namespace: namespace.to_owned(), option: " --secrets" }
    }
}

impl KubeError {
    /// What an error of the client means for an object.
    pub fn of(what: impl Into<String>, error: Error) -> Self {
        let what = what.into();
        match status_code(&error) {
            Some(404) => Self::NotFound(what),
            Some(409) => Self::Conflict(what),
            Some(403) => Self::Refused { what, why: format!("{error}; check the controller's ClusterRole") },
            Some(400 | 401 | 405 | 422) => Self::Refused { what, why: error.to_string() },
            Some(_) | None => Self::Unavailable { what, why: chain(&error) },
        }
    }

    /// Whether the same call may succeed a moment later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unavailable { .. } => true,
            Self::NotFound(_)
            | Self::Conflict(_)
            | Self::Deleting(_)
            | Self::Forbidden(_)
            | Self::Refused { .. } => false,
        }
    }
}

/// The HTTP code that the API server gave.
pub(super) fn status_code(error: &Error) -> Option<u16> {
    // Everything else never reached the server or was not understood.
    if let Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(code)) = error {
        return Some(code.as_u16());
    }
    if let Error::Api(status) = error { Some(status.code) } else { None }
}

/// An error with its causes: the client's own text often leaves out the interesting one.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    for text in std::iter::successors(Some(error), |error| (*error).source()).take(8).map(ToString::to_string)
    {
        if !texts.iter().any(|earlier| earlier.contains(&text)) {
            texts.push(text);
        }
    }
    texts.join(": ")
}
