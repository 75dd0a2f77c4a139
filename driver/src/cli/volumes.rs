//! `stillpoint volumes`, `stillpoint restore`, `stillpoint move` and `stillpoint cancel-copy`.

use serde_json::{Value, json};

use crate::args::{CancelCopyArgs, ListArgs, MoveArgs, RestoreArgs};
use crate::domain::{Bytes, Fault};
use crate::observe::plain::shortened;
use crate::observe::table::{right_align, with_header};
use crate::proto::operator::list_volumes_response::{Transfer, Volume};
use crate::proto::operator::restore_response::Restored;
use crate::proto::operator::{
    CancelCopyRequest, ListVolumesRequest, ListVolumesResponse, MoveRequest, RestoreRequest,
};
use crate::wire::status::fault_of;

use super::client::{connect, quick};
use super::output::{Format, print, print_json, progress};

/// Lists volumes of all hosts.
pub async fn list(args: ListArgs) -> Result<(), Fault> {
    let mut client = connect(&args.socket.socket).await?;
    let answer = client.list_volumes(quick(ListVolumesRequest {})).await.map_err(fault_of)?;
    let ListVolumesResponse { volumes, silent, transfers } = answer.into_inner();
    for host in &silent {
        progress(&format!("stillpoint: the list is not complete: {host}"));
    }
    match args.output {
        Format::Json => {
            let made = volumes.iter().map(volume_json);
            print_json(&made.chain(transfers.iter().map(transfer_json)).collect::<Vec<_>>())
        }
        Format::Text if transfers.is_empty() => print(&volume_table(&volumes)),
        Format::Text => print(&format!("{}\n\n{}", volume_table(&volumes), transfer_table(&transfers))),
    }
}

/// Makes new volumes from a cut.
pub async fn restore(args: RestoreArgs) -> Result<(), Fault> {
    let mut client = connect(&args.socket.socket).await?;
    let to_host = args.to.map(|host| host.to_string()).unwrap_or_default();
    let request = RestoreRequest { id_or_name: args.id, prefix: args.prefix, only: args.only, to_host };
    let restored = client.restore(request).await.map_err(fault_of)?.into_inner().volumes;
    match args.output {
        Format::Json => print_json(&restored.iter().map(restored_json).collect::<Vec<_>>()),
        Format::Text => print(&restored_table(&restored)),
    }
}

/// Moves a volume to another host.
pub async fn relocate(args: MoveArgs) -> Result<(), Fault> {
    let mut client = connect(&args.socket.socket).await?;
    let request = MoveRequest { volume: args.volume, to_host: args.to.to_string() };
    let moved = client.r#move(request).await.map_err(fault_of)?.into_inner();
    let name = shortened(&moved.name, 80);
    match (args.output, moved.from_host.as_str()) {
        (Format::Json, from) => print_json(&json!({
            "id": moved.volume_id, "name": moved.name, "host": moved.host,
            "fromHost": (!from.is_empty()).then_some(from),
        })),
        (Format::Text, "") => print(&format!("{name} is on {} already", moved.host)),
        (Format::Text, from) => {
            print(&format!("{name} moved from {from} to {}; its id is still {}", moved.host, moved.volume_id))
        }
    }
}

/// Cancels a copy.
pub async fn cancel_copy(args: CancelCopyArgs) -> Result<(), Fault> {
    let mut client = connect(&args.socket.socket).await?;
    let request = CancelCopyRequest { volume: args.volume.clone() };
    let hosts = client.cancel_copy(request).await.map_err(fault_of)?.into_inner().hosts;
    print(&format!("the copy of {} is cancelled; nothing of it is left on {}", args.volume, hosts.join(", ")))
}

pub(super) fn volume_table(volumes: &[Volume]) -> String {
    if volumes.is_empty() {
        return "no volumes".to_owned();
    }
    let mut table =
        with_header(&["NAME", "HOST", "SIZE", "ALLOCATED", "FILESYSTEM", "PUBLISHED AT", "HEALTH", "ID"]);
    for volume in volumes {
        let or =
            |text: &str, other: &str| if text.is_empty() { other.to_owned() } else { shortened(text, 60) };
        table.add_row([
            shortened(&volume.name, 40),
            shortened(&volume.host, 40),
            Bytes(volume.capacity_bytes).to_string(),
            Bytes(volume.allocated_bytes).to_string(),
            or(&volume.filesystem, "raw block"),
            or(&volume.published_at, "-"),
            health(&volume.conditions),
            volume.id.clone(),
        ]);
    }
    right_align(&mut table, 2..4);
    table.to_string()
}

/// Copies that are under way, each with how far it is.
fn transfer_table(transfers: &[Transfer]) -> String {
    let mut table = with_header(&["ARRIVING", "FROM", "TO", "DONE", "OF ABOUT", ""]);
    for transfer in transfers {
        table.add_row([
            shortened(&transfer.name, 40),
            shortened(&transfer.from_host, 40),
            shortened(&transfer.to_host, 40),
            Bytes(transfer.done_bytes).to_string(),
            Bytes(transfer.total_bytes).to_string(),
            format!("{} %", percent(transfer)),
        ]);
    }
    right_align(&mut table, 3..6);
    table.to_string()
}

fn percent(transfer: &Transfer) -> u128 {
    let total = u128::from(transfer.total_bytes.max(1));
    (u128::from(transfer.done_bytes) * 100 / total).min(100)
}

fn transfer_json(transfer: &Transfer) -> Value {
    json!({
        "arriving": {
            "fromHost": transfer.from_host, "doneBytes": transfer.done_bytes, "totalBytes": transfer.total_bytes,
            "beganAt": transfer.began_at,
        },
        "id": transfer.volume_id, "name": transfer.name, "host": transfer.to_host,
    })
}

/// The names of what is wrong; the sentences are in the JSON.
fn health(conditions: &[String]) -> String {
    let names: Vec<&str> = conditions.iter().filter_map(|text| text.split(':').next()).collect();
    if names.is_empty() { "ok".to_owned() } else { shortened(&names.join(", "), 60) }
}

fn volume_json(volume: &Volume) -> Value {
    let optional = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    json!({
        "id": volume.id, "name": volume.name, "host": volume.host, "pool": volume.pool,
        "capacityBytes": volume.capacity_bytes, "allocatedBytes": volume.allocated_bytes,
        "filesystem": optional(&volume.filesystem), "publishedAt": optional(&volume.published_at),
        "source": optional(&volume.source), "conditions": &volume.conditions,
    })
}

fn restored_table(restored: &[Restored]) -> String {
    let mut table = with_header(&["FROM", "TAKEN AT", "VOLUME", "STATE", "HOST", "ID"]);
    for volume in restored {
        table.add_row([
            shortened(&volume.from_volume, 40),
            volume.taken_at.clone(),
            shortened(&volume.name, 60),
            if volume.existed { format!("existed, made {}", volume.made_at) } else { "made".to_owned() },
            volume.host.clone(),
            volume.volume_id.clone(),
        ]);
    }
    table.to_string()
}

fn restored_json(volume: &Restored) -> Value {
    json!({
        "fromVolume": volume.from_volume, "fromSnapshot": volume.from_snapshot, "takenAt": volume.taken_at,
        "name": volume.name, "volumeId": volume.volume_id, "host": volume.host,
        "madeAt": volume.made_at, "existed": volume.existed,
    })
}
