//! The binaries that are shipped, once: `make smoke` names them in `STILLPOINT_BINARIES`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use stillpoint::domain::{Bytes, Level};
use stillpoint_tests::harness::operator::Barrier;
use stillpoint_tests::harness::stack::{Pod, Rcu};
use stillpoint_tests::harness::{Blueprint, Lack, Stack, binaries, skip};

const NODES: [&str; 3] = ["a", "b", "c"];
const FILESYSTEMS: [&str; 3] = ["xfs", "ext4", "xfs"];
const SELECTOR: &str = "app=smoke";

fn pod(node: &str) -> Pod {
    Pod {
        name: format!("pod-{node}"),
        labels: [("app".to_owned(), "smoke".to_owned())].into(),
        host: node.into(),
        containers: vec!["main".into()],
        volumes: vec![format!("data-{node}")],
        exec: vec!["sh".into(), "-c".into()],
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the binaries that are shipped; run by: make smoke"]
async fn shipped_binaries_take_and_restore_a_group_snapshot_and_have_no_test_switch() -> Result<()> {
    const TEST: &str = "the binaries that are shipped";
    let directory =
        std::env::var_os("STILLPOINT_BINARIES").context("STILLPOINT_BINARIES is not set; run: make smoke")?;
    let shipped = PathBuf::from(directory).join("stillpoint");
    ensure!(
        binaries::binary("stillpoint")? == shipped,
        "{} is not there; run: make build",
        shipped.display()
    );
    if let Some(why) = Lack::of_root() {
        skip(TEST, &why);
        return Ok(());
    }
    let blueprint = Blueprint {
        hosts: NODES.map(String::from).to_vec(),
        pool_size: Bytes::gib(8),
        pods: NODES.map(pod).to_vec(),
        rcu: Rcu::Auto,
    };
    let stack = Stack::start(Stack::directory("shipped")?, &blueprint).await?;
    let mut volumes = Vec::new();
    for (node, filesystem) in NODES.into_iter().zip(FILESYSTEMS) {
        let volume = stack.provision(&format!("data-{node}"), node, Bytes::mib(320), filesystem).await?;
        fs::write(volume.path.join("written"), format!("before, on {node}"))?;
        volumes.push(volume);
    }
    let record = stack.operator().snapshot("smoke", SELECTOR, None, Barrier::Together).await?;
    ensure!(record.level == Level::Filesystem && record.members.len() == NODES.len(), "{record:?}");
    let refused = stack.operator().snapshot("serial", SELECTOR, None, Barrier::OneByOne).await;
    let refused = refused.err().context("the shipped controller takes volumes one after another")?;
    ensure!(format!("{refused:#}").contains("always quiesces all of them together"), "{refused:#}");

    for volume in &volumes {
        fs::write(volume.path.join("written"), "after")?;
    }
    for restored in stack.operator().restore("smoke", "restored-", &[]).await? {
        let index =
            NODES.iter().position(|node| *node == restored.host).context("restored on an unknown node")?;
        let volume = stack.attach(&restored, FILESYSTEMS[index]).await?;
        let text = fs::read_to_string(volume.path.join("written"))?;
        ensure!(text == format!("before, on {}", restored.host), "{} has {text:?}", restored.name);
        stack.retire(&volume).await?;
    }
    for volume in &volumes {
        stack.retire(volume).await?;
    }
    let left = stack.close()?;
    ensure!(left.is_clean(), "something had to be released by force: {left}");
    Ok(())
}
