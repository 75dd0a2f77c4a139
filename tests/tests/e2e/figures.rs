//! How fast and how small it is here, as tables. Nothing of it is asserted but that the work was done.

use std::time::{Duration, Instant};

use stillpoint::observe::table::{right_align, with_header};
use stillpoint_tests::cluster::workspace::{LIMIT, Workspace};
use stillpoint_tests::cluster::{Place, usage};
use stillpoint_tests::harness::binaries;

use crate::cluster;
use crate::manifests::{GROUP, READY, READY_TO_USE, SPREAD, claim};

const ROUNDS: usize = 9;
const CLAIMS: usize = 30;
const IDLE: Duration = Duration::from_secs(10);

/// Claims of this class are bound without a pod. Of the cluster, not of a namespace.
const IMMEDIATE: &str = "
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: stillpoint-immediate}
provisioner: csi.stillpoint.dev
volumeBindingMode: Immediate
";

/// A table with what was measured where: times of one machine say nothing about those of another.
fn print(title: &str, header: &[&str], rows: Vec<Vec<String>>) {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default().to_owned();
    let profile = binaries::profile().unwrap();
    let mut table = with_header(header);
    for row in rows {
        table.add_row(row);
    }
    right_align(&mut table, 1..header.len());
    println!("\n{title} ({profile} binaries, load {load})\n{table}");
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

fn row(what: &str, mut times: Vec<Duration>) -> Vec<String> {
    times.sort_unstable();
    let [least, middle, most] = [0, times.len() / 2, times.len() - 1].map(|index| ms(times[index]));
    vec![what.to_owned(), least, middle, most]
}

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn figures_of_group_snapshots_of_six_volumes_on_three_nodes() {
    let space = Workspace::new(&cluster(), "figures").unwrap();
    space.apply(SPREAD).unwrap();
    for number in 0..3 {
        space.wait(&format!("pod/spread-{number}"), "create").unwrap();
        space.wait(&format!("pod/spread-{number}"), READY).unwrap();
    }
    let mut ready = Vec::new();
    for round in 0..ROUNDS {
        let begin = Instant::now();
        space.apply(&GROUP.replace("name: all", &format!("name: all-{round}"))).unwrap();
        space.wait(&format!("volumegroupsnapshot/all-{round}"), READY_TO_USE).unwrap();
        ready.push(begin.elapsed());
    }
    let cuts = space.cuts(Place::Node(1)).unwrap();
    let timelines: Vec<_> = cuts.into_iter().filter_map(|cut| cut.timeline).collect();
    assert_eq!(timelines.len(), ROUNDS, "every group snapshot is one cut, with its timeline");
    assert!(timelines.iter().all(|timeline| timeline.hosts.len() == 3));
    let of = |part: fn(&stillpoint::domain::timeline::Timeline) -> u64| {
        timelines.iter().map(|timeline| Duration::from_micros(part(timeline))).collect()
    };
    let rows = vec![
        row("applied to readyToUse, kubectl included", ready),
        row("window: first hold to last release", of(|timeline| timeline.window_us)),
        row("longest stall of a volume", of(|timeline| timeline.longest_stall_us)),
    ];
    print("Group snapshot of 6 volumes on 3 nodes", &["", "least", "middle", "most"], rows);
    space.run(&["delete", "volumegroupsnapshots", "--all", "--timeout=60s"]).unwrap();
    space.close().unwrap();
}

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn figures_of_thirty_claims() {
    let space = Workspace::new(&cluster(), "claims").unwrap();
    space.apply(IMMEDIATE).unwrap();
    let claims: String = (0..CLAIMS)
        .map(|number| {
            claim(&format!("claim-{number}"), "")
                .replace("storageClassName: stillpoint", "storageClassName: stillpoint-immediate")
        })
        .collect();
    let begin = Instant::now();
    space.apply(&claims).unwrap();
    let applied = begin.elapsed();
    let bound = || -> usize {
        let phases = space.run(&["get", "pvc", "-o", "jsonpath={.items[*].status.phase}"]).unwrap();
        phases.split(' ').filter(|phase| *phase == "Bound").count()
    };
    let mut count = 0;
    while count < CLAIMS {
        assert!(begin.elapsed() < LIMIT, "{count} of {CLAIMS} claims are bound after {LIMIT:?}");
        count = bound();
    }
    let all = begin.elapsed();
    let per_second = format!("{:.1}", 30.0 / all.as_secs_f64());
    let rows = vec![vec![CLAIMS.to_string(), ms(applied), ms(all), per_second]];
    print("Claims without pods", &["claims", "applied after", "all bound after", "bound per second"], rows);
    space.kubectl.run(&["delete", "storageclass", "stillpoint-immediate"]).unwrap();
    space.close().unwrap();
}

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn figures_of_processes_at_rest() {
    let space = Workspace::new(&cluster(), "rest").unwrap();
    let all = usage::watch(space.layout(), IDLE).unwrap();
    let count = |role: &str| all.iter().filter(|process| process.role == role).count();
    assert_eq!((count("controller"), count("node-agent"), count("guard")), (1, 3, 3), "{all:?}");
    let rows = all.iter().map(|process| {
        let mib = |kib: u64| format!("{:.1} MiB", f64::from(u32::try_from(kib).unwrap()) / 1024.0);
        let share = process.busy.as_secs_f64() / IDLE.as_secs_f64() * 100.0;
        let (resident, own) = (mib(process.resident_kib), mib(process.own_kib));
        vec![format!("{} on {}", process.role, process.node), resident, own, format!("{share:.1} %")]
    });
    print("Processes at rest, over 10 s", &["", "resident", "of it its own", "of a core"], rows.collect());
    space.close().unwrap();
}
