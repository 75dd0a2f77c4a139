//! Volumes that go from host to host while the blow falls: a new one from another host's snapshot, and one that moves.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use stillpoint::domain::SnapshotId;
use stillpoint_csi_proto::v1 as csi;

use super::calls::{Answer, Call};
use super::case::{Case, Deed, Party, is_at_the_source};
use super::conduct::uncut;
use super::field::{Field, no_context};
use crate::harness::csi::{Volume, from_snapshot};

/// What is in the volume: several chunks of a copy, each different.
const WORDS: u64 = 1 << 20;
const FILE: &str = "content";

fn content() -> Vec<u8> {
    (0..WORDS).flat_map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect()
}

/// A volume with content on the host that it comes from, and where it is to go.
pub(super) async fn prepare(field: &mut Field, case: &Case) -> Result<Call> {
    let struck = match case.at {
        Party::Agent(host) | Party::Guard(host) => host,
        Party::Controller => 0,
    };
    let other = (struck + 1) % Field::hosts();
    let (source, target) = if is_at_the_source(case.point) { (struck, other) } else { (other, struck) };
    let name = field.new_name("carried");
    let call = Call::Create { name: name.clone(), host: Field::host(source).into(), source: None };
    let volume = field.caller().volume(&call).await?;
    let attached = attach(field, &name, Field::host(source), &volume.volume_id).await?;
    let written = write(&attached.path);
    field.stack().detach(&attached).await?;
    written?;
    let to = Field::host(target).to_owned();
    if case.deed == Deed::Move {
        return Ok(Call::Move { id: volume.volume_id, to });
    }
    let group = Call::Cut { name: format!("{name}-cut"), volumes: vec![volume.volume_id.clone()] };
    let group = field.caller().group(&group).await?;
    let snapshot = group.snapshots.first().context("a group without a snapshot")?;
    // The snapshot stays without its volume.
    field.caller().until_done(&Call::Delete { id: volume.volume_id }).await?;
    let source = Some(from_snapshot(&snapshot.snapshot_id));
    Ok(Call::Create { name: format!("{name}-copy"), host: to, source })
}

fn write(mount: &Path) -> Result<()> {
    let path = mount.join(FILE);
    std::fs::write(&path, content())?;
    Ok(std::fs::File::open(path)?.sync_all()?)
}

/// The copy has the content; it and its source are taken away.
pub(super) async fn check_copy(
    field: &Field,
    name: &str,
    host: &str,
    source: Option<&csi::VolumeContentSource>,
    volume: &csi::Volume,
) -> Result<()> {
    let checked = has_content(field, name, host, &volume.volume_id).await;
    field.caller().until_done(&Call::Delete { id: volume.volume_id.clone() }).await?;
    // The group of which it is a snapshot is found under its name.
    let cut = format!("{}-cut", name.trim_end_matches("-copy"));
    ensure!(source.is_some(), "a copy of nothing");
    let Answer::Group(group) =
        field.caller().until_done(&Call::Cut { name: cut, volumes: of(source)? }).await?.0
    else {
        anyhow::bail!("no group");
    };
    field.caller().until_done(&uncut(&group)).await?;
    checked
}

/// The volume of which a snapshot is.
fn of(source: Option<&csi::VolumeContentSource>) -> Result<Vec<String>> {
    use csi::volume_content_source::Type;

    let Some(Type::Snapshot(snapshot)) = source.and_then(|source| source.r#type.as_ref()) else {
        anyhow::bail!("not a copy of a snapshot");
    };
    let id: SnapshotId = snapshot.snapshot_id.parse()?;
    Ok(vec![id.volume.to_string()])
}

/// The volume is at its target under its id, with its content; it is taken away.
pub(super) async fn check_move(field: &Field, id: &str, to: &str) -> Result<()> {
    let (host, told) = field.caller().whereabouts(id).await?;
    let checked = if (host.as_str(), told.as_str()) == (to, id) {
        has_content(field, "moved", to, id).await
    } else {
        Err(anyhow::anyhow!("{id} was moved to {to}, and is told as {told} on {host}"))
    };
    field.caller().until_done(&Call::Delete { id: id.to_owned() }).await?;
    checked
}

async fn has_content(field: &Field, name: &str, host: &str, id: &str) -> Result<()> {
    let attached = attach(field, name, host, id).await?;
    let found = std::fs::read(attached.path.join(FILE));
    field.stack().detach(&attached).await?;
    ensure!(found.context("the content is not there")? == content(), "{id} has other content on {host}");
    Ok(())
}

async fn attach(field: &Field, name: &str, host: &str, id: &str) -> Result<Volume> {
    let node = field.stack().hosts().iter().find(|found| found.name == host).context("no such host")?.node();
    node.attach(name, host, id, "xfs", no_context()).await
}
