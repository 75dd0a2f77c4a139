//! Volumes that go to another host for good and keep their id, for the controller (`controller::moves` has the flow): the
//! use cases of one host, and their gRPC in front.

use tonic::Request;

use super::local::LocalHost;
use super::locks::Purpose;
use super::service::{Answer, Service, parse};
use crate::domain::record::{MoveRecord, MoveState};
use crate::domain::{Bytes, Departure, Fault, Move, NameHash, PoolId, VolumeId, VolumeInfo, Waiting};
use crate::proto::agent::{self as proto, moves_server};
use crate::wire::convert;

impl LocalHost {
    /// Begins a move, or finds the one that was begun. A volume in use is refused.
    pub fn begin_move(&self, id: &VolumeId, to: &VolumeId) -> Result<Move, Fault> {
        let pool = self.pools().get(&id.pool)?;
        let _guard = self.locks.try_lock(id, Purpose::Move)?;
        // A device that a crash left between attach and mount would make the pool refuse for ever.
        self.node.drop_leftovers(id)?;
        if let Some(path) = self.volume(id)?.published_at {
            return Err(Fault::precondition(format!(
                "volume {id} is in use on this host, staged at {}; stop what uses it and unstage it, then move it",
                path.display()
            )));
        }
        let record = pool.begin_move(id, to)?;
        Ok(self.describe_move(record))
    }

    /// The commit point of a move.
    pub fn leave(&self, id: &VolumeId, to: &VolumeId, content: &str) -> Result<(), Fault> {
        let pool = self.pools().get(&id.pool)?;
        let _guard = self.locks.try_lock(id, Purpose::Move)?;
        Ok(pool.leave(id, to, content)?)
    }

    /// Makes the volume of what has arrived of it.
    pub fn adopt(&self, id: &VolumeId, content: &str) -> Result<VolumeInfo, Fault> {
        let pool = self.pools().get(&id.pool)?;
        let _guard = self.locks.try_lock(id, Purpose::Create)?;
        pool.adopt(id, content)?;
        self.volume(id)
    }

    /// Removes what is left of a volume that has left.
    pub fn finish_move(&self, id: &VolumeId) -> Result<(), Fault> {
        let pool = self.pools().get(&id.pool)?;
        let _guard = self.locks.try_lock(id, Purpose::Delete)?;
        Ok(pool.finish_move(id)?)
    }

    /// Ends a move before its commit point.
    pub fn stay(&self, id: &VolumeId) -> Result<(), Fault> {
        let pool = self.pools().get(&id.pool)?;
        let _guard = self.locks.try_lock(id, Purpose::Move)?;
        Ok(pool.stay(id)?)
    }

    /// Removes what has arrived of a volume of this name; says whether there was something.
    pub fn abandon(&self, pool: &PoolId, name: &NameHash, content: Option<&str>) -> Result<bool, Fault> {
        let pool = self.pools().get(pool)?;
        let Some(id) = pool.part_named(name)? else { return Ok(false) };
        let _guard = self.locks.try_lock(&id, Purpose::Create)?;
        Ok(pool.abandon(&id, content)?)
    }

    /// Moves that are not settled: those that go from here, and what waits here.
    pub fn moves(&self) -> Result<(Vec<Move>, Vec<Waiting>), Fault> {
        let (mut moves, mut waiting) = (Vec::new(), Vec::new());
        for pool in self.pools().iter() {
            moves.extend(pool.moves().into_iter().map(|record| self.describe_move(record)));
            waiting.extend(pool.waiting()?);
        }
        Ok((moves, waiting))
    }

    /// A volume that is not here any more, and where it went.
    pub(super) fn departed(&self, id: &VolumeId) -> Option<VolumeInfo> {
        let record = self.pools().get(&id.pool).ok()?.departed(id)?;
        Some(self.describe_move(record).volume)
    }

    fn describe_move(&self, record: MoveRecord) -> Move {
        let has_left = record.state != MoveState::Leaving;
        let is_settled = record.state == MoveState::Gone;
        let backend = self.pools().get(&record.volume.id.pool).map(|pool| pool.kind().to_string());
        let volume = VolumeInfo {
            backend: backend.unwrap_or_default(),
            allocated: Bytes(0),
            published_at: None,
            conditions: vec![],
            moved: has_left.then(|| Departure { to: record.to.clone(), is_settled }),
            record: record.volume,
        };
        Move { volume, to: record.to, content: record.content, has_left }
    }
}

#[async_trait::async_trait]
impl moves_server::Moves for Service {
    async fn begin(&self, request: Request<proto::BeginMoveRequest>) -> Answer<proto::BeginMoveResponse> {
        let request = request.into_inner();
        let (id, to) = (parse("volume_id", &request.volume_id)?, parse("to", &request.to)?);
        self.call(move |local| {
            let begun = local.begin_move(&id, &to)?;
            Ok(proto::BeginMoveResponse { r#move: Some(convert::move_to_proto(&begun)) })
        })
        .await
    }

    async fn leave(&self, request: Request<proto::LeaveRequest>) -> Answer<proto::LeaveResponse> {
        let request = request.into_inner();
        let (id, to) = (parse("volume_id", &request.volume_id)?, parse("to", &request.to)?);
        self.call(move |local| local.leave(&id, &to, &request.content).map(|()| proto::LeaveResponse {}))
            .await
    }

    async fn adopt(&self, request: Request<proto::AdoptRequest>) -> Answer<proto::Volume> {
        let request = request.into_inner();
        let id = parse("volume_id", &request.volume_id)?;
        self.call(move |local| Ok(convert::volume_to_proto(&local.adopt(&id, &request.content)?))).await
    }

    async fn finish(&self, request: Request<proto::FinishMoveRequest>) -> Answer<proto::FinishMoveResponse> {
        let id = parse("volume_id", &request.into_inner().volume_id)?;
        self.call(move |local| local.finish_move(&id).map(|()| proto::FinishMoveResponse {})).await
    }

    async fn stay(&self, request: Request<proto::StayRequest>) -> Answer<proto::StayResponse> {
        let id = parse("volume_id", &request.into_inner().volume_id)?;
        self.call(move |local| local.stay(&id).map(|()| proto::StayResponse {})).await
    }

    async fn abandon(&self, request: Request<proto::AbandonRequest>) -> Answer<proto::AbandonResponse> {
        let request = request.into_inner();
        let (pool, name) = (parse("pool_id", &request.pool_id)?, parse("name_hash", &request.name_hash)?);
        let content = (!request.content.is_empty()).then_some(request.content);
        self.call(move |local| {
            let was_there = local.abandon(&pool, &name, content.as_deref())?;
            Ok(proto::AbandonResponse { was_there })
        })
        .await
    }

    async fn list_moves(&self, _: Request<proto::ListMovesRequest>) -> Answer<proto::ListMovesResponse> {
        self.call(|local| {
            let (moves, waiting) = local.moves()?;
            Ok(proto::ListMovesResponse {
                moves: moves.iter().map(convert::move_to_proto).collect(),
                waiting: waiting.iter().map(convert::waiting_to_proto).collect(),
            })
        })
        .await
    }
}

#[cfg(test)]
mod tests;
