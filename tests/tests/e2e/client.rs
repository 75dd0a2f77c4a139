//! The API server by its own client instead of kubectl, for code of ours that speaks to it.

use std::future::Future;

use kube::config::{KubeConfigOptions, Kubeconfig};
use stillpoint_tests::cluster::workspace::Workspace;

/// Runs a future on this thread, which is in the control plane's network.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// As the administrator.
pub async fn connect(space: &Workspace) -> kube::Client {
    let file = Kubeconfig::read_from(space.layout().kubeconfig()).unwrap();
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
    kube::Client::try_from(config).unwrap()
}
