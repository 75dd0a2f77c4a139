//! What must be true of all hosts together when everything is up again and has been swept.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use stillpoint::domain::record::{CutRecord, CutState};
use stillpoint::domain::{CutId, SnapshotId};
use stillpoint::host::{FileKind, Files};

use super::ledger::Chain;
use super::machine::{Machine, POOL};

/// All sealed cuts, if everything is as it must be. `asked`: for each name, how many entries each chain had when it was
/// first asked for.
pub fn check(
    machines: &[Machine],
    chains: &[Chain],
    asked: &BTreeMap<String, Vec<usize>>,
) -> Result<BTreeMap<CutId, CutRecord>, String> {
    nothing_is_frozen(machines)?;
    let mut cuts: BTreeMap<CutId, Vec<(usize, CutRecord)>> = BTreeMap::new();
    for (number, machine) in machines.iter().enumerate() {
        for record in records(machine)? {
            cuts.entry(record.id.clone()).or_default().push((number, record));
        }
    }
    let mut snapshots = BTreeSet::new();
    let mut sealed = BTreeMap::new();
    for (id, records) in cuts {
        let record = whole(machines, &records)?;
        snapshots.extend(record.members.iter().map(|member| member.snapshot.clone()));
        in_order(machines, chains, asked, &record)?;
        sealed.insert(id, record);
    }
    nothing_has_leaked(machines, &snapshots)?;
    Ok(sealed)
}

pub fn nothing_is_frozen(machines: &[Machine]) -> Result<(), String> {
    match machines.iter().find(|machine| machine.holds_something()) {
        Some(machine) => Err(format!("something on host {} is held", machine.name)),
        None => Ok(()),
    }
}

fn records(machine: &Machine) -> Result<Vec<CutRecord>, String> {
    let directory = Path::new(POOL).join("cuts");
    let names = machine.host.list(&directory).map_err(|error| error.to_string())?;
    let read = |(name, _): &(String, FileKind)| {
        let text = machine.host.read(&directory.join(name)).map_err(|error| error.to_string())?;
        serde_json::from_slice(&text).map_err(|error| format!("{name}: {error}"))
    };
    names.iter().filter(|(name, _)| !name.starts_with('.')).map(read).collect()
}

/// Sealed on every host that has a member, the same attempt everywhere.
fn whole(machines: &[Machine], records: &[(usize, CutRecord)]) -> Result<CutRecord, String> {
    let Some((_, first)) = records.first() else { return Err("no record".into()) };
    for (_, record) in records {
        if record.state != CutState::Sealed || record.attempt != first.attempt {
            return Err(format!(
                "cut {:?} is not the same on all hosts: {}",
                first.name,
                told(machines, records)
            ));
        }
    }
    let members: BTreeSet<_> = first.members.iter().map(|member| &member.host).collect();
    let hosts: BTreeSet<_> = records.iter().map(|(number, _)| &machines[*number].name).collect();
    if members == hosts {
        return Ok(first.clone());
    }
    Err(format!("cut {:?} has lost a host: {}", first.name, told(machines, records)))
}

fn told(machines: &[Machine], records: &[(usize, CutRecord)]) -> String {
    let told = records.iter().map(|(number, record)| {
        format!("{} has attempt {} {:?}", machines[*number].name, record.attempt, record.state)
    });
    told.collect::<Vec<_>>().join(", ")
}

fn image(snapshot: &SnapshotId) -> PathBuf {
    Path::new(POOL)
        .join("snapshots")
        .join(snapshot.volume.to_string())
        .join(snapshot.to_string())
        .join("disk.img")
}

/// The members' contents are of one instant, after the one at which they were asked for.
fn in_order(
    machines: &[Machine],
    chains: &[Chain],
    asked: &BTreeMap<String, Vec<usize>>,
    record: &CutRecord,
) -> Result<(), String> {
    let asked = asked.get(&record.name).ok_or_else(|| format!("nobody asked for {:?}", record.name))?;
    let mut images = Vec::new();
    for member in &record.members {
        let place = machines.iter().enumerate().find_map(|(at, machine)| {
            let index = machine.volumes.iter().position(|used| used.id == member.volume)?;
            Some((at * machines[0].volumes.len() + index, machine.host.clone()))
        });
        let (number, host) =
            place.ok_or_else(|| format!("cut {:?}: nobody has {}", record.name, member.volume))?;
        images.push((number, host, image(&member.snapshot)));
    }
    chains.iter().zip(asked).try_for_each(|(chain, written)| {
        chain
            .check(&images, *written)
            .map_err(|why| format!("cut {:?} ({:?}): {why}", record.name, record.level))
    })
}

/// Every snapshot's tree belongs to a sealed cut.
fn nothing_has_leaked(machines: &[Machine], snapshots: &BTreeSet<SnapshotId>) -> Result<(), String> {
    let root = Path::new(POOL).join("snapshots");
    for machine in machines {
        let list = |path: &Path| machine.host.list(path).map_err(|error| error.to_string());
        for (volume, _) in list(&root)? {
            for (name, _) in list(&root.join(&volume))? {
                let known = name.parse().is_ok_and(|id: SnapshotId| snapshots.contains(&id));
                if !known && !name.starts_with('.') {
                    return Err(format!("host {} has a snapshot {name} that no cut lists", machine.name));
                }
            }
        }
    }
    Ok(())
}
