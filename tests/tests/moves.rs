//! Volumes that move between real hosts (btrfs and XFS) and keep their id: by the command line, with the product's own
//! processes. Needs root; says so when it skips.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stillpoint::backend::BackendKind;
use stillpoint::domain::Bytes;
use stillpoint_tests::harness::bench::command;
use stillpoint_tests::harness::binaries::binary;
use stillpoint_tests::harness::csi::{Volume, from_snapshot};
use stillpoint_tests::harness::leftovers::{loops_below, mounts_below};
use stillpoint_tests::harness::process::{Output, run};
use stillpoint_tests::harness::skip;
use stillpoint_tests::harness::stack::{Blueprint, Options, Rcu, Stack};
use stillpoint_tests::scratch::why_not;

const SIZE: Bytes = Bytes::mib(320);
const COMMAND_LIMIT: Duration = Duration::from_mins(2);
const FILE: &str = "content";

/// Hosts a (btrfs) and b (XFS).
async fn stack(label: &str) -> Result<Option<Stack>> {
    if let Some(why) = [BackendKind::Btrfs, BackendKind::Xfs].into_iter().find_map(why_not) {
        skip(label, &why);
        return Ok(None);
    }
    let blueprint = Blueprint {
        hosts: vec!["a".into(), "b".into()],
        pool_size: Bytes::gib(4),
        pods: vec![],
        rcu: Rcu::Auto,
    };
    let options = Options { xfs: vec!["b".into()], ..Options::default() };
    Stack::start_as(Stack::directory(label)?, &blueprint, &options).await.map(Some)
}

async fn stillpoint(stack: &Stack, args: &[&str]) -> Result<Output> {
    let socket = stack.operator().socket().display().to_string();
    let args = args.iter().copied().chain(["--socket", &socket]).map(std::ffi::OsString::from);
    run(None, &binary("stillpoint")?, args.collect::<Vec<_>>(), COMMAND_LIMIT).await
}

/// What `stillpoint volumes` shows, by name.
async fn shown(stack: &Stack, name: &str) -> Result<Value> {
    let listed = stillpoint(stack, &["volumes", "-o", "json"]).await?;
    let listed: Vec<Value> = serde_json::from_str(&listed.stdout).context("the list is no JSON")?;
    listed.into_iter().find(|volume| volume["name"] == name).with_context(|| format!("{name} is not listed"))
}

async fn attach(stack: &Stack, name: &str, host: &str, id: &str) -> Result<Volume> {
    let node = stack.hosts().iter().find(|found| found.name == host).context("no such host")?.node();
    node.attach(name, host, id, "xfs", std::collections::HashMap::new()).await
}

fn same(left: &Path, right: &Path) -> Result<()> {
    command("cmp", &[left.as_os_str(), right.as_os_str()])
}

/// Everything of volumes in a pool.
fn entries(pool: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for part in ["volumes", "moves"] {
        let Ok(entries) = std::fs::read_dir(pool.join(part)) else { continue };
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !name.starts_with(".gone-") {
                found.push(format!("{part}/{name}"));
            }
        }
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_moves_and_returns_under_its_id_with_its_data_and_its_snapshots_stay() -> Result<()> {
    let Some(stack) = stack("a-move").await? else { return Ok(()) };
    let nothing = (loops_below(stack.path())?.len(), mounts_below(stack.path())?.len());
    let content = stack.path().join("content.bin");
    command(
        "dd",
        &[
            "if=/dev/urandom".as_ref(),
            format!("of={}", content.display()).as_ref(),
            "bs=1M".as_ref(),
            "count=40".as_ref(),
            "status=none".as_ref(),
        ],
    )?;
    let used = stack.provision("data", "a", SIZE, "xfs").await?;
    std::fs::copy(&content, used.path.join(FILE))?;
    std::fs::File::open(used.path.join(FILE))?.sync_all()?;
    let before = stack.csi().snapshot("before", &used.id).await?;

    // In use: refused, with where and what to do.
    let refused = stillpoint(&stack, &["move", "data", "--to", "b"]).await?;
    ensure!(!refused.success, "a volume in use was moved");
    for word in ["in use", "host a", "unstage"] {
        ensure!(refused.stderr.contains(word), "no {word:?} in {}", refused.stderr);
    }
    std::fs::write(used.path.join("more"), "x").context("the volume is not writable after a refused move")?;
    std::fs::remove_file(used.path.join("more"))?;
    stack.detach(&used).await?;

    let moved = stillpoint(&stack, &["move", "data", "--to", "b"]).await?;
    ensure!(
        moved.success && moved.stdout.contains(&format!("its id is still {}", used.id)),
        "{}{}",
        moved.stdout,
        moved.stderr
    );
    let listed = shown(&stack, "data").await?;
    ensure!(listed["id"] == used.id.as_str() && listed["host"] == "b", "{listed}");
    let there = attach(&stack, "data", "b", &used.id).await?;
    same(&content, &there.path.join(FILE))?;
    std::fs::write(there.path.join("written-there"), "y")?;
    let after = stack.csi().snapshot("after", &used.id).await?;
    let again = stillpoint(&stack, &["move", &used.id, "--to", "b"]).await?;
    ensure!(again.success && again.stdout.contains("already"), "{}{}", again.stdout, again.stderr);

    // The snapshot from before is restored where it is, and where the volume is.
    for host in ["a", "b"] {
        let name = format!("restored-{host}");
        let restored = stack.csi().create(&name, host, SIZE, "xfs", Some(from_snapshot(&before))).await?;
        let restored = attach(&stack, &name, host, &restored.volume_id).await?;
        same(&content, &restored.path.join(FILE))?;
        ensure!(!restored.path.join("written-there").exists());
        stack.retire(&restored).await?;
    }
    stack.detach(&there).await?;

    // And back, from XFS to btrfs.
    let back = stillpoint(&stack, &["move", &used.id, "--to", "a", "-o", "json"]).await?;
    let told: Value =
        serde_json::from_str(&back.stdout).with_context(|| format!("{}{}", back.stdout, back.stderr))?;
    ensure!(told["id"] == used.id.as_str() && told["host"] == "a" && told["fromHost"] == "b", "{told}");
    let here = attach(&stack, "data", "a", &used.id).await?;
    same(&content, &here.path.join(FILE))?;
    ensure!(std::fs::read(here.path.join("written-there"))? == b"y");
    stack.retire(&here).await?;
    for snapshot in [before, after] {
        stack.csi().delete_snapshot(&snapshot).await?;
    }
    for host in stack.hosts() {
        let left = entries(&host.pool)?;
        ensure!(left.is_empty(), "left on {}: {left:?}", host.name);
    }
    let now = (loops_below(stack.path())?.len(), mounts_below(stack.path())?.len());
    ensure!(now == nothing, "loop devices and mounts: {now:?} instead of {nothing:?}");
    let left = stack.close()?;
    ensure!(left.is_clean(), "something had to be released by force: {left}");
    Ok(())
}
