//! Two controllers on the same hosts, and what settles what one of them has left: each named, each by itself.

use std::time::Duration;

use stillpoint::domain::record::CutRecord;
use stillpoint::domain::{CutHandle, Fault};
use stillpoint::host::fake::{Lie, When};

use super::check::check;
use super::cluster::{CONTROLLERS, Cluster, HOSTS};
use super::controller::{Job, News};

const PATIENCE: Duration = Duration::from_mins(2);

fn cluster(seed: u64) -> Cluster {
    let mut cluster = Cluster::new(seed);
    cluster.run(Duration::from_millis(50));
    cluster
}

/// Waits for so many cuts that were asked for.
fn taken(cluster: &mut Cluster, count: usize) -> Vec<(usize, Result<CutRecord, Fault>)> {
    let mut all = Vec::new();
    cluster.until(PATIENCE, |cluster| {
        for (controller, news) in cluster.news() {
            if let News::Taken(_, outcome) = news {
                all.push((controller, outcome));
            }
        }
        (all.len() >= count).then_some(())
    });
    assert_eq!(all.len(), count, "{}", cluster.trace());
    all
}

fn take(cluster: &mut Cluster, controller: usize, name: &str) {
    let order = cluster.order(name, cluster.all_volumes());
    cluster.ask(controller, Job::Take(order));
}

/// Takes until it is there, as an orchestrator does.
fn take_in_the_end(cluster: &mut Cluster, controller: usize, name: &str) -> CutRecord {
    for _ in 0..30 {
        take(cluster, controller, name);
        if let Some((_, Ok(record))) = taken(cluster, 1).pop() {
            return record;
        }
        cluster.run(Duration::from_millis(500));
    }
    let trace = cluster.trace();
    assert!(trace.is_empty(), "{name} cannot be taken\n{trace}");
    unreachable!("a trace is never empty")
}

/// Begins a cut and leaves it released and not sealed.
fn take_up_to_the_seal(cluster: &mut Cluster, controller: usize, name: &str) {
    let order = cluster.order(name, cluster.all_volumes());
    cluster.ask(controller, Job::TakeSlowly(order));
    let waits = cluster
        .until(PATIENCE, |cluster| cluster.news().into_iter().find(|(_, news)| matches!(news, News::Waits)));
    assert!(waits.is_some(), "{}", cluster.trace());
}

fn settle(cluster: &mut Cluster, controller: usize, name: &str) -> Result<Option<CutRecord>, Fault> {
    let volumes = cluster.all_volumes();
    cluster.ask(controller, Job::Settle(name.into(), volumes));
    let settled = cluster.until(PATIENCE, |cluster| {
        cluster
            .news()
            .into_iter()
            .find_map(|(_, news)| if let News::Settled(_, settled) = news { Some(settled) } else { None })
    });
    settled.unwrap_or_else(|| Err(Fault::deadline("never answered")))
}

/// What a sweep could not settle.
fn sweep(cluster: &mut Cluster) -> Option<Vec<String>> {
    cluster.ask(1, Job::Sweep(Duration::ZERO));
    cluster.until(PATIENCE, |cluster| {
        let mut news = cluster.news().into_iter();
        news.find_map(|(_, news)| if let News::Swept(left) = news { Some(left) } else { None })
    })
}

fn delete(cluster: &mut Cluster, id: &CutHandle) -> Option<Result<(), Fault>> {
    cluster.ask(1, Job::DeleteById(id.clone()));
    cluster.until(PATIENCE, |cluster| {
        let mut news = cluster.news().into_iter();
        news.find_map(|(_, news)| if let News::Deleted(_, done) = news { Some(done) } else { None })
    })
}

/// Sealed cuts on all hosts, everything else being as it must be.
fn sealed(cluster: &Cluster) -> Vec<CutRecord> {
    match check(&cluster.machines, &cluster.chains, &cluster.asked) {
        Ok(sealed) => sealed.into_values().collect(),
        Err(why) => {
            assert!(why.is_empty(), "{why}\n{}", cluster.trace());
            vec![]
        }
    }
}

/// All members of the second group are of one instant, which is that of the first.
#[test]
fn snapshots_that_are_older_than_their_request_are_found() {
    let mut cluster = cluster(1);
    for machine in &cluster.machines {
        machine.host.lie_about(Lie::Snapshots);
    }
    take_in_the_end(&mut cluster, 0, "monday");
    sealed(&cluster);
    cluster.run(Duration::from_millis(200));
    take_in_the_end(&mut cluster, 0, "tuesday");
    let found =
        check(&cluster.machines, &cluster.chains, &cluster.asked).expect_err("tuesday has monday's data");
    assert!(
        found.contains("tuesday") && found.contains("acknowledged before the snapshot was asked for"),
        "{found}"
    );
}

#[test]
fn two_controllers_that_take_the_same_name_at_once_end_with_one_cut() {
    for seed in 0..8 {
        let mut cluster = cluster(seed);
        take(&mut cluster, 0, "nightly");
        let later = cluster.dice.ms(0..60);
        cluster.run(later);
        take(&mut cluster, 1, "nightly");
        taken(&mut cluster, 2);
        let record = take_in_the_end(&mut cluster, 1, "nightly");
        let found = sealed(&cluster);
        assert_eq!(found.len(), 1, "{}", cluster.trace());
        assert_eq!(found[0].attempt, record.attempt);
    }
}

