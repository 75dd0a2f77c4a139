//! Schedules in a real standalone controller over a real pool: cuts come and go by themselves, a killed controller
//! loses and doubles nothing, a rule that hangs stops neither its schedule nor the others.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use stillpoint::domain::Bytes;
use stillpoint_tests::harness::bench::needs_root;
use stillpoint_tests::harness::stack::{Blueprint, Options, Pod, Rcu, Stack};
use stillpoint_tests::harness::{binaries, process};

/// Longer than anything takes here by far.
const PATIENCE: Duration = Duration::from_mins(1);
const LOOK: Duration = Duration::from_millis(100);

struct Stage {
    stack: Stack,
    faults: PathBuf,
    rule: PathBuf,
    hang: PathBuf,
}

impl Stage {
    /// One host with the volumes `data` and `log`, a pod that has them, and these schedules. The rule's command hangs
    /// while the file `hang` exists.
    async fn new(label: &str, schedules: impl FnOnce(&Path) -> Value) -> Result<Option<Self>> {
        if !needs_root(label) {
            return Ok(None);
        }
        let run = Stack::directory(label)?;
        let (rule, hang) = (run.path().join("rule.yaml"), run.path().join("hang"));
        let command = format!("while test -e {}; do sleep 0.1; done", hang.display());
        let text = json!({
            "kind": "Rule", "name": "flush", "podSelector": {"app": "db"}, "type": "command", "value": command,
        });
        fs::write(&rule, serde_yaml::to_string(&text)?)?;
        let pod = Pod {
            name: "db-0".into(),
            labels: [("app".to_owned(), "db".to_owned())].into(),
            host: "a".into(),
            containers: vec!["main".into()],
            volumes: vec!["data".into(), "log".into()],
            exec: vec![],
        };
        let blueprint =
            Blueprint { hosts: vec!["a".into()], pool_size: Bytes::gib(8), pods: vec![pod], rcu: Rcu::Auto };
        let faults = run.directory("faults")?;
        let Value::Object(controller) = json!({"schedules": schedules(&rule)}) else { bail!("an object") };
        let options = Options { controller, fault_points: Some(faults.clone()), ..Options::default() };
        let faults = faults.join("controller");
        // Before the volumes exist runs fail: that is part of what follows.
        let stack = Stack::start_as(run, &blueprint, &options).await?;
        for name in ["data", "log"] {
            stack.provision(name, "a", Bytes::mib(512), "xfs").await?;
        }
        Ok(Some(Self { stack, faults, rule, hang }))
    }

    async fn ask(&self, words: &[&str]) -> Result<process::Output> {
        let socket = self.stack.operator().socket().display().to_string();
        let words = words.iter().map(|word| (*word).to_owned()).chain(["--socket".to_owned(), socket]);
        process::run(None, &binaries::binary("stillpoint")?, words, PATIENCE).await
    }

    async fn json(&self, words: &[&str]) -> Result<Value> {
        let output = self.ask(&[words, &["-o", "json"]].concat()).await?;
        serde_json::from_str(&output.stdout).with_context(|| format!("{words:?}: {}", output.stderr))
    }

    async fn schedule(&self, name: &str) -> Result<Value> {
        self.json(&["schedules", name]).await
    }

    /// Events of this kind, newest first.
    async fn events(&self, name: &str, kind: &str) -> Result<Vec<Value>> {
        let one = self.schedule(name).await?;
        let all = one["history"].as_array().context("a history")?.iter().map(|entry| entry["event"].clone());
        Ok(all.filter(|event| event["kind"] == kind).collect())
    }

