//! The operator's API over gRPC: parse, call, answer.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::controller::moves::Relocated;
use crate::controller::transfers::Transfer;
use crate::domain::Fault;
use crate::observe::request::carried;
use crate::proto::operator::operator_server::Operator as OperatorApi;
use crate::proto::operator::{
    CancelCopyRequest, CancelCopyResponse, CancelRequest, CancelResponse, CutDetail, CutSummary,
    DeleteCutRequest, DeleteCutResponse, DismissPoolRequest, DismissPoolResponse, GetCutRequest,
    ListCutsRequest, ListCutsResponse, ListOverdueRequest, ListOverdueResponse, ListSchedulesRequest,
    ListSchedulesResponse, ListVolumesRequest, ListVolumesResponse, MoveRequest, MoveResponse, PlanResponse,
    PlanScheduleRequest, PlanScheduleResponse, RestoreRequest, RestoreResponse, ScheduleRequest,
    ScheduleResponse, SnapshotProgress, SnapshotRequest, list_volumes_response, restore_response,
};
use crate::wire::convert::Side;
use crate::wire::status_of;

use super::operator::{CutAndRun, InOrder, Operator, Origin, SnapshotOrder};
use super::schedules::Schedules;
use super::selection::Wanted;
use super::storage::PlacedVolume;

/// Progress lines that wait for a slow reader; more are dropped.
const LINES: usize = 256;
/// Most due instants in a plan: what a person reads.
const PLANNED: u32 = 100;

/// The service.
pub struct Service {
    operator: Arc<Operator>,
    schedules: Schedules,
}

impl Service {
    /// Over these use cases.
    pub fn new(operator: Arc<Operator>, schedules: Schedules) -> Self {
        Self { operator, schedules }
    }
}

#[tonic::async_trait]
impl OperatorApi for Service {
    type SnapshotStream = Progress;
    type RunScheduleStream = Progress;

    async fn plan(&self, request: Request<SnapshotRequest>) -> Result<Response<PlanResponse>, Status> {
        let plan = self.operator.plan(order(request.into_inner())?).await.map_err(status_of)?;
        let json = to_json(&plan).map_err(status_of)?;
        Ok(Response::new(PlanResponse { json, text: plan.to_string() }))
    }

    /// The run goes on when the caller goes away: it must come to its end, and its cut may be what was wanted.
    async fn snapshot(
        &self,
        request: Request<SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let order = order(request.into_inner())?;
        let operator = Arc::clone(&self.operator);
        Ok(followed(move |lines| async move { taken(&operator, order, lines).await }))
    }

    async fn list_cuts(&self, _: Request<ListCutsRequest>) -> Result<Response<ListCutsResponse>, Status> {
        let cuts = self.operator.cuts().await.map_err(status_of)?;
        Ok(Response::new(ListCutsResponse { cuts: cuts.iter().map(summary).collect() }))
    }

    async fn get_cut(&self, request: Request<GetCutRequest>) -> Result<Response<CutDetail>, Status> {
        let cut = self.operator.cut(&request.into_inner().id_or_name).await.map_err(status_of)?;
        Ok(Response::new(detail(&cut).map_err(status_of)?))
    }

    async fn delete_cut(
        &self,
        request: Request<DeleteCutRequest>,
    ) -> Result<Response<DeleteCutResponse>, Status> {
        let id = self.operator.delete(&request.into_inner().id_or_name).await.map_err(status_of)?;
        Ok(Response::new(DeleteCutResponse { id: id.to_string() }))
    }

    async fn restore(&self, request: Request<RestoreRequest>) -> Result<Response<RestoreResponse>, Status> {
        let RestoreRequest { id_or_name, prefix, only, to_host } = request.into_inner();
        let to = (!to_host.is_empty()).then(|| Side::Caller.parse("to_host", &to_host)).transpose();
        let to = to.map_err(status_of)?;
        let restored = self.operator.restore(&id_or_name, &prefix, &only, to.as_ref()).await;
        let restored = restored.map_err(status_of)?;
        let volumes = restored.into_iter().map(|restored| restore_response::Restored {
            from_volume: restored.member.volume_name,
            name: restored.volume.name().to_owned(),
            volume_id: restored.volume.id().to_string(),
            host: restored.volume.host.to_string(),
            from_snapshot: restored.member.snapshot.to_string(),
            taken_at: restored.taken_at.to_string(),
            made_at: restored.volume.info.record.created_at.to_string(),
            existed: restored.origin == Origin::Found,
        });
        Ok(Response::new(RestoreResponse { volumes: volumes.collect() }))
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Result<Response<CancelResponse>, Status> {
        self.operator.cancel(&request.into_inner().name).map_err(status_of)?;
        Ok(Response::new(CancelResponse {}))
    }

    /// The caller that goes away ends the copy, and a repetition goes on with it.
    async fn r#move(&self, request: Request<MoveRequest>) -> Result<Response<MoveResponse>, Status> {
        let MoveRequest { volume, to_host } = request.into_inner();
        let to = Side::Caller.parse("to_host", &to_host).map_err(status_of)?;
        let Relocated { placed, from } = self.operator.relocate(&volume, &to).await.map_err(status_of)?;
        Ok(Response::new(MoveResponse {
            volume_id: placed.id().to_string(),
            name: placed.info.record.name.clone(),
            host: placed.host.to_string(),
            from_host: from.map(|host| host.to_string()).unwrap_or_default(),
        }))
    }

