//! One request to one address: no pool, no redirect, no proxy. Adapters know the address, this knows the protocol.

use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::{CONTENT_LENGTH, HOST, HeaderName, HeaderValue};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use crate::api::Method;
use crate::output::Output;
use crate::ports::{ExecError, HttpOutcome, HttpRequest, HttpTrust};

/// Why there is no answer.
enum Fault {
    /// Nothing was asked.
    NotAsked(String),
    /// It was asked; what became of it is not known.
    Lost(String),
}

/// Makes a request to the pod at this address within the request's timeout.
pub(crate) async fn call(address: &str, request: &HttpRequest) -> Result<HttpOutcome, ExecError> {
    let pod = format!("{}/{}", request.target.namespace, request.target.pod);
    let deadline = Instant::now() + request.timeout;
    let mut output = Output::new(request.output_limit);
    let answered = timeout_at(deadline, exchange(address, request, &mut output)).await;
    let (text, omitted_bytes) = output.finish();
    match answered {
        Ok(Ok(status)) => Ok(HttpOutcome { status, output: text, omitted_bytes }),
        Ok(Err(Fault::NotAsked(why))) => Err(ExecError::NotStarted { pod, why }),
        Ok(Err(Fault::Lost(why))) => Err(ExecError::Lost { pod, why }),
        Err(_) => Err(ExecError::TimedOut { pod, limit: request.timeout, still_running: true, output: text }),
    }
}

async fn exchange(address: &str, request: &HttpRequest, output: &mut Output) -> Result<u16, Fault> {
    let message = message(address, request).map_err(Fault::NotAsked)?;
    let place = format!("{} port {}", address, request.port);
    let stream = TcpStream::connect((address, request.port))
        .await
        .map_err(|error| Fault::NotAsked(format!("{place}: {error}; does it listen on that address?")))?;
    match &request.tls {
        None => converse(stream, message, output).await,
        Some(trust) => {
            let stream = over_tls(stream, address, trust).await.map_err(|why| {
                Fault::NotAsked(format!("{place}: no TLS: {why}; check `tls.ca` and `tls.serverName`"))
            })?;
            converse(stream, message, output).await
        }
    }
}

fn message(address: &str, request: &HttpRequest) -> Result<Request<Full<Bytes>>, String> {
    let body = request.body.clone().unwrap_or_default();
    let length = match request.method {
        Method::Post | Method::Put | Method::Patch => Some(body.len()),
        Method::Get | Method::Head | Method::Delete => request.body.as_ref().map(String::len),
    };
    let host = if address.contains(':') {
        format!("[{address}]:{}", request.port)
    } else {
        format!("{address}:{}", request.port)
    };
    let mut message = Request::builder()
        .method(request.method.word())
        .uri(&request.path)
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| format!("the request cannot be written: {error}"))?;
    let headers = message.headers_mut();
    // Also of an empty body: many servers answer 411 without it, or wait for one.
    if let Some(length) = length {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    headers.insert(HOST, HeaderValue::try_from(host).map_err(|error| error.to_string())?);
    for (name, value) in &request.headers {
        let key = HeaderName::try_from(name).map_err(|_| format!("`{name}` is no header"))?;
        let mut value = HeaderValue::try_from(value)
            .map_err(|_| format!("the value of header `{name}` has characters that no header may have"))?;
        value.set_sensitive(true);
        headers.insert(key, value);
    }
    Ok(message)
}

async fn over_tls(
    stream: TcpStream,
    address: &str,
    trust: &HttpTrust,
) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(trust.ca_pem.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("the authority is not PEM: {error}"))?;
        roots.add(certificate).map_err(|error| format!("the authority is no certificate: {error}"))?;
    }
    if roots.is_empty() {
        return Err("the authority holds no certificate".to_owned());
    }
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = trust.server_name.clone().unwrap_or_else(|| address.to_owned());
    let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| error.to_string())
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    message: Request<Full<Bytes>>,
    output: &mut Output,
) -> Result<u16, Fault> {
    let lost = |error: hyper::Error| Fault::Lost(chain(&error));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
    let answering = async {
        let answer = sender.send_request(message).await?;
        let status = answer.status().as_u16();
        let mut body = answer.into_body();
        while let Some(frame) = body.frame().await {
            if let Ok(bytes) = frame?.into_data() {
                output.push(&bytes);
            }
        }
        Ok(status)
    };
    // The connection works while the answer is waited for, and goes with it.
    tokio::pin!(answering, connection);
    tokio::select! {
        biased;
        answer = &mut answering => answer.map_err(lost),
        ended = &mut connection => match (ended, answering.await) {
            (_, Ok(status)) => Ok(status),
            (Err(error), _) | (Ok(()), Err(error)) => Err(lost(error)),
        },
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let texts = std::iter::successors(Some(error), |error| (*error).source()).take(5);
    texts.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
