//! The listening side of TLS, with a certificate that may be renewed while it listens.
//!
//! Guarantees: each handshake uses the newest certificate, connections that exist are not touched by a renewal; a
//! peer that is slow or wrong in its handshake keeps nobody else waiting and costs one of [`HANDSHAKES_MAX`] places
//! for at most [`HANDSHAKE_LIMIT`]. Until there is a first certificate, callers wait in the kernel's queue.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;

use super::tls::{Callers, Credentials};

/// A handshake takes milliseconds; who takes longer is not there.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(2);
/// Handshakes at the same time.
const HANDSHAKES_MAX: usize = 64;
/// After the kernel refused to accept (no file descriptors left): time for connections to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Certificates as they are renewed; `None` until the first is there.
pub type Renewed = watch::Receiver<Option<Credentials>>;

/// Certificates that are never renewed.
pub fn fixed(credentials: Credentials) -> Renewed {
    watch::channel(Some(credentials)).1
}

/// What tonic serves from.
pub type Incoming = ReceiverStream<io::Result<TlsStream<TcpStream>>>;

/// Connections whose handshake succeeded. Ends when the stream is dropped.
pub fn incoming(listener: TcpListener, credentials: Renewed, callers: Callers) -> Incoming {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(accept(listener, credentials, callers, sender));
    ReceiverStream::new(receiver)
}

type Sender = mpsc::Sender<io::Result<TlsStream<TcpStream>>>;

async fn accept(listener: TcpListener, mut credentials: Renewed, callers: Callers, sender: Sender) {
    let places = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = sender.closed() => return,
            accepted = next(&listener, &mut credentials, callers) => accepted,
        };
        let Some((stream, config)) = accepted else { continue };
        let sender = sender.clone();
        tokio::spawn(async move {
            let handshake = TlsAcceptor::from(config).accept(stream);
            match tokio::time::timeout(HANDSHAKE_LIMIT, handshake).await {
                // Nobody receives any more: the server has ended, and the connection with it.
                Ok(Ok(stream)) => drop(sender.send(Ok(stream)).await),
                Ok(Err(error)) => tracing::debug!(%error, "a handshake failed"),
                Err(_) => tracing::debug!("a handshake took longer than {HANDSHAKE_LIMIT:?}"),
            }
            drop(place);
        });
    }
}

/// One connection, and what is presented to it.
async fn next(
    listener: &TcpListener,
    credentials: &mut Renewed,
    callers: Callers,
) -> Option<(TcpStream, Arc<ServerConfig>)> {
    if credentials.wait_for(Option::is_some).await.is_err() {
        // Whoever was to bring the first certificate is gone; the process ends with it.
        return std::future::pending().await;
    }
    let stream = match listener.accept().await {
        Ok((stream, _)) => stream,
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            return None;
        }
    };
    // Best effort: without it answers are late, not wrong.
    let _ = stream.set_nodelay(true);
    let config = credentials.borrow().as_ref().map(|credentials| credentials.server(callers));
    match config? {
        Ok(config) => Some((stream, config)),
        Err(error) => {
            tracing::error!(%error, "the certificate cannot be used");
            None
        }
    }
}
