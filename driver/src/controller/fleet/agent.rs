//! One agent, as the controller sees it: typed calls of the agent API.

use std::future::Future;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Response, Status, Streaming};

use super::Homes;
use crate::domain::blocks::WalkOrder;
use crate::domain::listing::{CutFilter, PIECE_LIMIT, Piece, Slice, SnapshotEntry};
use crate::domain::record::CutRecord;
use crate::domain::{
    Bytes, Code, CutId, CutKind, Fault, HostInfo, HostName, Incarnation, Move, NameHash, NewVolume, PoolId,
    SnapshotId, VolumeId, VolumeInfo, Waiting,
};
use crate::observe::request::{Carrier, carrier};
use crate::proto::agent::agent_client::AgentClient;
use crate::proto::agent::blocks_client::BlocksClient;
use crate::proto::agent::moves_client::MovesClient;
use crate::proto::agent::{self as proto, RoundOrder, RoundReport};
use crate::wire::{convert, fault_of};

/// Looking something up.
const LOOK_LIMIT: Duration = Duration::from_secs(5);
/// Making or removing something: `mkfs` of a large image on a slow disk.
const CHANGE_LIMIT: Duration = Duration::from_mins(1);
/// A piece of a list fits, also of cuts with a thousand members each; a larger answer is an error, not an out-of-memory.
const ANSWER_LIMIT_BYTES: usize = 64 << 20;

/// What an agent keeps for another to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Granting {
    /// A snapshot.
    Snapshot(SnapshotId),
    /// A volume whose move has begun.
    Leaving(VolumeId),
}

/// One agent. Cheap to clone. Every fault starts with `host <name>: `.
#[derive(Debug, Clone)]
pub struct Agent {
    host: HostName,
    client: AgentClient<Carrier>,
    blocks: BlocksClient<Carrier>,
    moves: MovesClient<Carrier>,
    homes: Homes,
}

impl Agent {
    pub(super) fn new(host: HostName, channel: Channel, homes: Homes) -> Self {
        let channel = carrier(channel);
        let blocks = BlocksClient::new(channel.clone());
        let moves = MovesClient::new(channel.clone());
        let client = AgentClient::new(channel).max_decoding_message_size(ANSWER_LIMIT_BYTES);
        Self { host, client, blocks, moves, homes }
    }

    /// Its host.
    pub fn host(&self) -> &HostName {
        &self.host
    }

    /// What the host is and has.
    pub async fn describe(&self) -> Result<HostInfo, Fault> {
        let mut client = self.client.clone();
        let answer = self.ask(LOOK_LIMIT, client.describe(proto::DescribeRequest {})).await?;
        let info = self.read(convert::host_from_proto(answer))?;
        if info.host == self.host {
            Ok(info)
        } else {
            let why = format!(
                "its agent calls itself {}; correct the host in one of the two configurations",
                info.host
            );
            Err(self.named(Fault::internal(why)))
        }
    }

    /// Makes a volume, or finds the one that was made before.
    pub async fn create_volume(&self, volume: &NewVolume) -> Result<VolumeInfo, Fault> {
        let mut client = self.client.clone();
        let request = convert::new_volume_to_proto(volume);
        let answer = self.ask(CHANGE_LIMIT, client.create_volume(request)).await?;
        self.read(convert::volume_from_proto(answer))
    }

    /// Removes a volume; one that is not there is fine.
    pub async fn delete_volume(&self, id: &VolumeId) -> Result<(), Fault> {
        let mut client = self.client.clone();
        let request = proto::DeleteVolumeRequest { id: id.to_string() };
        self.ask(CHANGE_LIMIT, client.delete_volume(request)).await.map(drop)
    }

    /// One volume, by its id in a pool of this host, or where it went; NOT_FOUND when it does not exist. See
    /// [`Fleet::locate`](super::Fleet::locate) for the ids that orchestrators know.
    pub async fn volume(&self, id: &VolumeId) -> Result<VolumeInfo, Fault> {
        self.get_volume(proto::get_volume_request::By::Id(id.to_string())).await
    }

    /// The volume whose name has this hash, on any pool of the host.
    pub async fn find_volume(&self, name: &NameHash) -> Result<Option<VolumeInfo>, Fault> {
        optional(self.get_volume(proto::get_volume_request::By::NameHash(name.to_string())).await)
    }