    async fn dismiss_pool(
        &self,
        request: Request<DismissPoolRequest>,
    ) -> Result<Response<DismissPoolResponse>, Status> {
        let pool = Side::Caller.parse("pool", &request.into_inner().pool).map_err(status_of)?;
        self.operator.dismiss_pool(&pool).await.map_err(status_of)?;
        Ok(Response::new(DismissPoolResponse {}))
    }

    async fn cancel_copy(
        &self,
        request: Request<CancelCopyRequest>,
    ) -> Result<Response<CancelCopyResponse>, Status> {
        let hosts = self.operator.cancel_copy(&request.into_inner().volume).await.map_err(status_of)?;
        Ok(Response::new(CancelCopyResponse { hosts: hosts.iter().map(ToString::to_string).collect() }))
    }

    async fn list_overdue(
        &self,
        _: Request<ListOverdueRequest>,
    ) -> Result<Response<ListOverdueResponse>, Status> {
        let runs = self.operator.overdue();
        let run_json = runs.iter().map(to_json).collect::<Result<_, Fault>>().map_err(status_of)?;
        Ok(Response::new(ListOverdueResponse { run_json }))
    }

    async fn list_schedules(
        &self,
        _: Request<ListSchedulesRequest>,
    ) -> Result<Response<ListSchedulesResponse>, Status> {
        let overview = self.schedules.overview().await.map_err(status_of)?;
        let overview_json = to_json(&overview).map_err(status_of)?;
        Ok(Response::new(ListSchedulesResponse { overview_json }))
    }

    async fn plan_schedule(
        &self,
        request: Request<PlanScheduleRequest>,
    ) -> Result<Response<PlanScheduleResponse>, Status> {
        let PlanScheduleRequest { name, count } = request.into_inner();
        if count > PLANNED {
            let fault =
                Fault::invalid(format!("{count} due instants are more than the {PLANNED} that are shown"));
            return Err(status_of(fault));
        }
        let count = usize::try_from(count).unwrap_or_default();
        let plan = self.schedules.plan(&name, count).await.map_err(status_of)?;
        Ok(Response::new(PlanScheduleResponse { plan_json: to_json(&plan).map_err(status_of)? }))
    }

    async fn suspend_schedule(
        &self,
        request: Request<ScheduleRequest>,
    ) -> Result<Response<ScheduleResponse>, Status> {
        self.schedules.suspend(&request.into_inner().name).await.map_err(status_of)?;
        Ok(Response::new(ScheduleResponse {}))
    }

    async fn resume_schedule(
        &self,
        request: Request<ScheduleRequest>,
    ) -> Result<Response<ScheduleResponse>, Status> {
        self.schedules.resume(&request.into_inner().name).await.map_err(status_of)?;
        Ok(Response::new(ScheduleResponse {}))
    }

    /// The run goes on when the caller goes away, as any run of a schedule.
    async fn run_schedule(
        &self,
        request: Request<ScheduleRequest>,
    ) -> Result<Response<Self::RunScheduleStream>, Status> {
        let schedules = self.schedules.clone();
        let name = request.into_inner().name;
        Ok(followed(move |lines| async move {
            schedules.run_now(&name, lines).await.and_then(|cut| detail(&cut))
        }))
    }

    async fn list_volumes(
        &self,
        _: Request<ListVolumesRequest>,
    ) -> Result<Response<ListVolumesResponse>, Status> {
        let volumes = self.operator.volumes().await;
        Ok(Response::new(ListVolumesResponse {
            volumes: volumes.all.iter().map(volume).collect(),
            silent: volumes.silent.into_iter().map(|fault| fault.message).collect(),
            transfers: self.operator.transfers().iter().map(transfer).collect(),
        }))
    }
}

/// Lines, then what was made.
type Progress = ReceiverStream<Result<SnapshotProgress, Status>>;

