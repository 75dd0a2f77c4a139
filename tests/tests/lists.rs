//! Lists over several whole agents, asked page by page over the controller's CSI socket. Pools are in memory.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use stillpoint::backend::BackendKind;
use stillpoint::controller::cuts::Cuts;
use stillpoint::domain::round::Limits;
use stillpoint::domain::{Bytes, CutId, CutKind, VolumeId};
use stillpoint_csi_proto::v1;
use stillpoint_csi_proto::v1::controller_client::ControllerClient;
use stillpoint_tests::harness::site::Site;

const HOSTS: usize = 3;

/// Two volumes on each host, with some snapshots of each and one group of all.
struct Fleet {
    site: Site,
    volumes: Vec<v1::Volume>,
    singles: BTreeSet<String>,
    group: BTreeSet<String>,
}

impl Fleet {
    async fn new() -> Result<Self> {
        let site = Site::new(&[BackendKind::Memory; HOSTS]).await?;
        let (mut volumes, mut singles) = (Vec::new(), BTreeSet::new());
        for number in 0..2 * HOSTS {
            let volume = site.volume(&format!("v{number}"), number % HOSTS, Bytes::mib(1), None).await?;
            for snapshot in 0..4 {
                singles.insert(site.snapshot(&format!("s{number}-{snapshot}"), &volume).await?);
            }
            volumes.push(volume);
        }
        let group = site.group("all", &volumes).await?.into_iter().collect();
        Ok(Self { site, volumes, singles, group })
    }

    /// Every page of a list, from its beginning.
    async fn list(&self, max_entries: i32, of: &str) -> Result<Vec<v1::Snapshot>> {
        let mut client = ControllerClient::new(self.site.csi.clone());
        let (mut all, mut starting_token) = (Vec::new(), String::new());
        loop {
            let request = v1::ListSnapshotsRequest {
                max_entries,
                starting_token,
                source_volume_id: of.to_owned(),
                ..Default::default()
            };
            let page = client.list_snapshots(request).await?.into_inner();
            ensure!(max_entries == 0 || page.entries.len() <= usize::try_from(max_entries)?);
            all.extend(page.entries.into_iter().filter_map(|entry| entry.snapshot));
            starting_token = page.next_token;
            if starting_token.is_empty() {
                return Ok(all);
            }
        }
    }

    async fn ids(&self, max_entries: i32) -> Result<BTreeSet<String>> {
        let listed = self.list(max_entries, "").await?;
        let ids: BTreeSet<String> = listed.iter().map(|snapshot| snapshot.snapshot_id.clone()).collect();
        ensure!(ids.len() == listed.len(), "a snapshot is listed twice: {listed:?}");
        Ok(ids)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_of_all_hosts_are_one_list() -> Result<()> {
    let fleet = Fleet::new().await?;
    let all: BTreeSet<String> = fleet.singles.union(&fleet.group).cloned().collect();
    for limit in [0, 1, 2, 7, 29, 30, 31] {
        assert_eq!(fleet.ids(limit).await?, all, "limit {limit}");
    }
    for volume in &fleet.volumes {
        let of = fleet.list(2, &volume.volume_id).await?;
        assert_eq!(of.len(), 5);
        assert!(of.iter().all(|snapshot| snapshot.source_volume_id == volume.volume_id));
        let in_group = of.iter().filter(|snapshot| !snapshot.group_snapshot_id.is_empty());
        assert_eq!(in_group.count(), 1);
    }
    let mut client = ControllerClient::new(fleet.site.csi.clone());
    let (mut volumes, mut starting_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListVolumesRequest { max_entries: 4, starting_token };
        let page = client.list_volumes(request).await?.into_inner();
        volumes.extend(page.entries.into_iter().filter_map(|entry| entry.volume));
        starting_token = page.next_token;
        if starting_token.is_empty() {
            break;
        }
    }
    let listed: BTreeSet<&str> = volumes.iter().map(|volume| volume.volume_id.as_str()).collect();
    let made: BTreeSet<&str> = fleet.volumes.iter().map(|volume| volume.volume_id.as_str()).collect();
    assert_eq!((volumes.len(), listed), (2 * HOSTS, made));
    fleet.site.close().await
}

/// The home pool has no record any more, so nothing of the group exists, whatever the other hosts still have. The sweep
/// finds that in its own list.
#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_was_interrupted_is_not_listed_and_is_swept() -> Result<()> {
    let fleet = Fleet::new().await?;
    let volumes: Vec<VolumeId> =
        fleet.volumes.iter().map(|volume| volume.volume_id.parse()).collect::<Result<_, _>>()?;
    let id = CutId::new(CutKind::Group, "all", &volumes).context("a group has members")?;
    let home = fleet.site.fleet.agent_of_pool(&id.home).await?;
    let record = home.cut(&id).await?.context("it is sealed at home")?;
    home.delete_cut(&id, record.attempt).await?;
    assert_eq!(fleet.ids(7).await?, fleet.singles);

    let swept = Cuts::new(fleet.site.fleet.clone(), Limits::default()).sweep(Duration::ZERO).await;
    assert_eq!(swept.voided, std::slice::from_ref(&id), "{swept:?}");
    assert!(swept.left.is_empty() && swept.rolled_forward.is_empty(), "{swept:?}");
    for agent in fleet.site.fleet.agents() {
        assert_eq!(agent.cut(&id).await?, None);
    }
    assert_eq!(fleet.ids(7).await?, fleet.singles, "and nothing else");
    fleet.site.close().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_exists_all_the_time_is_always_listed_while_snapshots_come_and_go() -> Result<()> {
    let fleet = Fleet::new().await?;
    let always: BTreeSet<String> = fleet.singles.union(&fleet.group).cloned().collect();
    let lists = lists_meanwhile(&fleet, &always).await?;
    assert!(lists > 0);
    assert_eq!(fleet.ids(3).await?, always);
    fleet.site.close().await
}

/// Lists all the time while others take and delete snapshots; how often.
async fn lists_meanwhile(fleet: &Fleet, always: &BTreeSet<String>) -> Result<usize> {
    let busy = async {
        let mut client = ControllerClient::new(fleet.site.csi.clone());
        for number in 0..12 {
            for volume in &fleet.volumes[..HOSTS] {
                let snapshot_id =
                    fleet.site.snapshot(&format!("busy-{number}-{}", volume.volume_id), volume).await?;
                let request = v1::DeleteSnapshotRequest { snapshot_id, ..Default::default() };
                client.delete_snapshot(request).await?;
            }
        }
        Ok::<_, anyhow::Error>(())
    };
    tokio::pin!(busy);
    let mut lists = 0;
    loop {
        tokio::select! {
            done = &mut busy => {
                done?;
                return Ok(lists);
            }
            listed = fleet.ids(3) => {
                let listed = listed?;
                ensure!(listed.is_superset(always), "hidden: {:?}", always.difference(&listed));
                lists += 1;
            }
        }
    }
}
