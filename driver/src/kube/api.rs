//! Failures of the API server in words.

use crate::domain::Fault;

/// `what` failed. A refusal is told with its fix; everything else may go away by itself.
pub fn api_fault(what: &str, error: &::kube::Error) -> Fault {
    #[allow(clippy::wildcard_enum_match_arm)] // not our enum, and growing
    match error {
        ::kube::Error::Api(status) if status.is_forbidden() => Fault::precondition(format!(
            "{what}: the API server refuses it ({}); apply deploy/kustomize again, which binds the roles",
            status.message
        )),
        other => Fault::unavailable(format!("{what}: {other}")),
    }
}

/// Whether the object does not exist.
pub fn is_absent(error: &::kube::Error) -> bool {
    matches!(error, ::kube::Error::Api(status) if status.is_not_found())
}

/// Whether somebody else was faster.
pub fn is_conflict(error: &::kube::Error) -> bool {
    matches!(error, ::kube::Error::Api(status) if status.is_conflict() || status.is_already_exists())
}
