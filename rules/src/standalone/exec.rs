//! Commands as child processes.

use std::process::Stdio;

use async_trait::async_trait;
use tokio::time::timeout;

use crate::ports::{
    ExecError, ExecOutcome, ExecRequest, HttpOutcome, HttpRequest, PodExec, PodTarget, Session,
    SessionRequest,
};

use super::inventory::{PodDefinition, StandalonePods};
use super::process::{End, Process, exit_code, run_to_end};
use super::session;
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
    let mut process = Process::start(definition, &request.argv, &request.env, Stdio::null)
        .await
        .map_err(|why| ExecError::NotStarted { pod: pod.clone(), why })?;
    let (mut out, mut err) = (Output::new(request.output_limit), Output::new(request.output_limit));
    let ended = timeout(request.timeout, run_to_end(&mut process, &mut out, &mut err)).await;
    match ended {
        Ok(Ok(status)) => {
            process.leave();
            let (output, omitted_bytes) = join(out, err);
            Ok(ExecOutcome { exit_code: exit_code(status), output, omitted_bytes })
        }
        Ok(Err(error)) => Err(ExecError::Lost { pod, why: error.to_string() }),
        Err(_) => {
            let still_running = process.terminate().await == End::Unverified;
            let (output, _) = join(out, err);
            Err(ExecError::TimedOut { pod, limit: request.timeout, still_running, output })
        }
    }
}
