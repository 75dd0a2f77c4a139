//! Requests to a pod's own address, and secrets of its namespace.

use async_trait::async_trait;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::{Pod as ApiPod, Secret};
use kube::api::{Api, PostParams};
use tokio::time::{Instant, timeout_at};

use crate::api::SecretRef;
use crate::ports::{ExecError, HttpOutcome, HttpRequest, SecretError, Secrets};
use crate::redact::secret_text;

use super::error::{Forbidden, chain, status_code};
use super::inventory::KubePods;
use super::stream::{check, pod_name};

/// Asks the very pod that was planned for. Whoever may not run commands in a namespace may not send requests to its
/// pods either: the author of a Rule gains nothing by writing the one instead of the other.
pub(super) async fn call(pods: &KubePods, mut request: HttpRequest) -> Result<HttpOutcome, ExecError> {
    let pod = pod_name(&request.target);
    let deadline = Instant::now() + request.timeout;
    let address =
        timeout_at(deadline, address(pods, &request)).await.map_err(|_| ExecError::NotStarted {
            pod: pod.clone(),
            why: "the API server did not tell its address in time".to_owned(),
        })??;
    request.timeout = deadline.saturating_duration_since(Instant::now());
    crate::http::call(&address, &request).await
}

async fn address(pods: &KubePods, request: &HttpRequest) -> Result<String, ExecError> {
    let target = &request.target;
    let not_started = |why: String| ExecError::NotStarted { pod: pod_name(target), why };
    let failed = |error: kube::Error| not_started(chain(&error));
    if !may_exec(pods, &target.namespace).await.map_err(failed)? {
        return Err(not_started(Forbidden::exec(&target.namespace).to_string()));
    }
    let api: Api<ApiPod> = Api::namespaced(pods.client.clone(), &target.namespace);
    let found = api.get_opt(&target.pod).await.map_err(failed)?;
    check(target, found.clone())?;
    let found = found.unwrap_or_default();
    if found.spec.as_ref().and_then(|spec| spec.host_network) == Some(true) {
        return Err(not_started(
            "it uses the network of its node, so its address is the node's; use a command instead of `http`"
                .to_owned(),
        ));
    }
    found
        .status
        .and_then(|status| status.pod_ip)
        .ok_or_else(|| not_started("it has no address yet; wait until it runs".to_owned()))
}

async fn may_exec(pods: &KubePods, namespace: &str) -> Result<bool, kube::Error> {
    let question = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                namespace: Some(namespace.to_owned()),
                verb: Some("create".to_owned()),
                resource: Some("pods".to_owned()),
                subresource: Some("exec".to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let api: Api<SelfSubjectAccessReview> = Api::all(pods.client.clone());
    let answer = api.create(&PostParams::default(), &question).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

#[async_trait]
impl Secrets for KubePods {
    async fn read(&self, namespace: &str, secret: &SecretRef) -> Result<String, SecretError> {
        let fail = |why: String| SecretError::of(namespace, secret, why);
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let found = api.get(&secret.name).await.map_err(|error| match status_code(&error) {
            Some(403) => fail(Forbidden::secrets(namespace).to_string()),
            Some(404) => fail("there is no such Secret; make it".to_owned()),
            Some(_) | None => fail(chain(&error)),
        })?;
        let value = found.data.unwrap_or_default().remove(&secret.key);
        let value = value.ok_or_else(|| fail("the Secret has no such key; correct `key`".to_owned()))?;
        secret_text(value.0).map_err(fail)
    }
}
