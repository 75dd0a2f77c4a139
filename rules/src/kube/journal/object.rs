//! What a `Run` object says about itself: whose it is, whether it is open, and whether it is the one that was written.

use kube::Resource as _;

use super::super::events::ObjectRef;
use super::super::objects::{
    BACKUP_LABEL, CLEANUP_FINALIZER, GIVE_UP_ANNOTATION, OPEN_LABEL, Run, RunIdentity, RunSpec, SnapshotRef,
};
use super::RunOrder;

/// What is written into a label that says yes.
const YES: &str = "true";

/// Where an object comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A controller made and wrote it.
    Ours,
    /// It belongs to a snapshot, but no controller has put its mark into what it says.
    Unmarked,
    /// A copy: what it says was written to another object, or it belongs to nothing.
    Copy,
}

/// Name of a snapshot's run: readable, and never that of another snapshot.
pub fn run_object_name(owner: &ObjectRef) -> String {
    let hash = blake3::hash(owner.uid.as_bytes()).to_hex();
    let readable: String = owner.name.chars().take(200).collect();
    format!("{}-{}", readable.trim_end_matches(['.', '-']), &hash[..10])
}

/// `Run namespace/name`.
pub(super) fn title(object: &Run) -> String {
    let metadata = &object.metadata;
    let (namespace, name) = (metadata.namespace.as_deref(), metadata.name.as_deref());
    format!("Run {}/{}", namespace.unwrap_or_default(), name.unwrap_or_default())
}

/// A new object, open from its first moment on.
pub(super) fn made(order: &RunOrder) -> Run {
    let snapshot = SnapshotRef {
        kind: order.owner.kind.clone(),
        name: order.owner.name.clone(),
        uid: order.owner.uid.clone(),
    };
    let spec = RunSpec { snapshot, rule: order.rule.clone(), cut: order.cut.clone() };
    let mut object = Run::new(&run_object_name(&order.owner), spec);
    object.metadata.namespace = Some(order.owner.namespace.clone());
    object.metadata.owner_references = Some(vec![order.owner.owner()]);
    mark_open(&mut object);
    object
}

/// Whether it is the object of this order, as a controller has made it.
pub(super) fn is_of(object: &Run, order: &RunOrder) -> bool {
    let is_owner = owner(object).is_some_and(|owner| owner.uid == order.owner.uid);
    is_owner && object.spec.snapshot.uid == order.owner.uid && origin(object) == Origin::Ours
}

/// The snapshot that owns it.
pub(super) fn owner(object: &Run) -> Option<ObjectRef> {
    let owners = object.metadata.owner_references.iter().flatten();
    owners.into_iter().find(|owner| owner.controller == Some(true)).map(|owner| ObjectRef {
        api_version: owner.api_version.clone(),
        kind: owner.kind.clone(),
        namespace: object.metadata.namespace.clone().unwrap_or_default(),
        name: owner.name.clone(),
        uid: owner.uid.clone(),
    })
}

/// Itself, as what events are about.
pub(super) fn reference(object: &Run) -> ObjectRef {
    ObjectRef {
        api_version: Run::api_version(&()).into_owned(),
        kind: Run::kind(&()).into_owned(),
        namespace: object.metadata.namespace.clone().unwrap_or_default(),
        name: object.metadata.name.clone().unwrap_or_default(),
        uid: object.metadata.uid.clone().unwrap_or_default(),
    }
}

/// The mark that a controller puts into the status of an object.
pub(super) fn identity(object: &Run) -> RunIdentity {
    RunIdentity {
        uid: object.metadata.uid.clone().unwrap_or_default(),
        namespace: object.metadata.namespace.clone().unwrap_or_default(),
    }
}

/// Where it comes from. A copy has another uid than the object that was written, wherever it was copied to.
pub(super) fn origin(object: &Run) -> Origin {
    let mark = object.status.as_ref().and_then(|status| status.identity.as_ref());
    let says_something = object.status.as_ref().is_some_and(|status| !status.phase.is_empty());
    match (mark, owner(object)) {
        (Some(mark), _) if *mark == identity(object) => Origin::Ours,
        (Some(_), _) | (None, None) => Origin::Copy,
        (None, Some(_)) if says_something => Origin::Unmarked,
        (None, Some(_)) => Origin::Ours,
    }
}

/// Why people have given up its cleanup, where they have.
pub(super) fn given_up(object: &Run) -> Option<String> {
    object.metadata.annotations.as_ref()?.get(GIVE_UP_ANNOTATION).cloned()
}

/// Marks it as open and keeps it from vanishing; whether that changes anything. Backup tools leave it alone: what it says
/// is true of this object only.
pub(super) fn mark_open(object: &mut Run) -> bool {
    let metadata = &mut object.metadata;
    let labels = metadata.labels.get_or_insert_default();
    let mut changed = false;
    for label in [OPEN_LABEL, BACKUP_LABEL] {
        changed |= labels.insert(label.to_owned(), YES.to_owned()).as_deref() != Some(YES);
    }
    let finalizers = metadata.finalizers.get_or_insert_default();
    // The API server takes no new ones on an object that is being deleted.
    if metadata.deletion_timestamp.is_none() && !finalizers.iter().any(|known| known == CLEANUP_FINALIZER) {
        finalizers.push(CLEANUP_FINALIZER.to_owned());
        changed = true;
    }
    changed
}

/// The opposite.
pub(super) fn mark_ended(object: &mut Run) -> bool {
    let metadata = &mut object.metadata;
    let was_open = metadata.labels.as_mut().is_some_and(|labels| labels.remove(OPEN_LABEL).is_some());
    let finalizers = metadata.finalizers.get_or_insert_default();
    let count = finalizers.len();
    finalizers.retain(|known| known != CLEANUP_FINALIZER);
    was_open || finalizers.len() != count
}
