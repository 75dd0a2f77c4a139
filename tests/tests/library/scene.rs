//! Two hosts, the volumes of one server on them, and its pod.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use stillpoint::domain::record::CutRecord;
use stillpoint::domain::{Bytes, Level};
use stillpoint_rules::run::Run;
use stillpoint_tests::harness::csi::Volume;
use stillpoint_tests::harness::operator::Barrier;
use stillpoint_tests::harness::stack::{Options, Rcu};
use stillpoint_tests::harness::{Blueprint, Lack, Pod, RunDir, Stack, binaries, skip};
use tokio::task::JoinHandle;

/// The hosts; volumes are on them in turns.
pub const HOSTS: [&str; 2] = ["a", "b"];
/// How long load runs between two things that are looked at.
pub const LOAD: Duration = Duration::from_millis(1500);
/// What must happen at all happens within this.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// Between two looks at something that must come.
pub const LOOK_AGAIN: Duration = Duration::from_millis(5);
const FILESYSTEM: &str = "xfs";
const POOL: Bytes = Bytes::gib(16);
const SIZE: Bytes = Bytes::mib(512);

/// A rule of the library, as it is in its file.
pub fn rule(file: &str) -> Result<String> {
    let path = binaries::source_directory().join("../deploy/rules-library").join(file);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// Says that a test cannot run here and why, if it cannot.
pub fn can_run(test: &str, why_not: Option<Lack>) -> bool {
    if let Some(why) = &why_not {
        skip(test, why);
    }
    why_not.is_none()
}

/// Fault points of the controller of a stack that was started with them.
pub struct Points(PathBuf);

impl Points {
    /// Of the stack whose processes look below `directory`.
    pub fn new(directory: &Path) -> Self {
        Self(directory.join("controller"))
    }

    /// What the controller does when it comes there the next time: `kill` or `wait`.
    pub fn arm(&self, point: &str, order: &str) -> Result<()> {
        for used in [self.0.join(format!("{point}.hit")), self.0.join(format!("{point}.go"))] {
            let _fresh = fs::remove_file(used);
        }
        fs::write(self.0.join(point), order).with_context(|| format!("cannot arm {point}"))
    }

    /// Waits until the controller has come there.
    pub async fn until_hit(&self, point: &str) -> Result<()> {
        let hit = self.0.join(format!("{point}.hit"));
        until(point, || hit.exists()).await
    }

    /// One that waits goes on.
    pub fn go(&self, point: &str) -> Result<()> {
        fs::write(self.0.join(format!("{point}.go")), "").with_context(|| format!("cannot let {point} go on"))
    }
}

/// Waits for something that must come.
pub async fn until(what: &str, done: impl Fn() -> bool) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !done() {
        ensure!(Instant::now() < end, "{what} did not come within {PATIENCE:?}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// One cut and what is known of it.
pub struct Cut {
    /// When it was asked for.
    pub asked: Instant,
    /// Whatever was acknowledged before this must be in it.
    pub hold_began: Instant,
    /// What was recorded of its rule.
    pub run: Option<Run>,
}

/// What is set up. The server and its load are the test's, and end before this.
pub struct Scene {
    /// The hosts and the controller.
    pub stack: Stack,
    /// The volumes, in the order in which they were named.
    pub volumes: Vec<Volume>,
    app: &'static str,
    tools: PathBuf,
}

impl Scene {
    /// Hosts, volumes of these names, and a pod with the label `app`. The secrets are `name/key` and text.
    pub async fn build(
        app: &'static str,
        volumes: &[&str],
        secrets: &[(&str, &str)],
        options: Options,
    ) -> Result<Self> {
        Self::build_in(Stack::directory(&format!("library-{app}"))?, app, volumes, secrets, options).await
    }

    /// As [`Self::build`], in a directory that is there.
    pub async fn build_in(
        run: RunDir,
        app: &'static str,
        volumes: &[&str],
        secrets: &[(&str, &str)],
        mut options: Options,
    ) -> Result<Self> {
        let tools = run.directory("pod/bin")?;
        let directory = run.directory("secrets")?;
        for (place, text) in secrets {
            let file = directory.join(place);
            fs::create_dir_all(file.parent().context("a key is in a secret")?)?;
            fs::write(&file, text)?;
        }
        options.controller.insert("secrets".into(), json!(directory));
        let path = format!("PATH={}:/usr/local/bin:/usr/bin:/bin", tools.display());
        let pod = Pod {
            name: format!("{app}-0"),
            labels: [("app".to_owned(), app.to_owned())].into(),
            host: HOSTS[0].into(),
            containers: vec![app.into()],
            volumes: volumes.iter().map(|name| (*name).to_owned()).collect(),
            exec: vec!["env".into(), path],
        };
        let blueprint = Blueprint {
            hosts: HOSTS.map(String::from).to_vec(),
            pool_size: POOL,
            pods: vec![pod],
            rcu: Rcu::Auto,
        };
        let stack = Stack::start_as(run, &blueprint, &options).await?;
        let mut made = Vec::new();
        for (name, host) in volumes.iter().zip(HOSTS.into_iter().cycle()) {
            made.push(stack.provision(name, host, SIZE, FILESYSTEM).await?);
        }
        Ok(Self { stack, volumes: made, app, tools })
    }

    /// Directory of the run.
    pub fn path(&self) -> &Path {
        self.stack.path()
    }

    /// Where a volume is mounted.
    pub fn mounted(&self, index: usize) -> PathBuf {
        self.volumes[index].path.clone()
    }

    /// A client program of the pod, which reaches this test's server without being told where it is.
    pub fn client(&self, name: &str, program: &Path, arguments: &[String]) -> Result<()> {
        let path = self.tools.join(name);
        fs::write(&path, format!("#!/bin/sh\nexec {} {} \"$@\"\n", program.display(), arguments.join(" ")))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    /// A cut with this rule; its level must be `application`.
    pub async fn cut(&self, name: &str, rule: &str) -> Result<Cut> {
        let cut = self.take(name, Some(rule)).await?;
        let (record, cut) = cut;
        ensure!(
            record.level == Level::Application,
            "{name} reached only {}: {:?}",
            record.level,
            record.reasons
        );
        Ok(cut)
    }

    /// A cut without a rule.
    pub async fn plain_cut(&self, name: &str) -> Result<Cut> {
        Ok(self.take(name, None).await?.1)
    }

    /// A cut with this rule, whatever comes of it.
    pub fn ask(&self, name: &str, rule: &str) -> JoinHandle<Result<CutRecord>> {
        let (operator, selector) = (self.stack.operator().clone(), format!("app={}", self.app));
        let (name, rule) = (name.to_owned(), rule.to_owned());
        tokio::spawn(async move { operator.snapshot(&name, &selector, Some(&rule), Barrier::Together).await })
    }

    /// What is on record of the cut of this name.
    pub fn run(&self, name: &str) -> Result<Run> {
        let run = self.runs()?.into_iter().find(|run| run.name == name);
        run.with_context(|| format!("there is no record of {name}"))
    }

    async fn take(&self, name: &str, rule: Option<&str>) -> Result<(CutRecord, Cut)> {
        let (asked, selector) = (Instant::now(), format!("app={}", self.app));
        let record = self.stack.operator().snapshot(name, &selector, rule, Barrier::Together).await?;
        ensure!(record.members.len() == self.volumes.len(), "{} volumes were cut", record.members.len());
        let window = record.timeline.as_ref().context("a sealed cut has a timeline")?.window_us;
        // The clock was read within the window, so the length of the window before that is before the hold.
        let since_cut = jiff::Timestamp::now().duration_since(record.cut_at);
        let since_cut = Duration::try_from(since_cut).context("the clock was set back")?;
        let since_hold = since_cut + Duration::from_micros(window);
        let hold_began = Instant::now().checked_sub(since_hold).context("the machine has just started")?;
        println!("{}: {name}: window {window} µs", self.app);
        let cut = Cut { asked, hold_began, run: self.runs()?.into_iter().find(|run| run.name == name) };
        Ok((record, cut))
    }

    /// The controller's records of runs, the newest first.
    pub fn runs(&self) -> Result<Vec<Run>> {
        runs(self.path())
    }

    /// All members of a cut as new volumes, in the order of [`Self::volumes`].
    pub async fn restore(&self, cut: &str, prefix: &str) -> Result<Vec<Volume>> {
        let restored = self.stack.operator().restore(cut, prefix, &[]).await?;
        let mut volumes = Vec::new();
        for original in &self.volumes {
            let one = restored.iter().find(|volume| volume.from == original.name);
            let one = one.with_context(|| format!("{} was not restored from {cut}", original.name))?;
            volumes.push(self.stack.attach(one, FILESYSTEM).await?);
        }
        Ok(volumes)
    }

    /// As [`Self::restore`], for a server of two volumes.
    pub async fn restore_pair(&self, cut: &str, prefix: &str) -> Result<[PathBuf; 2]> {
        let volumes = self.restore(cut, prefix).await?;
        let [first, second] = volumes.as_slice() else { bail!("there are two volumes") };
        Ok([first.path.clone(), second.path.clone()])
    }

    /// Snapshots on all pools, half-made ones left out.
    pub fn snapshots(&self) -> usize {
        let pools = self.stack.hosts().iter().map(|host| host.pool.join("snapshots"));
        let below =
            |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
        let is_named =
            |path: &PathBuf| path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.'));
        pools.flat_map(below).flat_map(below).filter(is_named).filter(|path| path.is_dir()).count()
    }

    /// Ends everything; nothing may need force.
    pub fn close(self) -> Result<()> {
        let left = self.stack.close()?;
        ensure!(left.is_clean(), "something had to be released by force: {left}");
        Ok(())
    }
}

/// The runs that the controller of a stack has written down, the newest first.
pub fn runs(stack: &Path) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    for entry in fs::read_dir(stack.join("controller/runs"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|kind| kind == "json") {
            // Published by rename: what is there is whole.
            let run: Run = serde_json::from_slice(&fs::read(&path)?)?;
            runs.push(run);
        }
    }
    runs.sort_by_key(|run| std::cmp::Reverse(run.started_at));
    Ok(runs)
}