    /// Waits until there are so many events of this kind.
    async fn until(&self, name: &str, kind: &str, count: usize) -> Result<Vec<Value>> {
        let end = Instant::now() + PATIENCE;
        loop {
            let events = self.events(name, kind).await.unwrap_or_default();
            if events.len() >= count {
                return Ok(events);
            }
            if Instant::now() > end {
                bail!(
                    "{} events {kind} of {name}, not {count}: {}",
                    events.len(),
                    self.schedule(name).await?
                );
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn cuts(&self) -> Result<Vec<String>> {
        Ok(self.stack.operator().cuts().await?.into_iter().map(|cut| cut.name).collect())
    }

    /// Snapshots of a volume that are on the pool's disk.
    fn snapshots(&self) -> Result<usize> {
        let mut count = 0;
        for volume in fs::read_dir(self.stack.hosts()[0].pool.join("snapshots"))? {
            count = count.max(
                fs::read_dir(volume?.path())?
                    .filter(|entry| {
                        entry.as_ref().is_ok_and(|entry| {
                            entry.path().is_dir() && !entry.file_name().to_string_lossy().starts_with('.')
                        })
                    })
                    .count(),
            );
        }
        Ok(count)
    }

    /// What the controller has on disk.
    fn book(&self, name: &str) -> Result<Value> {
        let path = self.stack.path().join("controller/schedules").join(format!("{name}.json"));
        Ok(serde_json::from_str(&fs::read_to_string(path)?)?)
    }

    /// The controller dies when it passes this point.
    fn kill_at(&mut self, point: &str) -> Result<()> {
        fs::write(self.faults.join(point), "kill")?;
        self.stack.controller_mut().wait_end(PATIENCE)?;
        ensure!(self.faults.join(format!("{point}.hit")).exists(), "it died of something else");
        Ok(())
    }

    /// A new connection: the old one belongs to a dead controller.
    async fn revive(&mut self) -> Result<()> {
        self.stack.revive().await?;
        let end = Instant::now() + PATIENCE;
        while self.json(&["schedules"]).await.is_err() {
            ensure!(Instant::now() < end, "the controller does not answer");
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}

fn names(list: &Value) -> BTreeSet<String> {
    let names = list.as_array().into_iter().flatten().filter_map(|made| made["name"].as_str());
    names.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn cuts_come_and_go_by_themselves_and_a_suspension_outlives_a_restart() -> Result<()> {
    let schedules = |_: &Path| {
        json!([{
            "name": "fast", "every": "2s", "catchUp": "1m",
            "cut": {"selectors": ["app=db"]}, "retention": {"last": 2, "failed": 0},
        }])
    };
    let Some(mut stage) = Stage::new("schedules-keep", schedules).await? else { return Ok(()) };
    stage
        .stack
        .operator()
        .snapshot("by-hand", "app=db", None, stillpoint_tests::harness::operator::Barrier::Together)
        .await?;
    stage.until("fast", "succeeded", 5).await?;
    let overview = stage.ask(&["schedules"]).await?;
    ensure!(overview.success, "all is protected: {}{}", overview.stdout, overview.stderr);
    ensure!(overview.stdout.contains("every 2s") && overview.stdout.contains("fast"), "{}", overview.stdout);

    ensure!(stage.ask(&["schedules", "suspend", "fast"]).await?.success);
    stage.stack.controller_mut().stop(Signal::SIGTERM, PATIENCE)?;
    stage.revive().await?;
    // Two due instants pass, and are told as skipped.
    let end = Instant::now() + PATIENCE;
    loop {
        let skipped = stage.events("fast", "skipped").await?;
        let suspended = skipped.iter().filter(|event| event["why"] == "suspended");
        let count: u64 = suspended.filter_map(|event| event["missed"].as_u64()).sum();
        if count >= 2 {
            break;
        }
        ensure!(Instant::now() < end, "{skipped:?}");
        tokio::time::sleep(LOOK).await;
    }
    let one = stage.schedule("fast").await?;
    ensure!(one["suspended"]["byHand"].is_string() && one["next"].is_null(), "{one}");
    let kept = names(&stage.book("fast")?["made"]);
    ensure!(kept.len() == 2, "the last two are kept: {kept:?}");
    let mut expected: BTreeSet<String> = kept.clone();
    expected.insert("by-hand".into());
    ensure!(
        stage.cuts().await?.into_iter().collect::<BTreeSet<_>>() == expected,
        "{:?}",
        stage.cuts().await?
    );
    ensure!(stage.snapshots()? == 3, "the others are gone from the disk: {}", stage.snapshots()?);
    let unprotected = stage.ask(&["schedules"]).await?;
    ensure!(
        !unprotected.success && unprotected.stderr.contains("not protected as scheduled"),
        "{}",
        unprotected.stderr
    );
    ensure!(
        unprotected.stdout.contains("OVERDUE") && unprotected.stdout.contains("data"),
        "{}",
        unprotected.stdout
    );

    let plan = stage.json(&["schedules", "plan", "fast", "--next", "3"]).await?;
    ensure!(plan["suspended"] == true && plan["due"].as_array().is_some_and(|due| due.len() == 3), "{plan}");
    ensure!(
        plan["cuts"].as_array().is_some_and(|cuts| cuts.iter().all(|cut| cut["deleted"] == false)),
        "{plan}"
    );
    let by_hand = stage.json(&["schedules", "run", "fast"]).await?;
    ensure!(by_hand["cut"]["name"].as_str().is_some_and(|name| name.starts_with("fast-now-")), "{by_hand}");

    let before = stage.events("fast", "succeeded").await?.len();
    ensure!(stage.ask(&["schedules", "resume", "fast"]).await?.success);
    stage.until("fast", "succeeded", before + 2).await?;
    ensure!(
        stage.cuts().await?.contains(&"by-hand".to_owned()),
        "what the schedule did not make is not deleted"
    );
    ensure!(stage.ask(&["schedules", "suspend", "slow"]).await?.stderr.contains("there is no schedule slow"));
    stage.stack.close().map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_is_killed_loses_no_due_run_and_doubles_none() -> Result<()> {
    let schedules = |_: &Path| json!([{"name": "fast", "every": "2s", "cut": {"volumes": ["data"]}}]);
    let Some(mut stage) = Stage::new("schedules-kill", schedules).await? else { return Ok(()) };
    stage.until("fast", "succeeded", 1).await?;
    for (point, made) in [("controller.schedule.recorded", false), ("controller.schedule.cut", true)] {
        stage.kill_at(point)?;
        let open = stage.book("fast")?["open"].clone();
        let cut =
            open["cut"].as_str().with_context(|| format!("no open run after {point}: {open}"))?.to_owned();
        stage.revive().await?;
        let end = Instant::now() + PATIENCE;
        let event = loop {
            let events = stage.events("fast", "succeeded").await?;
            if let Some(event) = events.into_iter().find(|event| event["run"]["cut"] == *cut) {
                break event;
            }
            ensure!(Instant::now() < end, "{cut} never succeeded: {}", stage.schedule("fast").await?);
            tokio::time::sleep(LOOK).await;
        };
        ensure!(event["run"]["tries"] == 2 && event["run"]["due"] == open["due"], "{event}");
        let of_name = stage.cuts().await?.into_iter().filter(|name| *name == cut).count();
        ensure!(of_name == 1, "{of_name} cuts are called {cut}");
        let at = stage.book("fast")?["made"]
            .as_array()
            .context("cuts")?
            .iter()
            .find(|one| one["name"] == *cut)
            .cloned();
        let taken: jiff::Timestamp =
            at.context("it is the schedule's")?["at"].as_str().context("an instant")?.parse()?;
        let revived = stage.stack.controller().pid();
        ensure!(revived > 0 && (made == (taken < began(revived)?)), "{point}: taken {taken}");
    }
    // Nothing was started twice: each due instant has one run.
    let book = stage.book("fast")?;
    let due: Vec<&str> = book["history"]
        .as_array()
        .context("a history")?
        .iter()
        .filter_map(|entry| entry["event"]["run"]["due"].as_str())
        .collect();
    ensure!(due.iter().collect::<BTreeSet<_>>().len() == due.len(), "{due:?}");
    let known = names(&book["made"]);
    let unknown: Vec<String> = stage.cuts().await?.into_iter().filter(|name| !known.contains(name)).collect();
    ensure!(unknown.len() <= 1, "cuts that the schedule does not know, but for one under way: {unknown:?}");
    stage.stack.close().map(drop)
}

/// When a process began.
fn began(pid: u32) -> Result<jiff::Timestamp> {
    let made = fs::metadata(format!("/proc/{pid}"))?.modified()?;
    Ok(jiff::Timestamp::try_from(made)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_hangs_is_given_up_and_the_next_due_run_succeeds() -> Result<()> {
    let schedules = |rule: &Path| {
        json!([
            {"name": "ruled", "every": "3s", "cut": {"selectors": ["app=db"], "rule": rule},
             "limits": {"run": "2s"}, "retention": {"last": 2}},
            {"name": "other", "every": "2s", "cut": {"volumes": ["log"]}, "retention": {"last": 2}},
        ])
    };
    let Some(stage) = Stage::new("schedules-hang", schedules).await? else { return Ok(()) };
    stage.until("ruled", "succeeded", 1).await?;
    fs::write(&stage.hang, "")?;
    let others = stage.events("other", "succeeded").await?.len();
    let given_up = async {
        let end = Instant::now() + PATIENCE;
        loop {
            let failed = stage.events("ruled", "failed").await?;
            let count = failed
                .iter()
                .filter(|event| event["why"].as_str().is_some_and(|why| why.contains("limits.run")))
                .count();
            if count >= 2 {
                return Ok(());
            }
            ensure!(Instant::now() < end, "{failed:?}");
            tokio::time::sleep(LOOK).await;
        }
    };
    let refused = async {
        let end = Instant::now() + PATIENCE;
        loop {
            let output = stage.ask(&["schedules", "run", "ruled"]).await?;
            if output.stderr.contains("never two runs of one schedule") {
                return Ok(());
            }
            ensure!(Instant::now() < end, "{}", output.stderr);
        }
    };
    tokio::try_join!(given_up, refused)?;
    stage.until("other", "succeeded", others + 2).await?;
    fs::remove_file(&stage.hang)?;
    let failed_at = stage.schedule("ruled").await?["lastRun"]["at"].clone();
    let end = Instant::now() + PATIENCE;
    loop {
        let last = stage.schedule("ruled").await?["lastRun"].clone();
        if last["event"]["kind"] == "succeeded" && last["at"] != failed_at {
            ensure!(last["event"]["level"] == "application", "{last}");
            break;
        }
        ensure!(Instant::now() < end, "{last}");
        tokio::time::sleep(LOOK).await;
    }
    // A rule that is not one any more: told, and put right while the controller runs.
    let good = fs::read_to_string(&stage.rule)?;
    fs::write(&stage.rule, good.replace("podSelector", "podSelektor"))?;
    let end = Instant::now() + PATIENCE;
    while !stage.schedule("ruled").await?["lastRun"]["event"]["why"]
        .as_str()
        .is_some_and(|why| why.contains("podSelektor"))
    {
        ensure!(Instant::now() < end, "a broken rule is not told");
        tokio::time::sleep(LOOK).await;
    }
    stage.stack.close().map(drop)
}
