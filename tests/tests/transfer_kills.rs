//! SIGKILL of the source's agent, the target's agent or the controller in the middle of a real copy, of a restore onto
//! another host and of a move. Afterwards the call that is repeated succeeds, goes on with what had arrived, and nothing
//! is leaked. Needs root, btrfs and XFS; says so when it skips.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use stillpoint::backend::BackendKind;
use stillpoint::domain::Bytes;
use stillpoint::proto::operator as api;
use stillpoint::proto::operator::operator_client::OperatorClient;
use stillpoint_tests::harness::bench::command;
use stillpoint_tests::harness::csi::{Volume, channel};
use stillpoint_tests::harness::leftovers::{loops_below, mounts_below};
use stillpoint_tests::harness::stack::{Blueprint, Options, Rcu, Stack};
use stillpoint_tests::harness::{Process, skip};
use stillpoint_tests::scratch::why_not;
use tonic::transport::Channel;

const HOSTS: [&str; 2] = ["a", "b"];
/// Twice what is made durable at a time, and something.
const CONTENT_MIB: u64 = 560;
const SIZE: Bytes = Bytes::mib(800);
/// The blow falls after this has arrived: more than what is made durable at a time.
const STRUCK_AFTER: Bytes = Bytes::mib(280);
/// So much of it must not travel again.
const RESUMED_AT_LEAST: u64 = 250 << 20;
const PATIENCE: Duration = Duration::from_mins(2);
const POLL: Duration = Duration::from_millis(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Restore,
    Move,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Source,
    Target,
    Controller,
}

struct Scene {
    stack: Stack,
    points: PathBuf,
    operator: OperatorClient<Channel>,
    content: PathBuf,
    volume: String,
    /// Host of the volume, by its index.
    at: usize,
}

impl Scene {
    /// A volume with content and a cut of it on host a; b is XFS.
    async fn build() -> Result<Self> {
        let run = Stack::directory("transfer-kills")?;
        let points = run.directory("points")?;
        let blueprint = Blueprint {
            hosts: HOSTS.map(String::from).to_vec(),
            pool_size: Bytes::gib(6),
            pods: vec![],
            rcu: Rcu::Auto,
        };
        let options =
            Options { xfs: vec!["b".into()], fault_points: Some(points.clone()), ..Options::default() };
        let stack = Stack::start_as(run, &blueprint, &options).await?;
        let content = stack.path().join("content.bin");
        let (of, count) = (format!("of={}", content.display()), format!("count={CONTENT_MIB}"));
        let dd = ["if=/dev/urandom", &of, "bs=1M", &count, "status=none"].map(std::ffi::OsStr::new);
        command("dd", &dd)?;
        let volume = stack.provision("data", "a", SIZE, "xfs").await?;
        std::fs::copy(&content, volume.path.join("content"))?;
        std::fs::File::open(volume.path.join("content"))?.sync_all()?;
        stack.detach(&volume).await?;
        let mut operator = OperatorClient::new(channel(stack.operator().socket()).await?);
        let cut =
            api::SnapshotRequest { name: "cut".into(), volumes: vec!["data".into()], ..Default::default() };
        let mut lines = operator.snapshot(cut).await?.into_inner();
        while lines.message().await?.is_some() {}
        Ok(Self { stack, points, operator, content, volume: volume.id, at: 0 })
    }

    fn process(&mut self, victim: Victim, source: usize) -> &mut Process {
        match victim {
            Victim::Source => &mut self.stack.hosts_mut()[source].agent,
            Victim::Target => &mut self.stack.hosts_mut()[1 - source].agent,
            Victim::Controller => self.stack.controller_mut(),
        }
    }

    async fn figure(&self, host: usize, name: &str) -> Result<u64> {
        let text = self.stack.hosts()[host].metrics().await?;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.with_context(|| format!("no {name} in\n{text}"))?.parse().context("not a number")
    }

