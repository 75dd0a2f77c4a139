//! `GET /metrics` over HTTP. Nothing else is served, and nothing can be changed here: it needs no secret.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::Exposition;
use crate::domain::Fault;

/// Scrapes at the same time; more wait.
const SCRAPES: usize = 4;
/// A scrape is one short request.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Between two attempts to accept where the process has run out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, Fault> {
    TcpListener::bind(address).await.map_err(|error| {
        Fault::precondition(format!(
            "cannot serve metrics on {address}: {error}; choose another address or leave it out"
        ))
    })
}

/// Serves until `stop` is done. What fails for one caller is that caller's.
pub async fn serve(listener: TcpListener, exposition: Exposition, stop: impl Future<Output = ()>) {
    let permits = Arc::new(Semaphore::new(SCRAPES));
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => return,
            accepted = accept(&listener, &permits) => accepted,
        };
        let Some((stream, permit)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let exposition = exposition.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let answer = service_fn(move |request| answer(exposition.clone(), request));
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST_LIMIT)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), answer);
            // A caller that went away or is slow.
            let _ = tokio::time::timeout(REQUEST_LIMIT * 2, served).await;
        });
    }
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.ok()?;
    let (stream, _) = listener.accept().await.ok()?;
    Some((stream, permit))
}

async fn answer(
    exposition: Exposition,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let plain = |status: StatusCode, text: &'static str| {
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        response
    };
    if request.uri().path() != "/metrics" {
        return Ok(plain(StatusCode::NOT_FOUND, "look at /metrics\n"));
    }
    if request.method() != Method::GET {
        return Ok(plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n"));
    }
    let text = tokio::task::spawn_blocking(move || exposition.text()).await;
    let Ok(text) = text else {
        return Ok(plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be collected\n"));
    };
    let mut response = Response::new(Full::from(text));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(CONTENT_TYPE));
    Ok(response)
}
