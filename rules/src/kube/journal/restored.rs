//! Copies of `Run` objects, as backup tools make them when they restore: what they say was true of another object. Nothing
//! of them is run; they are reported and removed.

use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, Preconditions};

use super::super::error::KubeError;
use super::super::events::EventKind;
use super::super::objects::Run;
use super::KubeJournal;
use super::object::{Origin, mark_ended, origin, reference, title};
use super::open::pages;

impl KubeJournal {
    /// Looks through the metadata of all runs for copies without an owner, which the API server never collects, and
    /// removes them; how many there were. To be called at the start and from time to time.
    pub async fn remove_restored(&self) -> Result<usize, KubeError> {
        let mut suspects = Vec::new();
        let api: Api<Run> = Api::all(self.client.clone());
        pages(&api, ListParams::default(), |object| {
            if object.owner_references().is_empty() {
                suspects.push((object.namespace().unwrap_or_default(), object.name_any()));
            }
        })
        .await?;
        let mut removed = 0;
        for (namespace, name) in suspects {
            let what = format!("Run {namespace}/{name}");
            let found =
                self.api(&namespace).get_opt(&name).await.map_err(|error| KubeError::of(what, error))?;
            if let Some(copy) = found.filter(|object| origin(object) == Origin::Copy) {
                self.remove_copy(&copy).await?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Reports a copy and removes this very object.
    pub(super) async fn remove_copy(&self, copy: &Run) -> Result<(), KubeError> {
        let why = "it is a copy of a Run, as a restored backup contains it: its commands are not run, and it is removed";
        tracing::warn!(run = title(copy), why);
        self.events.tell(&reference(copy), EventKind::Warning, "RestoredRun", why).await;
        let copy = match self.marked(copy.clone(), mark_ended).await {
            Ok(copy) => copy,
            Err(KubeError::NotFound(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        let api = self.api(&copy.namespace().unwrap_or_default());
        let preconditions = Preconditions { uid: copy.uid(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match api.delete(&copy.name_any(), &params).await.map_err(|error| KubeError::of(title(&copy), error))
        {
            Ok(_) | Err(KubeError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Says that a run cannot be acted on although it belongs to a snapshot.
    pub(super) async fn report_unmarked(&self, object: &Run) {
        let why = "no controller has put its mark into this Run, so its commands are not run; look at the application, then \
                   delete the Run";
        tracing::error!(run = title(object), why);
        self.events.tell(&reference(object), EventKind::Warning, "UnmarkedRun", why).await;
    }
}
