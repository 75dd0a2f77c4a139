//! Why nothing can be planned.

/// Why nothing can be planned. Nothing was executed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No pod matches.
    #[error(
        "step `{step}`: no pod {wanted}; {looked_at} were looked at{hint}; correct the step or start the application"
    )]
    NoMatch {
        /// The step.
        step: String,
        /// What was asked for.
        wanted: String,
        /// How many pods there are.
        looked_at: String,
        /// What is there instead.
        hint: String,
    },
    /// Fewer pods than `min`.
    #[error(
        "step `{step}`: {found} of at least {min} pods match ({names}); an incomplete application would be cut; start the missing ones or lower `min`"
    )]
    TooFew {
        /// The step.
        step: String,
        /// How many match.
        found: usize,
        /// How many must.
        min: u32,
        /// Which match.
        names: String,
    },
    /// The container does not exist in a pod.
    #[error(
        "step `{step}`: pod {pod} has no container `{container}`; it has {existing}; correct `container`"
    )]
    NoContainer {
        /// The step.
        step: String,
        /// The pod.
        pod: String,
        /// The container.
        container: String,
        /// Those that exist.
        existing: String,
    },
    /// Several containers, and nobody says which.
    #[error(
        "step `{step}`: pod {pod} has the containers {existing}, and neither the rule nor the pod says which is meant; write `container:` into the step's `pods`, or give the pod the annotation kubectl.kubernetes.io/default-container"
    )]
    ContainerNotNamed {
        /// The step.
        step: String,
        /// The pod.
        pod: String,
        /// Those that exist.
        existing: String,
    },
    /// The pod's annotation names a container that does not exist.
    #[error(
        "step `{step}`: the annotation kubectl.kubernetes.io/default-container of pod {pod} names `{container}`, and it has {existing}; correct the annotation, or write `container:` into the step's `pods`"
    )]
    WrongAnnotation {
        /// The step.
        step: String,
        /// The pod.
        pod: String,
        /// What the annotation says.
        container: String,
        /// Those that exist.
        existing: String,
    },
    /// A pod counts but cannot be worked with.
    #[error(
        "step `{step}`: {pods}; the command could not run there; wait until it is ready, or exclude it by a label"
    )]
    NotReady {
        /// The step.
        step: String,
        /// Which, and why.
        pods: String,
    },
    /// Values that do not fit the rule's parameters.
    #[error(transparent)]
    Params(#[from] crate::api::params::ParamError),
    /// Nothing to cut.
    #[error(
        "no volume to cut; the selector's pods mount none and none was named; name volumes or correct the selector"
    )]
    NoVolumes,
    /// The answers to `where` do not give exactly one leader, or any pod at all.
    #[error(
        "step `{step}`: {yes} of {asked} pods answered yes to `where`, {wanted}; check the command or the application's state"
    )]
    Undecided {
        /// The step.
        step: String,
        /// How many said yes.
        yes: usize,
        /// How many were asked.
        asked: usize,
        /// How many were wanted.
        wanted: &'static str,
    },
}
