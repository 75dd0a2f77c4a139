//! VolumeSnapshotContents and VolumeGroupSnapshotContents: what the cluster knows of snapshots.
//!
//! [`annotate`] writes what was reached onto them and onto their VolumeSnapshots; [`orphans`] finds snapshots without a
//! content and contents without a snapshot, and [`commands`] are what to do about those.

pub mod annotate;
pub mod commands;
pub mod orphans;

use jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use serde_json::Value;

use crate::csi::DRIVER_NAME;
use crate::domain::{CutKind, Fault};
use crate::kube::api::api_fault;

/// Contents in one answer of the API server.
const PAGE: u32 = 500;

/// A content of this driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Of a group or of a single snapshot.
    pub kind: CutKind,
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uid: String,
    /// The driver's id of its snapshot or group; `None`: not made yet.
    pub handle: Option<String>,
    /// Whether it says that it can be used.
    pub is_ready: bool,
    /// Whether somebody has deleted it.
    pub is_going: bool,
    /// When it was made.
    pub created_at: Option<Timestamp>,
    /// The VolumeSnapshot or VolumeGroupSnapshot that it is bound to.
    pub bound_to: Bound,
    /// The driver's id of the group that its snapshot is a member of.
    pub group: Option<String>,
}

/// What a content says about the object that it is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bound {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its identity; empty: not bound yet.
    pub uid: String,
}

impl Content {
    /// `None`: a content of another driver, or not one at all.
    pub fn of(kind: CutKind, object: &DynamicObject) -> Option<Self> {
        let (spec, status) = (&object.data["spec"], &object.data["status"]);
        if spec["driver"] != DRIVER_NAME {
            return None;
        }
        let (made, given, reference) = match kind {
            CutKind::Single => {
                (&status["snapshotHandle"], &spec["source"]["snapshotHandle"], &spec["volumeSnapshotRef"])
            }
            CutKind::Group => (
                &status["volumeGroupSnapshotHandle"],
                &spec["source"]["groupSnapshotHandles"]["volumeGroupSnapshotHandle"],
                &spec["volumeGroupSnapshotRef"],
            ),
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Some(Self {
            kind,
            name: object.metadata.name.clone()?,
            uid: object.metadata.uid.clone()?,
            handle: made.as_str().or(given.as_str()).map(str::to_owned),
            is_ready: status["readyToUse"] == true,
            is_going: object.metadata.deletion_timestamp.is_some(),
            created_at: object.metadata.creation_timestamp.as_ref().map(|time| time.0),
            bound_to: Bound {
                namespace: text(&reference["namespace"]),
                name: text(&reference["name"]),
                uid: text(&reference["uid"]),
            },
            group: match kind {
                CutKind::Single => status["volumeGroupSnapshotHandle"].as_str().map(str::to_owned),
                CutKind::Group => None,
            },
        })
    }
}

/// Contents of this kind in the API.
fn contents(client: &Client, kind: CutKind) -> Api<DynamicObject> {
    let resource = match kind {
        CutKind::Single => resource("snapshot.storage.k8s.io", "VolumeSnapshotContent"),
        CutKind::Group => resource("groupsnapshot.storage.k8s.io", "VolumeGroupSnapshotContent"),
    };
    Api::all_with(client.clone(), &resource)
}

/// VolumeSnapshots or VolumeGroupSnapshots of a namespace in the API.
fn snapshots(client: &Client, kind: CutKind, namespace: &str) -> Api<DynamicObject> {
    let resource = match kind {
        CutKind::Single => resource("snapshot.storage.k8s.io", "VolumeSnapshot"),
        CutKind::Group => resource("groupsnapshot.storage.k8s.io", "VolumeGroupSnapshot"),
    };
    Api::namespaced_with(client.clone(), namespace, &resource)
}

fn resource(group: &str, kind: &str) -> ApiResource {
    ApiResource {
        group: group.to_owned(),
        version: "v1".to_owned(),
        api_version: format!("{group}/v1"),
        kind: kind.to_owned(),
        plural: format!("{}s", kind.to_lowercase()),
    }
}

/// Gives each content of this kind to `look`, page by page; the version from which on changes are still to come.
async fn each(client: &Client, kind: CutKind, mut look: impl FnMut(DynamicObject)) -> Result<String, Fault> {
    let api = contents(client, kind);
    let mut wanted = ListParams::default().limit(PAGE);
    loop {
        let page =
            api.list(&wanted).await.map_err(|error| api_fault("cannot list snapshot contents", &error))?;
        page.items.into_iter().for_each(&mut look);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => wanted = ListParams::default().limit(PAGE).continue_token(&token),
            None => return Ok(page.metadata.resource_version.unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests;
