//! Which container of a pod is worked with. The order of a pod's containers means nothing: injectors put theirs first.

use serde::{Deserialize, Serialize};

use crate::ports::Pod;

/// The annotation by which a pod names its main container, as kubectl reads it.
pub const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// Why a container was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kube", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ChosenBy {
    /// The rule names it.
    Rule,
    /// The pod's annotation names it.
    Annotation,
    /// The pod has no other ordinary container.
    #[default]
    Only,
}

impl ChosenBy {
    /// As plans show it.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Rule => "named by the rule",
            Self::Annotation => "named by the pod's annotation",
            Self::Only => "the only one",
        }
    }
}

/// Why no container can be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NotChosen {
    /// The rule names one that the pod does not have.
    Unknown(String),
    /// The annotation names one that the pod does not have.
    UnknownInAnnotation(String),
    /// There are several, or none, and nobody names one.
    NotNamed,
}

/// The container of `pod` that is meant: the one that the rule names; else the one that the pod's annotation names; else
/// the only ordinary one. Sidecars can be named, and are never meant otherwise.
pub(super) fn choose(wanted: Option<&str>, pod: &Pod) -> Result<(String, ChosenBy), NotChosen> {
    let containers = &pod.containers;
    let exists = |name: &str| containers.ordinary.iter().chain(&containers.sidecars).any(|one| one == name);
    match (wanted, containers.default.as_deref(), containers.ordinary.as_slice()) {
        (Some(name), ..) if exists(name) => Ok((name.to_owned(), ChosenBy::Rule)),
        (Some(name), ..) => Err(NotChosen::Unknown(name.to_owned())),
        (None, Some(name), _) if exists(name) => Ok((name.to_owned(), ChosenBy::Annotation)),
        (None, Some(name), _) => Err(NotChosen::UnknownInAnnotation(name.to_owned())),
        (None, None, [only]) => Ok((only.clone(), ChosenBy::Only)),
        (None, None, _) => Err(NotChosen::NotNamed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::pod;
    use crate::ports::Containers;

    fn with(ordinary: &[&str], sidecars: &[&str], default: Option<&str>) -> Pod {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let containers = Containers {
            ordinary: names(ordinary),
            sidecars: names(sidecars),
            default: default.map(str::to_owned),
        };
        Pod { containers, ..pod("db-0", "", &[]) }
    }

    #[test]
    fn the_order_of_containers_decides_nothing() {
        let injected = with(&["proxy", "db"], &[], Some("db"));
        assert_eq!(choose(None, &injected), Ok(("db".into(), ChosenBy::Annotation)));
        assert_eq!(
            choose(Some("proxy"), &injected),
            Ok(("proxy".into(), ChosenBy::Rule)),
            "the rule comes first"
        );
        assert_eq!(choose(None, &with(&["proxy", "db"], &[], None)), Err(NotChosen::NotNamed));
        assert_eq!(choose(None, &with(&["db"], &[], None)), Ok(("db".into(), ChosenBy::Only)));
        assert_eq!(choose(None, &with(&[], &["proxy"], None)), Err(NotChosen::NotNamed));
    }

    #[test]
    fn a_native_sidecar_can_be_named_and_is_never_meant_otherwise() {
        let pod = with(&["db"], &["proxy"], None);
        assert_eq!(choose(None, &pod), Ok(("db".into(), ChosenBy::Only)));
        assert_eq!(choose(Some("proxy"), &pod), Ok(("proxy".into(), ChosenBy::Rule)));
        let pod = with(&["db"], &["proxy"], Some("proxy"));
        assert_eq!(choose(None, &pod), Ok(("proxy".into(), ChosenBy::Annotation)));
    }

    #[test]
    fn a_name_that_does_not_exist_is_refused_whoever_gave_it() {
        assert_eq!(choose(Some("x"), &with(&["db"], &[], None)), Err(NotChosen::Unknown("x".into())));
        let pod = with(&["db"], &[], Some("x"));
        assert_eq!(choose(None, &pod), Err(NotChosen::UnknownInAnnotation("x".into())));
    }
}
