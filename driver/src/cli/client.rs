//! The connection to a standalone controller.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use crate::domain::Fault;
use crate::proto::operator::operator_client::OperatorClient;

/// Answers carry whole records with their timelines.
pub const MESSAGE_LIMIT: usize = 64 << 20;
/// Commands that only look things up.
const LOOK_UP: Duration = Duration::from_mins(1);
/// A socket either answers at once or not at all.
const CONNECT: Duration = Duration::from_secs(5);

/// Connects to the socket.
pub async fn connect(socket: &Path) -> Result<OperatorClient<Channel>, Fault> {
    let path: PathBuf = socket.to_owned();
    let connector = service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // Not used for anything but the HTTP/2 authority.
    let endpoint = Endpoint::from_static("http://operator.sock").connect_timeout(CONNECT);
    let channel = endpoint.connect_with_connector(connector).await.map_err(|error| {
        Fault::unavailable(format!(
            "cannot reach the controller at {}: {}; start `stillpoint standalone`, or give its operatorSocket with --socket or STILLPOINT_SOCKET",
            socket.display(),
            innermost(&error)
        ))
    })?;
    Ok(OperatorClient::new(channel)
        .max_decoding_message_size(MESSAGE_LIMIT)
        .max_encoding_message_size(MESSAGE_LIMIT))
}

/// A request that is answered soon or not at all.
pub fn quick<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(LOOK_UP);
    request
}

fn innermost(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), innermost)
}
