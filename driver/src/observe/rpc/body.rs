//! The bodies of a call, looked at as they pass.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use hyper::body::Bytes;
use tonic::Code;
use tonic::codegen::http::Response;
use tracing::Span;

use super::{Call, TARGET, code_in, fields};

/// Bytes of a request that are kept to be shown; a longer one is not shown.
const SHOWN_BYTES: usize = 64 << 10;

/// A request's body that is shown when it has passed.
pub struct Tap<B> {
    inner: B,
    path: String,
    span: Span,
    /// `None` once it is shown, or too long.
    seen: Option<Vec<u8>>,
}

impl<B> Tap<B> {
    pub fn new(inner: B, path: String, span: Span) -> Self {
        Self { inner, path, span, seen: Some(Vec::new()) }
    }

    fn keep(&mut self, data: &[u8]) {
        match &mut self.seen {
            Some(seen) if seen.len() + data.len() <= SHOWN_BYTES => seen.extend_from_slice(data),
            seen => *seen = None,
        }
    }

    fn show(&mut self) {
        let fields = self.seen.take().and_then(|seen| fields::of_request(&self.path, &seen));
        if let Some(fields) = fields {
            self.span.in_scope(|| tracing::debug!(target: TARGET, %fields, "asked"));
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Tap<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.keep(data);
                }
                if self.inner.is_end_stream() {
                    self.show();
                }
            }
            Poll::Ready(None) => self.show(),
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// An answer's body; its end is the end of the call.
pub struct Watched<B> {
    inner: B,
    call: Call,
}

impl<B: Body> Watched<B> {
    /// Watches an answer. A code in the headers is the whole answer.
    pub(super) fn over(response: Response<B>, mut call: Call) -> Response<Self> {
        if let Some(code) = code_in(response.headers()) {
            call.end(code);
        }
        response.map(|inner| Self { inner, call })
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Watched<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(code) = frame.trailers_ref().and_then(code_in) {
                    self.call.end(code);
                }
            }
            Poll::Ready(Some(Err(_))) => self.call.end(Code::Unknown),
            Poll::Ready(None) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
