//! One span per call, with the call's fields at level debug, and its metrics. A layer around every gRPC server, so that
//! no service has to think of it.
//!
//! The request id of a call is the caller's (`x-request-id`) or a new one; it is in the span and so in every line that
//! belongs to the call; calls that are made to answer it carry it on ([`super::request`]). Fields are read from the bytes of the request by its descriptor ([`fields`]), secrets excepted.

mod body;
pub mod fields;

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use hyper::body::Bytes;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::{Instrument, Span};

use super::metrics::rpcs;
use super::request::{REQUEST_ID, RequestId, within};
use body::{Tap, Watched};

/// A caller's id may be this long; what is longer is replaced.
const ID_LIMIT: usize = 64;

/// Puts [`Observed`] around a server.
#[derive(Debug, Clone, Copy, Default)]
pub struct Observe;

/// A server whose calls are seen.
#[derive(Debug, Clone)]
pub struct Observed<S> {
    inner: S,
}

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Observed { inner }
    }
}

type Answering<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

impl<S, B> Service<Request<Body>> for Observed<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: http_body::Body<Data = Bytes> + Unpin,
{
    type Response = Response<Watched<B>>;
    type Error = S::Error;
    type Future = Answering<Self::Response, Self::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let call = Call::new(&request);
        let span = call.span.clone();
        let request = if tracing::enabled!(target: TARGET, tracing::Level::DEBUG) {
            let (path, span) = (request.uri().path().to_owned(), span.clone());
            request.map(|body| Body::new(Tap::new(body, path, span)))
        } else {
            request
        };
        let answering = span.in_scope(|| self.inner.call(request));
        let id = call.id.clone();
        let answered = async move {
            let answered = answering.await;
            answered.map(|response| Watched::over(response, call))
        };
        Box::pin(within(Some(id), answered).instrument(span))
    }
}

/// Target of what is said here, for filters.
pub const TARGET: &str = "stillpoint::rpc";

/// A call that is being answered. Dropping it without [`Call::end`] says that the caller went away.
struct Call {
    method: String,
    id: RequestId,
    span: Span,
    start: Instant,
    ended: bool,
}

impl Call {
    fn new(request: &Request<Body>) -> Self {
        let method = request.uri().path().trim_start_matches('/').to_owned();
        let given = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok());
        let given = given.filter(|id| (1..=ID_LIMIT).contains(&id.len()));
        let id: RequestId = given.map_or_else(new_id, str::to_owned).into();
        let span = tracing::info_span!(target: TARGET, "rpc", %method, request = %id);
        Self { method, id, span, start: Instant::now(), ended: false }
    }

    fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let took = self.start.elapsed();
        let code = name(code);
        // A method that nobody serves is named by whoever calls it, without end.
        if code != "Unimplemented" {
            rpcs::answered(&self.method, code, took);
        }
        self.span.in_scope(|| tracing::debug!(target: TARGET, code, took_us = took.as_micros(), "answered"));
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// An id for a request that has none.
fn new_id() -> String {
    let mut random = [0; 8];
    // Without random numbers requests look alike in the log, and nothing else.
    let _ = getrandom::fill(&mut random);
    format!("{:016x}", u64::from_be_bytes(random))
}

/// The code that headers or trailers of an answer tell.
fn code_in(headers: &tonic::codegen::http::HeaderMap) -> Option<Code> {
    Status::from_header_map(headers).map(|status| status.code())
}

const fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Cancelled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

#[cfg(test)]
mod tests;