    async fn get_volume(&self, by: proto::get_volume_request::By) -> Result<VolumeInfo, Fault> {
        let mut client = self.client.clone();
        let request = proto::GetVolumeRequest { by: Some(by) };
        let answer = self.ask(LOOK_LIMIT, client.get_volume(request)).await?;
        self.read(convert::volume_from_proto(answer))
    }

    /// Volumes of all pools of the host, sorted by id.
    pub async fn volumes_in(&self, slice: &Slice<VolumeId>) -> Result<Piece<VolumeInfo>, Fault> {
        let mut client = self.client.clone();
        let request = proto::ListVolumesRequest { slice: Some(convert::slice_to_proto(slice)) };
        let answer = self.ask(LOOK_LIMIT, client.list_volumes(request)).await?;
        let entries = answer.volumes.into_iter().map(convert::volume_from_proto).collect();
        Ok(Piece { entries: self.read(entries)?, more: answer.more })
    }

    /// All volumes of all pools of the host, sorted by id.
    pub async fn volumes(&self) -> Result<Vec<VolumeInfo>, Fault> {
        let mut slice = Slice { after: None, limit: PIECE_LIMIT };
        let mut all = Vec::new();
        loop {
            let piece = self.volumes_in(&slice).await?;
            all.extend(piece.entries);
            if !piece.more {
                return Ok(all);
            }
            slice.after = all.last().map(|volume: &VolumeInfo| volume.record.id.clone());
        }
    }

    /// Members, on whatever host, of the sealed cuts whose home pool is on this one, sorted by id.
    pub async fn snapshots_in(
        &self,
        slice: &Slice<SnapshotId>,
        of: Option<&VolumeId>,
    ) -> Result<Piece<SnapshotEntry>, Fault> {
        let mut client = self.client.clone();
        let request = proto::ListSnapshotsRequest {
            slice: Some(convert::slice_to_proto(slice)),
            volume_id: of.map(ToString::to_string).unwrap_or_default(),
        };
        let answer = self.ask(LOOK_LIMIT, client.list_snapshots(request)).await?;
        let entries = answer.snapshots.into_iter().map(convert::snapshot_from_proto).collect();
        Ok(Piece { entries: self.read(entries)?, more: answer.more })
    }

    /// Makes a volume at least this large.
    pub async fn expand_volume(&self, id: &VolumeId, capacity: Bytes) -> Result<VolumeInfo, Fault> {
        let mut client = self.client.clone();
        let request = proto::ExpandVolumeRequest { id: id.to_string(), capacity_bytes: capacity.0 };
        let answer = self.ask(CHANGE_LIMIT, client.expand_volume(request)).await?;
        self.read(convert::volume_from_proto(answer))
    }

    /// Opens the stream of one round. It is the lease: when `orders` is dropped before the release, the agent
    /// lets go and removes what it cut.
    pub async fn round(&self, orders: mpsc::Receiver<RoundOrder>) -> Result<Streaming<RoundReport>, Fault> {
        let mut client = self.client.clone();
        self.ask(LOOK_LIMIT, client.round(ReceiverStream::new(orders))).await
    }

    /// Writes the sealed record on the host's member pools. Idempotent.
    pub async fn seal(&self, record: &CutRecord) -> Result<(), Fault> {
        self.seal_as(self.read(convert::record_to_proto(record))?).await
    }

    /// As [`Agent::seal`], with the text of the record, which is the same for all hosts.
    pub async fn seal_as(&self, record: proto::CutRecord) -> Result<(), Fault> {
        let mut client = self.client.clone();
        let request = proto::SealRequest { record: Some(record) };
        self.ask(CHANGE_LIMIT, client.seal(request)).await.map(drop)
    }

    /// Removes everything of an unsealed attempt at a cut; another attempt is left alone. Idempotent.
    pub async fn void(&self, id: &CutId, attempt: Incarnation) -> Result<(), Fault> {
        let mut client = self.client.clone();
        let request = proto::VoidRequest { cut_id: id.to_string(), attempt: attempt.to_string() };
        self.ask(CHANGE_LIMIT, client.void(request)).await.map(drop)
    }

    /// The record of a cut on this host, sealed or not.
    pub async fn cut(&self, id: &CutId) -> Result<Option<CutRecord>, Fault> {
        optional(self.get_cut(proto::get_cut_request::By::CutId(id.to_string())).await)
    }

