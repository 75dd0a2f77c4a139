//! Objects of the controller that a backup tool restores say what was true of another installation: nodes and pools
//! that do not exist here, and a certificate authority whose key is in the backup. So each object carries the identity of
//! the namespace in which it was made, and counts in that one only. A namespace that is deleted and restored is another
//! one.
//!
//! The objects are also labelled so that Velero leaves them out.

use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, ObjectMeta};
use serde_json::{Value, json};
use stillpoint_rules::kube::objects::BACKUP_LABEL;

use super::api::api_fault;
use crate::domain::Fault;

/// The annotation with the UID of the namespace.
pub const MADE_IN: &str = "stillpoint.dev/made-in-namespace-uid";

/// The namespace that the objects of this controller are in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// Its name.
    pub namespace: String,
    /// Its identity.
    pub uid: String,
}

/// Whether an object says where it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Here.
    Own,
    /// It says nothing: an earlier version made it.
    Absent,
}

impl Installation {
    /// Asks the API server for the identity of this namespace.
    pub async fn read(client: &kube::Client, namespace: &str) -> Result<Self, Fault> {
        let found = Api::<Namespace>::all(client.clone()).get(namespace).await;
        let found =
            found.map_err(|error| api_fault(&format!("cannot read Namespace {namespace}"), &error))?;
        let uid = found
            .metadata
            .uid
            .ok_or_else(|| Fault::internal(format!("Namespace {namespace} has no identity")))?;
        Ok(Self { namespace: namespace.to_owned(), uid })
    }

    /// Metadata of an object that is made here.
    pub fn metadata(&self, name: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some([(BACKUP_LABEL.to_owned(), "true".to_owned())].into()),
            annotations: Some([(MADE_IN.to_owned(), self.uid.clone())].into()),
            ..ObjectMeta::default()
        }
    }

    /// What a patch adds to the metadata of an object of ours.
    pub fn patch(&self) -> Value {
        json!({ "labels": { BACKUP_LABEL: "true" }, "annotations": { MADE_IN: self.uid } })
    }

    /// Puts the mark on an object that is written anew.
    pub fn mark(&self, metadata: &mut ObjectMeta) {
        metadata.labels.get_or_insert_default().insert(BACKUP_LABEL.to_owned(), "true".to_owned());
        metadata.annotations.get_or_insert_default().insert(MADE_IN.to_owned(), self.uid.clone());
    }

    /// Refuses an object that was made elsewhere. `kind` and `name` are those of the object, `then` says what happens when
    /// it is deleted.
    pub fn check(&self, kind: &str, name: &str, metadata: &ObjectMeta, then: &str) -> Result<Mark, Fault> {
        let made_in = metadata.annotations.as_ref().and_then(|all| all.get(MADE_IN));
        match made_in {
            None => Ok(Mark::Absent),
            Some(uid) if *uid == self.uid => Ok(Mark::Own),
            Some(uid) => Err(Fault::precondition(format!(
                "{kind} {name} was made in another installation (namespace UID {uid}, this one is {own}), as a restored \
                 backup contains it: it is not used; delete it and let the agents enrol again: kubectl -n {namespace} delete \
                 {object}/{name} && kubectl -n {namespace} rollout restart deployment/stillpoint-controller \
                 daemonset/stillpoint-agent; {then}",
                own = self.uid,
                namespace = self.namespace,
                object = kind.to_lowercase()
            ))),
        }
    }
}

#[cfg(test)]
mod tests;
