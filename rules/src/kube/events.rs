//! Events on the snapshot that a run is for: what `kubectl describe` shows.

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::Client;
use kube::api::{Api, PostParams};

use crate::text::clip_to;

/// The API server refuses longer messages.
const MESSAGE_LIMIT: usize = 1000;

/// The object that an event is about and that owns a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRef {
    /// Its API version.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uid: String,
}

impl ObjectRef {
    /// As an owner: what it owns goes with it.
    pub fn owner(&self) -> OwnerReference {
        OwnerReference {
            api_version: self.api_version.clone(),
            kind: self.kind.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            controller: Some(true),
            block_owner_deletion: None,
        }
    }
}

/// Whether somebody should look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// As it should be.
    Normal,
    /// Somebody should look.
    Warning,
}

/// Writes events.
#[derive(Clone)]
pub struct Events {
    client: Client,
    reporter: String,
}

impl Events {
    /// Events of this controller.
    pub fn new(client: Client, reporter: impl Into<String>) -> Self {
        Self { client, reporter: reporter.into() }
    }

    /// Writes one. An event that cannot be written is logged: nothing depends on it.
    pub async fn tell(&self, about: &ObjectRef, kind: EventKind, reason: &str, message: &str) {
        let event = event(about, kind, reason, message, &self.reporter);
        let api: Api<Event> = Api::namespaced(self.client.clone(), &about.namespace);
        if let Err(error) = api.create(&PostParams::default(), &event).await {
            tracing::warn!(%error, reason, message, object = about.name, "an event could not be written");
        }
    }
}

fn event(about: &ObjectRef, kind: EventKind, reason: &str, message: &str, reporter: &str) -> Event {
    let now = Time(jiff::Timestamp::now());
    let type_ = match kind {
        EventKind::Normal => "Normal",
        EventKind::Warning => "Warning",
    };
    Event {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}.", about.name.chars().take(200).collect::<String>())),
            namespace: Some(about.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(about.api_version.clone()),
            kind: Some(about.kind.clone()),
            name: Some(about.name.clone()),
            namespace: Some(about.namespace.clone()),
            uid: Some(about.uid.clone()),
            ..ObjectReference::default()
        },
        type_: Some(type_.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(clip_to(message, MESSAGE_LIMIT)),
        source: Some(EventSource { component: Some("stillpoint".to_owned()), host: None }),
        reporting_component: Some("stillpoint.dev/controller".to_owned()),
        reporting_instance: Some(clip_to(reporter, 128)),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        count: Some(1),
        ..Event::default()
    }
}