    /// The cut of this kind and name, on any pool of the host.
    pub async fn find_cut(&self, kind: CutKind, name: &NameHash) -> Result<Option<CutRecord>, Fault> {
        let text = convert::kind_and_hash(kind, name);
        optional(self.get_cut(proto::get_cut_request::By::KindAndNameHash(text)).await)
    }

    /// The record of a cut whose round has ended on this host; ABORTED while it has not.
    pub async fn cut_at_rest(&self, id: &CutId) -> Result<Option<CutRecord>, Fault> {
        let by = proto::get_cut_request::By::CutId(id.to_string());
        match optional(self.ask_cut(by).await)? {
            Some(answer) if answer.under_way => {
                Err(self.named(Fault::aborted(format!("cut {id} is being taken; try again when it is done"))))
            }
            Some(answer) => self.read(convert::cut_from_proto(answer)).map(Some),
            None => Ok(None),
        }
    }

    async fn get_cut(&self, by: proto::get_cut_request::By) -> Result<CutRecord, Fault> {
        let answer = self.ask_cut(by).await?;
        self.read(convert::cut_from_proto(answer))
    }

    async fn ask_cut(&self, by: proto::get_cut_request::By) -> Result<proto::GetCutResponse, Fault> {
        let mut client = self.client.clone();
        self.ask(LOOK_LIMIT, client.get_cut(proto::GetCutRequest { by: Some(by) })).await
    }

    /// Cut records of the host, one per cut, sorted by id.
    pub async fn cuts_in(&self, slice: &Slice<CutId>, filter: &CutFilter) -> Result<Piece<CutRecord>, Fault> {
        let mut client = self.client.clone();
        let request = convert::cuts_wanted_to_proto(slice, filter);
        let answer = self.ask(LOOK_LIMIT, client.list_cuts(request)).await?;
        let entries = answer.cuts.into_iter().map(convert::cut_from_proto).collect();
        Ok(Piece { entries: self.read(entries)?, more: answer.more })
    }

    /// Removes the host's snapshots of a sealed cut, then its record; another attempt is left alone. Idempotent.
    pub async fn delete_cut(&self, id: &CutId, attempt: Incarnation) -> Result<(), Fault> {
        let mut client = self.client.clone();
        let request = proto::DeleteCutRequest { cut_id: id.to_string(), attempt: attempt.to_string() };
        self.ask(CHANGE_LIMIT, client.delete_cut(request)).await.map(drop)
    }

    /// Begins a walk over the blocks of a snapshot. It is complete only if its last message says so.
    pub async fn walk(&self, order: &WalkOrder) -> Result<Streaming<proto::WalkPage>, Fault> {
        let mut client = self.blocks.clone();
        self.ask(LOOK_LIMIT, client.walk(convert::walk_order_to_proto(order))).await
    }

    /// Keeps a snapshot, or a volume that leaves, for one other host to fetch and make this volume of it.
    pub async fn grant(
        &self,
        ticket: &str,
        peer: &HostName,
        what: &Granting,
        makes: &VolumeId,
    ) -> Result<proto::GrantResponse, Fault> {
        let mut client = self.blocks.clone();
        let (ticket, peer) = (ticket.to_owned(), peer.to_string());
        let (snapshot_id, leaving_volume_id) = match what {
            Granting::Snapshot(id) => (id.to_string(), String::new()),
            Granting::Leaving(id) => (String::new(), id.to_string()),
        };
        let for_volume_id = makes.to_string();
        let request = proto::GrantRequest { ticket, peer, snapshot_id, leaving_volume_id, for_volume_id };
        self.ask(CHANGE_LIMIT, client.grant(request)).await
    }

    /// Lets it go. Idempotent.
    pub async fn withdraw(&self, ticket: &str) -> Result<(), Fault> {
        let mut client = self.blocks.clone();
        let request = proto::WithdrawRequest { ticket: ticket.to_owned() };
        self.ask(LOOK_LIMIT, client.withdraw(request)).await.map(drop)
    }

    /// Has the host fetch a volume; what has arrived stays when the stream is dropped.
    pub async fn receive(
        &self,
        request: proto::ReceiveRequest,
    ) -> Result<Streaming<proto::ReceiveProgress>, Fault> {
        let mut client = self.blocks.clone();
        self.ask(LOOK_LIMIT, client.receive(request)).await
    }