#[test]
fn two_controllers_that_take_different_cuts_of_the_same_volumes_at_once_do_no_harm() {
    for seed in 0..8 {
        let mut cluster = cluster(seed);
        take(&mut cluster, 0, "one");
        let later = cluster.dice.ms(0..60);
        cluster.run(later);
        take(&mut cluster, 1, "two");
        taken(&mut cluster, 2);
        take_in_the_end(&mut cluster, 0, "one");
        take_in_the_end(&mut cluster, 1, "two");
        assert_eq!(sealed(&cluster).len(), 2, "{}", cluster.trace());
    }
}

#[test]
fn a_controller_that_comes_back_stale_after_a_partition_cannot_seal_what_another_has_done_anew() {
    for seed in 0..4 {
        let mut cluster = cluster(seed);
        take_up_to_the_seal(&mut cluster, 0, "nightly");
        for host in 0..HOSTS.len() {
            cluster.delay(0, host);
        }
        // It tries to seal, and nobody hears it.
        cluster.boards[0].go_on();
        let record = take_in_the_end(&mut cluster, 1, "nightly");
        for host in 0..HOSTS.len() {
            cluster.join(0, host);
        }
        let (_, stale) = taken(&mut cluster, 1).remove(0);
        assert!(stale.is_err(), "the first attempt is void: {}", cluster.trace());
        cluster.run(Duration::from_secs(2));
        let found = sealed(&cluster);
        assert_eq!(found.len(), 1, "{}", cluster.trace());
        assert_eq!(found[0].attempt, record.attempt, "{}", cluster.trace());
    }
}

#[test]
fn what_a_controller_left_before_its_seal_is_settled_as_nothing_by_another() {
    let mut cluster = cluster(1);
    take_up_to_the_seal(&mut cluster, 0, "nightly");
    cluster.kill(CONTROLLERS[0]);
    assert_eq!(settle(&mut cluster, 1, "nightly"), Ok(None), "{}", cluster.trace());
    assert!(sealed(&cluster).is_empty());
    take_in_the_end(&mut cluster, 1, "nightly");
}

#[test]
fn what_a_controller_sealed_at_home_only_is_settled_as_a_whole_cut_by_another() {
    let mut cluster = cluster(1);
    take_up_to_the_seal(&mut cluster, 0, "nightly");
    // Only the home pool, the one with the lowest id, hears of the seal.
    let pools =
        |cluster: &Cluster| cluster.machines.iter().map(|m| m.volumes[0].id.pool.clone()).collect::<Vec<_>>();
    let pools = pools(&cluster);
    let home = (0..HOSTS.len()).min_by_key(|host| &pools[*host]).unwrap_or_default();
    for host in (0..HOSTS.len()).filter(|host| *host != home) {
        cluster.part(0, host);
    }
    cluster.boards[0].go_on();
    cluster.run(Duration::from_millis(300));
    cluster.kill(CONTROLLERS[0]);
    let settled = settle(&mut cluster, 1, "nightly");
    assert!(matches!(settled, Ok(Some(_))), "{settled:?}\n{}", cluster.trace());
    assert_eq!(sealed(&cluster).len(), 1, "{}", cluster.trace());
}

#[test]
fn a_host_that_does_not_answer_keeps_a_cut_from_being_called_settled() {
    let mut cluster = cluster(1);
    take_up_to_the_seal(&mut cluster, 0, "nightly");
    cluster.kill(CONTROLLERS[0]);
    cluster.kill(HOSTS[2]);
    assert!(settle(&mut cluster, 1, "nightly").is_err(), "{}", cluster.trace());
    cluster.start(HOSTS[2]);
    cluster.run(Duration::from_secs(12));
    assert_eq!(settle(&mut cluster, 1, "nightly"), Ok(None), "{}", cluster.trace());
    assert!(sealed(&cluster).is_empty());
}

#[test]
fn a_seal_that_fails_halfway_at_home_is_settled_by_the_sweep_alone() {
    for call in ["fsync", "rename", "write"] {
        for number in 1..=4 {
            let mut cluster = cluster(1);
            take_up_to_the_seal(&mut cluster, 0, "nightly");
            let pool = |host: &usize| cluster.machines[*host].volumes[0].id.pool.clone();
            let home = (0..HOSTS.len()).min_by_key(pool).unwrap_or_default();
            cluster.machines[home].host.fail(When::NthOf(call, number), libc::EIO);
            cluster.boards[0].go_on();
            taken(&mut cluster, 1);
            cluster.machines[home].host.forgive();
            let swept = sweep(&mut cluster);
            let trace = cluster.trace();
            assert_eq!(swept, Some(vec![]), "{call} number {number} fails: {trace}");
            sealed(&cluster);
        }
    }
}

#[test]
fn a_deletion_that_fails_halfway_is_finished_by_the_next_one_and_nobody_lists_the_cut_any_more() {
    for call in ["unlink", "fsync", "rename"] {
        for number in 1..=3 {
            let mut cluster = cluster(1);
            let cut = take_in_the_end(&mut cluster, 0, "nightly");
            for host in 0..HOSTS.len() {
                cluster.machines[host].host.fail(When::NthOf(call, number), libc::EIO);
            }
            let _ = delete(&mut cluster, &cut.handle());
            for host in 0..HOSTS.len() {
                cluster.machines[host].host.forgive();
            }
            let again = delete(&mut cluster, &cut.handle());
            let trace = cluster.trace();
            assert_eq!(again, Some(Ok(())), "{call} number {number} fails: {trace}");
            assert!(sealed(&cluster).is_empty(), "{call} number {number} fails: {trace}");
        }
    }
}
