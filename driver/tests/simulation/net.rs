//! gRPC over the simulated network, without TLS: its handshakes draw random numbers, and the simulation is about what
//! happens after them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use stillpoint::controller::fleet::{AgentAddress, Dial, FleetError, with_limits};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;
use turmoil::net::TcpStream;

pub const PORT: u16 = 9700;

/// How a simulated controller reaches agents: by the names of their hosts.
#[derive(Debug)]
pub struct Simulated;

impl Dial for Simulated {
    fn dial(&self, agent: &AgentAddress) -> Result<Channel, FleetError> {
        let host = agent.host.to_string();
        let endpoint = Endpoint::from_shared(format!("http://{host}:{PORT}"))
            .expect("a host's name is a good authority");
        let connect = service_fn(move |_: Uri| {
            let host = host.clone();
            async move { Ok::<_, io::Error>(TokioIo::new(TcpStream::connect((host.as_str(), PORT)).await?)) }
        });
        Ok(with_limits(endpoint).connect_with_connector_lazy(connect))
    }
}

/// An accepted connection.
pub struct Connection(pub TcpStream);

impl Connected for Connection {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
