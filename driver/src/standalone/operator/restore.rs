//! New volumes from a cut.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::domain::record::{CutMember, CutRecord};
use crate::domain::{Fault, HostName};
use crate::observe::plain::shortened;

use super::{Operator, Origin};
use crate::standalone::selection::check_name;
use crate::standalone::storage::PlacedVolume;

/// A volume that has what a member had.
#[derive(Debug, Clone, PartialEq)]
pub struct Restored {
    /// The member.
    pub member: CutMember,
    /// When its cut was taken.
    pub taken_at: Timestamp,
    /// The volume.
    pub volume: PlacedVolume,
    /// Whether an earlier call made it, of this very snapshot; somebody may have written to it since.
    pub origin: Origin,
}

impl Operator {
    /// Makes volumes from a cut's members, each in its member's pool or all on one host, called `<prefix><volume name>`. Idempotent;
    /// what was copied to another host before it broke off is not copied again.
    pub async fn restore(
        &self,
        id_or_name: &str,
        prefix: &str,
        only: &[String],
        to: Option<&HostName>,
    ) -> Result<Vec<Restored>, Fault> {
        let record = self.record(id_or_name).await?;
        check_name("the prefix", prefix)?;
        let members = chosen_members(&record, only)?;
        for member in &members {
            check_name("the name of a restored volume", &format!("{prefix}{}", member.volume_name))?;
        }
        // Only the hosts of these: one that is away keeps nobody from what the others have.
        let chosen: Vec<CutMember> = members.iter().map(|member| (*member).clone()).collect();
        self.storage.roll_forward(&record, &chosen).await?;
        let mut restored = Vec::new();
        for member in members {
            let name = format!("{prefix}{}", member.volume_name);
            let (volume, origin) = self.storage.restore(member, &name, to).await.map_err(|fault| {
                fault.context(format_args!(
                    "cannot restore {} ({} of its {} volumes are restored; the same command goes on from there)",
                    member.volume_name,
                    restored.len(),
                    record.members.len()
                ))
            })?;
            restored.push(Restored { member: member.clone(), taken_at: record.cut_at, volume, origin });
        }
        Ok(restored)
    }
}

fn chosen_members<'a>(record: &'a CutRecord, only: &[String]) -> Result<Vec<&'a CutMember>, Fault> {
    if only.is_empty() {
        let mut members: Vec<_> = record.members.iter().collect();
        // Records are sorted by id, which begins with the pool's random one; people read names.
        members.sort_by(|a, b| (&a.volume_name, &a.volume).cmp(&(&b.volume_name, &b.volume)));
        return Ok(members);
    }
    let named = |text: &String| {
        record
            .members
            .iter()
            .find(|m| m.volume_name == *text || m.known_as().to_string() == *text)
            .ok_or_else(|| {
                let names =
                    record.members.iter().map(|member| member.volume_name.as_str()).collect::<Vec<_>>();
                Fault::not_found(format!(
                    "the cut {} has no volume {}; it has {}",
                    record.name,
                    shortened(text, 80),
                    names.join(", ")
                ))
            })
    };
    let chosen: BTreeSet<&String> = only.iter().collect();
    chosen.into_iter().map(named).collect()
}
