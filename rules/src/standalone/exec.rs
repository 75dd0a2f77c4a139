//! Commands as child processes.

use std::process::Stdio;

use async_trait::async_trait;
use tokio::time::timeout;

use crate::ports::{
    ExecError, ExecOutcome, ExecRequest, HttpOutcome, HttpRequest, Mark, PodExec, PodTarget, Session,
    SessionRequest,
};

use super::inventory::{PodDefinition, StandalonePods};
use super::process::{End, Process, Start, exit_code, run_to_end};
use super::supervisor::Orphaned;
use super::{leftovers, session};
use crate::output::{Output, join};

#[async_trait]
impl PodExec for StandalonePods {
    async fn exec(&self, request: ExecRequest) -> Result<ExecOutcome, ExecError> {
        let definition = self.planned(&request.target).await?;
        run(&definition, request).await
    }

    async fn session(&self, request: SessionRequest) -> Result<Box<dyn Session>, ExecError> {
        let definition = self.planned(&request.target).await?;
        Ok(Box::new(session::open(&definition, request).await?))
    }

    async fn http(&self, request: HttpRequest) -> Result<HttpOutcome, ExecError> {
        let definition = self.planned(&request.target).await?;
        let Some(address) = &definition.address else {
            return Err(ExecError::NotStarted {
                pod: pod_name(&request.target),
                why: "the inventory gives it no `address`; add the one at which it answers".to_owned(),
            });
        };
        crate::http::call(address, &request).await
    }

    async fn end(&self, target: &PodTarget, mark: Mark) -> Result<(), ExecError> {
        let pod = pod_name(target);
        let definitions =
            self.definitions().await.map_err(|why| ExecError::Lost { pod: pod.clone(), why })?;
        let found = definitions.iter().find(|d| d.namespace == target.namespace && d.name == target.pod);
        // Also where the definition has changed or is gone: what it started runs on this machine.
        leftovers::end_of(found, mark).await.map_err(|why| ExecError::Lost { pod, why })
    }
}

impl StandalonePods {
    /// The definition, if it still is the one that was planned for.
    async fn planned(&self, target: &PodTarget) -> Result<PodDefinition, ExecError> {
        let pod = pod_name(target);
        let all = self.definitions().await.map_err(|why| ExecError::NotStarted { pod: pod.clone(), why })?;
        let found = all.iter().find(|d| d.namespace == target.namespace && d.name == target.pod);
        match found {
            None => Err(ExecError::PodChanged { pod, why: "it is no longer in the inventory".to_owned() }),
            Some(definition) if definition.uid() != target.uid => {
                let why = "its definition in the inventory has changed since".to_owned();
                Err(ExecError::PodChanged { pod, why })
            }
            Some(definition) => Ok(definition.clone()),
        }
    }
}

pub(super) fn pod_name(target: &PodTarget) -> String {
    format!("{}/{}", target.namespace, target.pod)
}

async fn run(definition: &PodDefinition, request: ExecRequest) -> Result<ExecOutcome, ExecError> {
    let pod = pod_name(&request.target);
    let (env, mark) = (request.env.as_slice(), request.mark);
    let start = Start { env, mark, orphaned: Orphaned::End, stdin: Stdio::null };
    let mut process = Process::start(definition, &request.argv, start)
        .await
        .map_err(|why| ExecError::NotStarted { pod: pod.clone(), why })?;
    let (mut out, mut err) = (Output::new(request.output_limit), Output::new(request.output_limit));
    let ended = timeout(request.timeout, run_to_end(&mut process, &mut out, &mut err)).await;
    let lost = |why| ExecError::Lost { pod: pod.clone(), why };
    match ended {
        Ok(Ok(status)) => {
            let exit_code = exit_code(status).map_err(lost)?;
            let (output, omitted_bytes) = join(out, err);
            Ok(ExecOutcome { exit_code, output, omitted_bytes })
        }
        Ok(Err(error)) => Err(lost(error.to_string())),
        Err(_) => {
            let ended = process.terminate().await;
            let still_running = ended == End::Unverified || leftovers::end(definition, mark).await.is_err();
            let (output, _) = join(out, err);
            Err(ExecError::TimedOut { pod, limit: request.timeout, still_running, output })
        }
    }
}
