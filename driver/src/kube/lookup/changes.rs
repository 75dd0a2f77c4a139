//! Whether what a failed snapshot depends on has changed: its object, and the Rules of its namespace.
//!
//! # Flow
//! 1. One look: a GET of the object, and a list of the Rules (their metadata) where they matter.
//! 2. Watches from there on, so that waiting costs no requests. A watch that breaks is followed by another look, after
//!    [`LOOK_AGAIN`].

use std::time::Duration;

use kube::api::{Api, ApiResource, DynamicObject, ListParams, WatchEvent, WatchParams};
use stillpoint_rules::kube::objects::{self, RULE_ANNOTATION};
use tokio_stream::StreamExt;

use super::{Lookup, resource};
use crate::csi::backoff::DependsOn;
use crate::csi::ports::{Circumstances, SnapshotObject};
use crate::domain::CutKind;

/// Rules that one answer of the API server brings.
const PAGE: u32 = 500;
/// Pages that are read: more Rules than that in one namespace are not looked through.
const PAGES: usize = 20;
/// Between two looks where the API server answers no watch, and the longest that one takes.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What was seen, and from which versions on changes are still to come. `None`: there is nothing to watch.
struct Look {
    circumstances: Circumstances,
    object_version: Option<String>,
    rules_version: Option<String>,
}

impl Lookup {
    /// What a snapshot for this object depends on; `None`: it cannot be told now.
    pub async fn circumstances(
        &self,
        kind: CutKind,
        object: &SnapshotObject,
        depends_on: DependsOn,
    ) -> Option<Circumstances> {
        self.look(kind, object, depends_on).await.map(|look| look.circumstances)
    }

    /// Returns when that is no longer what `seen` says; `None` there becomes what is found first.
    pub async fn changed(
        &self,
        kind: CutKind,
        object: &SnapshotObject,
        depends_on: DependsOn,
        seen: &mut Option<Circumstances>,
    ) {
        loop {
            if let Some(look) = self.look(kind, object, depends_on).await {
                match seen {
                    Some(seen) if *seen != look.circumstances => return,
                    Some(_) => {}
                    None => *seen = Some(look.circumstances.clone()),
                }
                if self.next_change(kind, object, &look).await {
                    continue;
                }
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// A client of the API server may repeat its requests for longer than a caller waits.
    async fn look(&self, kind: CutKind, object: &SnapshotObject, depends_on: DependsOn) -> Option<Look> {
        let look = self.look_unbounded(kind, object, depends_on);
        tokio::time::timeout(LOOK_AGAIN, look).await.ok().flatten()
    }

    async fn look_unbounded(
        &self,
        kind: CutKind,
        object: &SnapshotObject,
        depends_on: DependsOn,
    ) -> Option<Look> {
        let found = self.snapshots(kind, object).get_opt(&object.name).await.ok()?;
        let wanted = found.filter(|found| found.metadata.deletion_timestamp.is_none());
        let Some(found) = wanted else {
            // Nothing can make it wanted again.
            return Some(Look {
                circumstances: Circumstances::default(),
                object_version: None,
                rules_version: None,
            });
        };
        let mut look = Look {
            circumstances: Circumstances {
                is_wanted: true,
                annotation: found.metadata.annotations.unwrap_or_default().remove(RULE_ANNOTATION),
                ..Circumstances::default()
            },
            object_version: found.metadata.resource_version,
            rules_version: None,
        };
        if depends_on == DependsOn::Rules {
            self.look_at_rules(object, &mut look).await?;
        }
        Some(look)
    }

    async fn look_at_rules(&self, object: &SnapshotObject, look: &mut Look) -> Option<()> {
        let mut page = ListParams::default().limit(PAGE);
        for _ in 0..PAGES {
            let rules = self.rules(object).list_metadata(&page).await.ok()?;
            // All pages show the moment of the first.
            look.rules_version = rules.metadata.resource_version;
            let versions = rules
                .items
                .into_iter()
                .filter_map(|rule| Some((rule.metadata.name?, rule.metadata.resource_version?)));
            look.circumstances.rules.extend(versions);
            match rules.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => return Some(()),
            }
        }
        tracing::warn!(
            namespace = object.namespace,
            limit = PAGE as usize * PAGES,
            "too many Rules: a change of one does not make a failed snapshot be tried again at once"
        );
        None
    }

    /// Waits for an event that may matter; false: there is no more watch.
    async fn next_change(&self, kind: CutKind, object: &SnapshotObject, look: &Look) -> bool {
        tokio::select! {
            is_event = self.object_changes(kind, object, look) => is_event,
            is_event = self.rules_change(object, look) => is_event,
        }
    }

    async fn object_changes(&self, kind: CutKind, object: &SnapshotObject, look: &Look) -> bool {
        let Some(version) = &look.object_version else { return std::future::pending().await };
        let only = WatchParams::default().fields(&format!("metadata.name={}", object.name));
        let api = self.snapshots(kind, object);
        let Ok(events) = api.watch_metadata(&only, version).await else { return false };
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(WatchEvent::Added(now) | WatchEvent::Modified(now)) => {
                    let annotation = now.metadata.annotations.unwrap_or_default().remove(RULE_ANNOTATION);
                    let is_wanted = now.metadata.deletion_timestamp.is_none();
                    if !is_wanted || annotation != look.circumstances.annotation {
                        return true;
                    }
                }
                Ok(WatchEvent::Deleted(_)) => return true,
                Ok(WatchEvent::Bookmark(_)) => {}
                Ok(WatchEvent::Error(_)) | Err(_) => return false,
            }
        }
        false
    }

    async fn rules_change(&self, object: &SnapshotObject, look: &Look) -> bool {
        let Some(version) = &look.rules_version else { return std::future::pending().await };
        let api = self.rules(object);
        let Ok(events) = api.watch_metadata(&WatchParams::default(), version).await else { return false };
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(WatchEvent::Added(_) | WatchEvent::Modified(_) | WatchEvent::Deleted(_)) => return true,
                Ok(WatchEvent::Bookmark(_)) => {}
                Ok(WatchEvent::Error(_)) | Err(_) => return false,
            }
        }
        false
    }

    fn snapshots(&self, kind: CutKind, object: &SnapshotObject) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &object.namespace, &resource(kind))
    }

    fn rules(&self, object: &SnapshotObject) -> Api<DynamicObject> {
        let resource = ApiResource::erase::<objects::Rule>(&());
        Api::namespaced_with(self.client.clone(), &object.namespace, &resource)
    }
}

#[cfg(test)]
mod tests;