    /// Begins the move of a volume to another pool, or finds the one that was begun.
    pub async fn begin_move(&self, id: &VolumeId, to: &VolumeId) -> Result<Move, Fault> {
        let mut client = self.moves.clone();
        let request = proto::BeginMoveRequest { volume_id: id.to_string(), to: to.to_string() };
        let answer = self.ask(CHANGE_LIMIT, client.begin(request)).await?;
        self.read(convert::move_from_proto(answer.r#move))
    }

    /// The commit point of a move: from here on the volume is the other pool's. Idempotent.
    pub async fn leave(&self, id: &VolumeId, to: &VolumeId, content: &str) -> Result<(), Fault> {
        let mut client = self.moves.clone();
        let (volume_id, to, content) = (id.to_string(), to.to_string(), content.to_owned());
        self.ask(CHANGE_LIMIT, client.leave(proto::LeaveRequest { volume_id, to, content })).await.map(drop)
    }

    /// Makes a volume of what has arrived of it. Idempotent.
    pub async fn adopt(&self, id: &VolumeId, content: &str) -> Result<VolumeInfo, Fault> {
        let mut client = self.moves.clone();
        let request = proto::AdoptRequest { volume_id: id.to_string(), content: content.to_owned() };
        let answer = self.ask(CHANGE_LIMIT, client.adopt(request)).await?;
        self.read(convert::volume_from_proto(answer))
    }

    /// Removes what is left of a volume that another pool has by now. Idempotent.
    pub async fn finish_move(&self, id: &VolumeId) -> Result<(), Fault> {
        let mut client = self.moves.clone();
        let request = proto::FinishMoveRequest { volume_id: id.to_string() };
        self.ask(CHANGE_LIMIT, client.finish(request)).await.map(drop)
    }

    /// Ends a move before its commit point. Idempotent.
    pub async fn stay(&self, id: &VolumeId) -> Result<(), Fault> {
        let mut client = self.moves.clone();
        let request = proto::StayRequest { volume_id: id.to_string() };
        self.ask(CHANGE_LIMIT, client.stay(request)).await.map(drop)
    }

    /// Removes what has arrived of a volume: this content, or any that is not kept for a move. Says whether there was
    /// something.
    pub async fn abandon(
        &self,
        pool: &PoolId,
        name: &NameHash,
        content: Option<&str>,
    ) -> Result<bool, Fault> {
        let mut client = self.moves.clone();
        let content = content.unwrap_or_default().to_owned();
        let request =
            proto::AbandonRequest { pool_id: pool.to_string(), name_hash: name.to_string(), content };
        self.ask(CHANGE_LIMIT, client.abandon(request)).await.map(|answer| answer.was_there)
    }

    /// Moves that are not settled: volumes that leave this host, and whole ones that wait here.
    pub async fn moves(&self) -> Result<(Vec<Move>, Vec<Waiting>), Fault> {
        let mut client = self.moves.clone();
        let answer = self.ask(LOOK_LIMIT, client.list_moves(proto::ListMovesRequest {})).await?;
        let moves = answer.moves.into_iter().map(|leaving| convert::move_from_proto(Some(leaving)));
        let waiting = answer.waiting.into_iter().map(convert::waiting_from_proto);
        self.read(
            moves.collect::<Result<_, _>>().and_then(|moves| Ok((moves, waiting.collect::<Result<_, _>>()?))),
        )
    }

    /// Waits for an answer, but not for ever.
    async fn ask<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Fault> {
        let outcome = match tokio::time::timeout(limit, call).await {
            Ok(outcome) => outcome.map(Response::into_inner).map_err(fault_of),
            Err(_) => {
                Err(Fault::deadline(format!("no answer within {limit:?}; what was asked may still happen")))
            }
        };
        outcome.map_err(|fault| {
            if fault.code == Code::Unavailable {
                // It may be away for long, and its pools may turn up elsewhere.
                self.homes.forget(&self.host);
            }
            self.named(fault)
        })
    }

    fn read<T>(&self, outcome: Result<T, Fault>) -> Result<T, Fault> {
        outcome.map_err(|fault| self.named(fault))
    }

    /// Says which host a fault is of.
    pub fn named(&self, fault: Fault) -> Fault {
        fault.context(format_args!("host {}", self.host))
    }
}

fn optional<T>(outcome: Result<T, Fault>) -> Result<Option<T>, Fault> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(fault) if fault.code == Code::NotFound => Ok(None),
        Err(fault) => Err(fault),
    }
}
