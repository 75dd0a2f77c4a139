//! Introduces the driver to the kubelet: a socket in the kubelet's directory of plugins, on which it asks who we are.
//!
//! # Flow
//! 1. `<kubelet>/plugins_registry/csi.stillpoint.dev@reg.sock` appears; the kubelet sees it and calls `GetInfo`.
//! 2. It connects to the CSI socket, asks for the node's name and topology and writes them into its CSINode object.
//! 3. It tells the outcome. A refusal is logged, and the socket made anew after [`AGAIN_AFTER`]: the kubelet looks only at
//!    sockets that appear.
//! 4. At the end the socket is removed, and the kubelet forgets the driver.
//!
//! Why the `@`: the kubelet's gRPC client sends the path of this socket as `:authority`, with each slash as `%2F`. That is
//! no host name, and our HTTP/2 library refuses it (PROTOCOL_ERROR), but before an `@` stands the user, in which it is
//! allowed. The kubelet does not care for the name of the file. For the CSI socket it sends `localhost`.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::csi::{DRIVER_NAME, socket};
use crate::domain::Fault;
use crate::proto::registration::registration_server::{Registration as Api, RegistrationServer};
use crate::proto::registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};

/// Versions of CSI, as the kubelet counts them.
const CSI_VERSIONS: [&str; 1] = ["1.0.0"];
/// How long after a refusal it is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// The sockets of the driver under a kubelet's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubeletPaths {
    /// Where the kubelet finds plugins.
    pub registration: PathBuf,
    /// The CSI node service.
    pub csi: PathBuf,
}

impl KubeletPaths {
    /// Those under this directory, which must have the same path for the kubelet and for us.
    pub fn under(kubelet: &Path) -> Self {
        Self {
            registration: kubelet.join("plugins_registry").join(format!("{DRIVER_NAME}@reg.sock")),
            csi: kubelet.join("plugins").join(DRIVER_NAME).join("csi.sock"),
        }
    }

    /// Makes the directories of both.
    pub fn make_directories(&self) -> Result<(), Fault> {
        for parent in [&self.registration, &self.csi].into_iter().filter_map(|path| path.parent()) {
            fs::DirBuilder::new().recursive(true).mode(0o750).create(parent).map_err(|error| {
                Fault::precondition(format!(
                    "cannot make {}: {error}; is the kubelet's directory mounted into the pod?",
                    parent.display()
                ))
            })?;
        }
        Ok(())
    }
}

struct Registration {
    csi: PathBuf,
    refused: mpsc::Sender<String>,
}

#[tonic::async_trait]
impl Api for Registration {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".into(),
            name: DRIVER_NAME.into(),
            endpoint: self.csi.display().to_string(),
            supported_versions: CSI_VERSIONS.map(Into::into).to_vec(),
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let outcome = request.into_inner();
        if outcome.plugin_registered {
            tracing::info!("the kubelet knows this driver now");
        } else {
            // A full queue has a refusal in it already.
            let _ = self.refused.try_send(outcome.error);
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

/// Stays registered until `stop` is done.
pub async fn stay_registered(paths: KubeletPaths, stop: impl Future<Output = ()>) -> Result<(), Fault> {
    tokio::pin!(stop);
    loop {
        let listener =
            socket::bind(&paths.registration).map_err(|error| Fault::precondition(error.to_string()))?;
        let (refused, mut refusals) = mpsc::channel(1);
        let service = RegistrationServer::new(Registration { csi: paths.csi.clone(), refused });
        let serving =
            Server::builder().add_service(service).serve_with_incoming(UnixListenerStream::new(listener));
        let ended = tokio::select! {
            () = &mut stop => Ended::Told,
            outcome = serving => Ended::Server(outcome),
            Some(why) = refusals.recv() => Ended::Refused(why),
        };
        // One that stays behind is replaced at the next start.
        let _ = fs::remove_file(&paths.registration);
        match ended {
            Ended::Told => return Ok(()),
            Ended::Server(outcome) => {
                let why = outcome.err().map_or_else(|| "without a reason".into(), |error| error.to_string());
                return Err(Fault::internal(format!("the registration server ended: {why}")));
            }
            Ended::Refused(why) => {
                tracing::warn!(%why, "the kubelet does not take this driver; it is asked again");
            }
        }
        tokio::select! {
            () = &mut stop => return Ok(()),
            () = tokio::time::sleep(AGAIN_AFTER) => {}
        }
    }
}

enum Ended {
    Told,
    Server(Result<(), tonic::transport::Error>),
    Refused(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::registration::registration_client::RegistrationClient;
    use hyper_util::rt::TokioIo;
    use tokio::net::UnixStream;
    use tokio::sync::oneshot;
    use tonic::codegen::http::Uri;
    use tonic::transport::Endpoint;

    const PATIENCE: Duration = Duration::from_secs(20);

    async fn appears(path: &Path) {
        let there = async {
            while !path.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, there).await.unwrap();
    }

    /// `:authority` as the kubelet sends it for this socket.
    fn authority(socket: &Path) -> String {
        socket.display().to_string().replace('/', "%2F")
    }

    #[test]
    fn the_kubelets_authority_is_one_that_our_library_accepts() {
        use tonic::codegen::http::uri::Authority;
        let ours = KubeletPaths::under(Path::new("/var/lib/kubelet")).registration;
        assert!(authority(&ours).parse::<Authority>().is_ok(), "{}", authority(&ours));
        let usual = ours.with_file_name("csi.stillpoint.dev-reg.sock");
        assert!(authority(&usual).parse::<Authority>().is_err(), "then the usual name would do");
    }

    #[tokio::test]
    async fn the_kubelet_learns_who_we_are_and_a_refusal_is_followed_by_another_try() {
        let kubelet = tempfile::tempdir().unwrap();
        let paths = KubeletPaths::under(kubelet.path());
        paths.make_directories().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(stay_registered(paths.clone(), async { drop(stopped.await) }));
        appears(&paths.registration).await;
        let names: Vec<_> =
            fs::read_dir(kubelet.path().join("plugins_registry")).unwrap().flatten().collect();
        assert_eq!(names.len(), 1, "the kubelet would try everything else that lies there: {names:?}");
        let socket = paths.registration.clone();
        let connect = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
        });
        let as_the_kubelet = format!("http://{}", authority(&paths.registration));
        let channel =
            Endpoint::from_shared(as_the_kubelet).unwrap().connect_with_connector(connect).await.unwrap();
        let mut client = RegistrationClient::new(channel);
        let info = client.get_info(InfoRequest {}).await.unwrap().into_inner();
        assert_eq!((info.r#type.as_str(), info.name.as_str()), ("CSIPlugin", "csi.stillpoint.dev"));
        assert_eq!(
            info.endpoint,
            kubelet.path().join("plugins/csi.stillpoint.dev/csi.sock").display().to_string()
        );
        assert_eq!(info.supported_versions, ["1.0.0"]);
        let tell =
            |plugin_registered, error: &str| RegistrationStatus { plugin_registered, error: error.into() };
        client.notify_registration_status(tell(true, "")).await.unwrap();
        client.notify_registration_status(tell(false, "no such node")).await.unwrap();
        let gone = async {
            while paths.registration.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.unwrap();
        appears(&paths.registration).await;
        stop.send(()).unwrap();
        tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap().unwrap();
        assert!(!paths.registration.exists(), "the kubelet forgets a driver whose socket is gone");
    }
}
