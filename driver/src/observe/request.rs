//! The id of the request that is being answered: it goes along with every call that is made for it, so that one request
//! can be followed from host to host (`x-request-id`, in the span of each call).
//!
//! It belongs to the task that answers. Who spawns a task for a request says [`carried`]; the rules engine, which knows
//! nothing of requests, is bridged by the name of the cut ([`known_by`], [`of_cut`]).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// Header with the id of a request.
pub const REQUEST_ID: &str = "x-request-id";

/// Id of a request.
pub type RequestId = Arc<str>;

tokio::task_local! {
    static CURRENT: RequestId;
}

/// Of cuts that the rules engine is taking.
static BY_CUT: Mutex<BTreeMap<String, RequestId>> = Mutex::new(BTreeMap::new());

/// The request that this task answers.
pub fn current() -> Option<RequestId> {
    CURRENT.try_with(Arc::clone).ok()
}

/// The future as a part of this request.
pub async fn within<F: Future>(id: Option<RequestId>, future: F) -> F::Output {
    match id {
        Some(id) => CURRENT.scope(id, future).await,
        None => future.await,
    }
}

/// The future as a part of the request that is answered now, in whichever task it will run.
pub fn carried<F: Future>(future: F) -> impl Future<Output = F::Output> {
    within(current(), future)
}

/// Makes the request that is answered now known by the name of the cut that it asks for, until this is dropped.
#[must_use]
pub fn known_by(cut: &str) -> Known {
    let known = current().map(|id| {
        by_cut().insert(cut.to_owned(), id);
        cut.to_owned()
    });
    Known(known)
}

/// The request that has asked for this cut.
pub fn of_cut(cut: &str) -> Option<RequestId> {
    by_cut().get(cut).cloned()
}

/// See [`known_by`].
#[derive(Debug)]
pub struct Known(Option<String>);

impl Drop for Known {
    fn drop(&mut self) {
        if let Some(cut) = &self.0 {
            by_cut().remove(cut);
        }
    }
}

fn by_cut() -> MutexGuard<'static, BTreeMap<String, RequestId>> {
    // Each change is one insert or remove.
    BY_CUT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection whose calls carry the id of the request for which they are made.
pub type Carrier = InterceptedService<Channel, fn(Request<()>) -> Result<Request<()>, Status>>;

/// Makes a connection a [`Carrier`].
pub fn carrier(channel: Channel) -> Carrier {
    InterceptedService::new(channel, with_id)
}

#[allow(clippy::unnecessary_wraps, clippy::result_large_err, reason = "what tonic calls an interceptor")]
fn with_id(mut request: Request<()>) -> Result<Request<()>, Status> {
    // An id that no header can carry came from no header.
    if let Some(id) = current().and_then(|id| id.parse().ok()) {
        request.metadata_mut().insert(REQUEST_ID, id);
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> RequestId {
        text.into()
    }

    #[tokio::test]
    async fn an_id_goes_along_with_calls_of_its_task_and_of_those_that_carry_it() {
        let header = || {
            let request = with_id(Request::new(())).unwrap();
            request.metadata().get(REQUEST_ID).map(|id| id.to_str().unwrap().to_owned())
        };
        assert_eq!(header(), None);
        within(Some(id("one")), async {
            assert_eq!(header().as_deref(), Some("one"));
            let spawned = tokio::spawn(carried(async move { header() }));
            assert_eq!(spawned.await.unwrap().as_deref(), Some("one"));
            assert_eq!(tokio::spawn(async move { header() }).await.unwrap(), None, "nobody carried it");
        })
        .await;
        assert_eq!(tokio::spawn(carried(async { current() })).await.unwrap(), None);
    }

    #[tokio::test]
    async fn the_request_of_a_cut_is_known_by_its_name_as_long_as_it_is_taken() {
        let known = within(Some(id("two")), async { known_by("a cut of this test") }).await;
        assert_eq!(of_cut("a cut of this test"), Some(id("two")));
        drop(known);
        assert_eq!(of_cut("a cut of this test"), None);
        drop(known_by("another"));
        assert_eq!(of_cut("another"), None, "nothing is known outside of a request");
    }
}
