//! Writes of `Run` objects: each over the version that this process knows.

use std::time::Duration;

use kube::api::PostParams;

use super::super::error::KubeError;
use super::super::objects::Run;
use super::KubeJournal;
use super::object::{mark_ended, mark_open, title};

/// Pauses before a write that did not reach the API server is made again.
const AGAIN: [Duration; 4] =
    [Duration::from_millis(200), Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];

/// Times that a write of this process's own is made again over a version that it did not know.
const CONFLICTS: usize = 3;

impl KubeJournal {
    /// Marks an object as that of an open run.
    pub(super) async fn opened(&self, object: Run) -> Result<Run, KubeError> {
        if object.metadata.deletion_timestamp.is_some() {
            let what = title(&object);
            self.close(object).await?;
            return Err(KubeError::Deleting(what));
        }
        self.marked(object, mark_open).await
    }

    /// Nothing is pending any more: the object may be deleted, and is not looked at again.
    pub(super) async fn close(&self, object: Run) -> Result<(), KubeError> {
        match self.marked(object, mark_ended).await {
            Ok(_) | Err(KubeError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Changes metadata, over whatever others have changed meanwhile.
    pub(super) async fn marked(&self, mut object: Run, mark: fn(&mut Run) -> bool) -> Result<Run, KubeError> {
        for _ in 0..CONFLICTS {
            if !mark(&mut object) {
                return Ok(object);
            }
            let (what, name) = (title(&object), object.metadata.name.clone().unwrap_or_default());
            let api = self.api(object.metadata.namespace.as_deref().unwrap_or_default());
            let written = api.replace(&name, &PostParams::default(), &object).await;
            match written.map_err(|error| KubeError::of(&what, error)) {
                Ok(written) => return Ok(written),
                Err(KubeError::Conflict(_)) => {
                    object = api.get(&name).await.map_err(|error| KubeError::of(&what, error))?;
                }
                Err(error) => return Err(error),
            }
        }
        Err(KubeError::Conflict(title(&object)))
    }

    /// Writes the status over the version that this process knows, again while the API server cannot be reached.
    pub(super) async fn write(&self, object: Run) -> Result<Run, KubeError> {
        let namespace = object.metadata.namespace.clone().unwrap_or_default();
        let name = object.metadata.name.clone().unwrap_or_default();
        let api = self.api(&namespace);
        let mut pauses = AGAIN.iter();
        loop {
            let written = api.replace_status(&name, &PostParams::default(), &object).await;
            let error = match written {
                Ok(written) => return Ok(written),
                Err(error) => KubeError::of(format!("run {namespace}/{name}"), error),
            };
            match pauses.next().filter(|_| error.is_passing()) {
                Some(pause) => tokio::time::sleep(*pause).await,
                None => return Err(error),
            }
        }
    }

    /// Writes the next version of a run that this process has. A conflict is none where only this process wrote (an
    /// answer was lost) or somebody changed labels; it is one where another controller has the run by now.
    pub(super) async fn write_own(&self, known: &Run, mut next: Run) -> Result<Run, KubeError> {
        for _ in 0..CONFLICTS {
            match self.write(next.clone()).await {
                Err(KubeError::Conflict(_)) => {}
                outcome => return outcome,
            }
            let (namespace, name) = (next.metadata.namespace.as_deref(), next.metadata.name.as_deref());
            let what = format!("run {}/{}", namespace.unwrap_or_default(), name.unwrap_or_default());
            let found = self.api(namespace.unwrap_or_default()).get(name.unwrap_or_default()).await;
            let found = found.map_err(|error| KubeError::of(what.clone(), error))?;
            if found.status == next.status {
                return Ok(found);
            }
            let holder = found.status.as_ref().and_then(|status| status.holder.as_deref());
            if holder != Some(&self.holder) && found.status != known.status {
                return Err(KubeError::Conflict(what));
            }
            next.metadata = found.metadata;
        }
        Err(KubeError::Conflict(format!("run of {}", next.spec.cut)))
    }
}