    /// Waits until so much of the copy has arrived.
    async fn until_arrived(&self, end: Instant) -> Result<()> {
        let mut operator = self.operator.clone();
        loop {
            let listed = operator.list_volumes(api::ListVolumesRequest {}).await?.into_inner().transfers;
            if listed.iter().any(|transfer| transfer.done_bytes >= STRUCK_AFTER.0) {
                return Ok(());
            }
            ensure!(Instant::now() < end, "the copy does not get there: {listed:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Strikes in the middle of the copy, and repeats the call until it succeeds.
    async fn case(&mut self, deed: Deed, victim: Victim) -> Result<()> {
        // A restore is from where the cut is.
        let source = if deed == Deed::Restore { 0 } else { self.at };
        let target = 1 - source;
        let before =
            (self.figure(target, "stillpoint_copy_resumed_bytes_total").await?, self.received(target).await?);
        let leaked_before = (loops_below(self.stack.path())?.len(), mounts_below(self.stack.path())?.len());
        let first = tokio::spawn(ask(self.operator.clone(), deed, self.volume.clone(), HOSTS[target]));
        self.until_arrived(Instant::now() + PATIENCE).await?;
        // It stands still, so that the blow falls in its middle.
        let (party, point) = match victim {
            Victim::Target => (format!("agent-{}", HOSTS[target]), "agent.copy.writing"),
            Victim::Source | Victim::Controller => (format!("agent-{}", HOSTS[source]), "agent.copy.sending"),
        };
        let directory = self.points.join(party);
        std::fs::write(directory.join(point), "wait")?;
        wait_for(&directory.join(format!("{point}.hit"))).await?;
        let process = self.process(victim, source);
        process.send(Signal::SIGKILL)?;
        process.wait_end(PATIENCE)?;
        std::fs::write(directory.join(format!("{point}.go")), "")?;
        self.stack.revive().await?;
        let outcome =
            tokio::time::timeout(PATIENCE, first).await.context("the first call does not end")??;
        let end = Instant::now() + PATIENCE;
        while let Err(status) = ask(self.operator.clone(), deed, self.volume.clone(), HOSTS[target]).await {
            ensure!(Instant::now() < end, "not done: {status}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        std::fs::remove_file(directory.join(format!("{point}.go")))?;
        std::fs::remove_file(directory.join(format!("{point}.hit")))?;

        let now =
            (self.figure(target, "stillpoint_copy_resumed_bytes_total").await?, self.received(target).await?);
        // A process that was started anew counts from nothing.
        let base = if victim == Victim::Target { (0, 0) } else { before };
        let (resumed, received) = (now.0 - base.0, now.1 - base.1);
        println!(
            "{deed:?}, {victim:?} killed: first call {}, {} MiB received, {} MiB resumed",
            outcome.as_ref().map_or_else(|status| format!("{:?}", status.code()), |&()| "ok".to_owned()),
            received >> 20,
            resumed >> 20
        );
        let total = (CONTENT_MIB << 20) + (100 << 20);
        let at_most = if victim == Victim::Target { total - RESUMED_AT_LEAST } else { total };
        ensure!(received <= at_most, "{received} bytes were received of {total}: it began anew");
        // A source that comes back while its target still tries is gone on with in the same call.
        if outcome.is_err() {
            ensure!(resumed >= RESUMED_AT_LEAST, "only {resumed} bytes were resumed");
        }
        self.check(deed, source, target).await?;
        let leaked = (loops_below(self.stack.path())?.len(), mounts_below(self.stack.path())?.len());
        ensure!(leaked == leaked_before, "loop devices and mounts: {leaked:?} instead of {leaked_before:?}");
        for host in self.stack.hosts() {
            for entry in std::fs::read_dir(host.pool.join("volumes"))? {
                let name = entry?.file_name().to_string_lossy().into_owned();
                ensure!(
                    !name.starts_with(".part-") && !name.starts_with(".new-"),
                    "{name} is left on {}",
                    host.name
                );
            }
        }
        Ok(())
    }

    async fn received(&self, host: usize) -> Result<u64> {
        self.figure(host, "stillpoint_copy_received_bytes_total").await
    }

    /// Every byte is there, where it should be and nowhere else.
    async fn check(&mut self, deed: Deed, source: usize, target: usize) -> Result<()> {
        let listed = self.operator.list_volumes(api::ListVolumesRequest {}).await?.into_inner().volumes;
        let name = if deed == Deed::Restore { "copy-data" } else { "data" };
        let found: Vec<_> = listed.iter().filter(|volume| volume.name == name).collect();
        let [one] = found.as_slice() else { bail!("{} volumes are called {name}: {listed:?}", found.len()) };
        ensure!(one.host == HOSTS[target], "{name} is on {}", one.host);
        let attached = self.attach(name, target, &one.id).await?;
        let same = command("cmp", &[self.content.as_os_str(), attached.path.join("content").as_os_str()]);
        match deed {
            Deed::Restore => self.stack.retire(&attached).await?,
            Deed::Move => {
                self.stack.detach(&attached).await?;
                ensure!(one.id == self.volume, "the id is now {}", one.id);
                let image = self.stack.hosts()[source].pool.join("volumes").join(&self.volume);
                ensure!(!image.exists(), "the source still has {}", image.display());
                self.at = target;
            }
        }
        same
    }

    async fn attach(&self, name: &str, host: usize, id: &str) -> Result<Volume> {
        let node = self.stack.hosts()[host].node();
        node.attach(name, HOSTS[host], id, "xfs", std::collections::HashMap::new()).await
    }
}

async fn ask(
    mut operator: OperatorClient<Channel>,
    deed: Deed,
    volume: String,
    to: &str,
) -> Result<(), tonic::Status> {
    let to_host = to.to_owned();
    match deed {
        Deed::Restore => {
            let (id_or_name, prefix) = ("cut".to_owned(), "copy-".to_owned());
            let request = api::RestoreRequest { id_or_name, prefix, only: vec![], to_host };
            operator.restore(request).await.map(drop)
        }
        Deed::Move => operator.r#move(api::MoveRequest { volume, to_host }).await.map(drop),
    }
}

async fn wait_for(path: &Path) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !path.exists() {
        ensure!(Instant::now() < end, "{} does not appear", path.display());
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_killed_in_the_middle_of_a_copy_it_is_gone_on_with_and_nothing_is_leaked() -> Result<()> {
    let test = "kills in the middle of copies";
    if let Some(why) = [BackendKind::Btrfs, BackendKind::Xfs].into_iter().find_map(why_not) {
        skip(test, &why);
        return Ok(());
    }
    if !cfg!(debug_assertions) {
        skip(test, "fault points exist in debug builds only");
        return Ok(());
    }
    let mut scene = Scene::build().await?;
    for deed in [Deed::Restore, Deed::Move] {
        for victim in [Victim::Source, Victim::Target, Victim::Controller] {
            scene.case(deed, victim).await.with_context(|| format!("{deed:?}, {victim:?} killed"))?;
        }
    }
    let left = scene.stack.close()?;
    ensure!(left.is_clean(), "something had to be released by force: {left}");
    Ok(())
}