/// Does it in a task of its own and tells how it goes.
fn followed<F>(work: impl FnOnce(mpsc::Sender<String>) -> F) -> Response<Progress>
where
    F: Future<Output = Result<CutDetail, Fault>> + Send + 'static,
{
    let (answers, stream) = mpsc::channel(LINES);
    let (lines, mut told) = mpsc::channel::<String>(LINES);
    let work = work(lines);
    tokio::spawn(carried(async move {
        let forward = async {
            while let Some(line) = told.recv().await {
                // Nobody listens any more: go on.
                let _ = answers.try_send(Ok(SnapshotProgress { line, done: None }));
            }
        };
        let (outcome, ()) = tokio::join!(work, forward);
        let last = outcome.map_err(status_of);
        let last = last.map(|done| SnapshotProgress { line: String::new(), done: Some(done) });
        let _ = answers.send(last).await;
    }));
    Response::new(ReceiverStream::new(stream))
}

fn order(request: SnapshotRequest) -> Result<SnapshotOrder, Status> {
    if request.without_barrier && !cfg!(feature = "test-switches") {
        return Err(status_of(Fault::invalid(
            "cannot take volumes one after another: this build of the controller always quiesces all of them together; \
             leave the test switch out, or build with the feature test-switches",
        )));
    }
    Ok(SnapshotOrder {
        name: request.name,
        wanted: Wanted { selectors: request.selectors, volumes: request.volumes },
        rule: request.rule_yaml,
        namespaces: request.namespaces,
        params: request.params.into_iter().collect(),
        rehearsal: request.rehearsal,
        order: if request.without_barrier { InOrder::OneAfterAnother } else { InOrder::Together },
        budget: None,
    })
}

async fn taken(
    operator: &Operator,
    order: SnapshotOrder,
    lines: mpsc::Sender<String>,
) -> Result<CutDetail, Fault> {
    if order.rehearsal {
        let run = operator.rehearse(order, lines).await?;
        return Ok(CutDetail { run_json: to_json(&run)?, ..CutDetail::default() });
    }
    operator.snapshot(order, lines).await.and_then(|cut| detail(&cut))
}

fn detail(cut: &CutAndRun) -> Result<CutDetail, Fault> {
    Ok(CutDetail {
        summary: Some(summary(cut)),
        record_json: to_json(&cut.record)?,
        run_json: cut.run.as_ref().map(to_json).transpose()?.unwrap_or_default(),
    })
}

fn summary(cut: &CutAndRun) -> CutSummary {
    let record = &cut.record;
    let hosts: BTreeSet<_> = record.members.iter().map(|member| &member.host).collect();
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    CutSummary {
        id: record.handle().to_string(),
        name: record.name.clone(),
        level: record.level.to_string(),
        cut_at: record.cut_at.to_string(),
        members: count(record.members.len()),
        hosts: count(hosts.len()),
        window_us: record.timeline.as_ref().map_or(0, |timeline| timeline.window_us),
        skew_us: record.timeline.as_ref().map_or(0, |timeline| timeline.skew_us),
        verdict: cut.run.as_ref().map(|run| run.verdict().to_owned()).unwrap_or_default(),
    }
}

fn volume(volume: &PlacedVolume) -> list_volumes_response::Volume {
    use crate::domain::record::Source;

    let record = &volume.info.record;
    list_volumes_response::Volume {
        id: record.known_as().to_string(),
        name: record.name.clone(),
        host: volume.host.to_string(),
        pool: record.id.pool.to_string(),
        capacity_bytes: record.capacity.0,
        allocated_bytes: volume.info.allocated.0,
        filesystem: record.filesystem.map(|filesystem| filesystem.to_string()).unwrap_or_default(),
        published_at: volume
            .info
            .published_at
            .as_ref()
            .map(|path| path.display().to_string())
            .unwrap_or_default(),
        conditions: volume.info.conditions.iter().map(ToString::to_string).collect(),
        source: match &record.source {
            None => String::new(),
            Some(Source::Snapshot(id)) => id.to_string(),
            Some(Source::Volume(id)) => id.to_string(),
        },
    }
}

fn transfer(transfer: &Transfer) -> list_volumes_response::Transfer {
    list_volumes_response::Transfer {
        volume_id: transfer.volume.to_string(),
        name: transfer.name.clone(),
        from_host: transfer.from.to_string(),
        to_host: transfer.to.to_string(),
        done_bytes: transfer.done.0,
        total_bytes: transfer.total.0,
        began_at: transfer.began_at.to_string(),
    }
}

fn to_json(value: &impl serde::Serialize) -> Result<String, Fault> {
    serde_json::to_string(value).map_err(|error| Fault::internal(format!("cannot write JSON: {error}")))
}
