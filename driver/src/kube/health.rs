//! Answers probes: gRPC's health service, which the kubelet speaks, on a port of its own without anything else.
//!
//! The service name "" is alive as long as this process answers; "ready" is what a part of the process says.

use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::proto::health::health_check_response::ServingStatus;
use crate::proto::health::health_server::{Health as Api, HealthServer};
use crate::proto::health::{HealthCheckRequest, HealthCheckResponse};

/// What a readiness probe asks for.
pub const READY: &str = "ready";

/// Whether the process can do its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Not yet, or not any more.
    NotReady,
    /// Yes.
    Ready,
}

struct Health(watch::Receiver<Readiness>);

#[tonic::async_trait]
impl Api for Health {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let status = match request.into_inner().service.as_str() {
            "" => ServingStatus::Serving,
            READY => match *self.0.borrow() {
                Readiness::Ready => ServingStatus::Serving,
                Readiness::NotReady => ServingStatus::NotServing,
            },
            _ => return Err(Status::not_found("the services are \"\" and \"ready\"")),
        };
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }
}

/// Serves until `stop` is done.
pub async fn serve(
    listener: TcpListener,
    readiness: watch::Receiver<Readiness>,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    Server::builder()
        .add_service(HealthServer::new(Health(readiness)))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::health::health_client::HealthClient;

    #[tokio::test]
    async fn a_process_is_alive_at_once_and_ready_when_it_says_so() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (ready, readiness) = watch::channel(Readiness::NotReady);
        tokio::spawn(serve(listener, readiness, std::future::pending()));
        let mut client = HealthClient::connect(url).await.unwrap();
        let mut check = async |service: &str| {
            let request = HealthCheckRequest { service: service.into() };
            client.check(request).await.map(|answer| answer.into_inner().status())
        };
        assert_eq!(check("").await.unwrap(), ServingStatus::Serving);
        assert_eq!(check(READY).await.unwrap(), ServingStatus::NotServing);
        ready.send_replace(Readiness::Ready);
        assert_eq!(check(READY).await.unwrap(), ServingStatus::Serving);
        assert_eq!(check("other").await.unwrap_err().code(), tonic::Code::NotFound);
    }
}
