//! Kafka, which has no rule: a plain cut of its records and its metadata, on two hosts.

use std::fs::File;
use std::time::Instant;

use anyhow::{Result, ensure};
use stillpoint_tests::harness::Stack;
use stillpoint_tests::harness::stack::Options;
use stillpoint_tests::workloads::kafka::{self, Java, Kafka, Volumes};

use super::scene::{LOAD, Scene, can_run, until};

const TEST: &str = "a plain cut of Kafka";

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_cut_of_kafka_has_all_that_was_acknowledged() -> Result<()> {
    if !can_run(TEST, kafka::why_not()) {
        return Ok(());
    }
    let run = Stack::directory("library-kafka")?;
    let java = Java::fetch(run.path()).await?;
    let volumes = ["kafka-records", "kafka-metadata"];
    let scene = Scene::build_in(run, "kafka", &volumes, &[], Options::default()).await?;
    let volumes = Volumes { records: scene.mounted(0), metadata: scene.mounted(1) };
    let mut server = Kafka::start(&java, "kafka", &volumes, scene.path()).await?;
    let mut load = server.load(2, scene.path()).await?;
    until("the first records", || load.acknowledged_before(Instant::now()).len() > 200).await?;
    scene.plain_cut("early").await?;
    tokio::time::sleep(LOAD).await;
    let cut = scene.plain_cut("late").await?;
    load.check_alive()?;
    server.process().check_alive()?;
    let required = load.acknowledged_before(cut.hold_began);

    let late = restored(&scene, "late", "late-").await?;
    println!("kafka: {:?}", kafka::check(&java, &late, &required, scene.path()).await?);
    let early = restored(&scene, "early", "early-").await?;
    let verdict =
        kafka::check(&java, &early, &required, scene.path()).await.expect_err("an earlier cut passes");
    ensure!(verdict.to_string().contains("are lost"), "{verdict:#}");
    // The broker cuts off what is half there, so the check must miss it.
    let short = restored(&scene, "late", "short-").await?;
    let segment = kafka::segment(&short)?;
    let length = segment.metadata()?.len();
    File::options().write(true).open(&segment)?.set_len(length / 2)?;
    let verdict = kafka::check(&java, &short, &required, scene.path()).await.expect_err("half a file passes");
    println!("kafka: half a file: {}", format!("{verdict:#}").lines().next().unwrap_or_default());

    let acknowledged = load.stop()?;
    ensure!(acknowledged.len() > required.len(), "producers have gone on");
    server.stop()?;
    scene.close()
}

async fn restored(scene: &Scene, cut: &str, prefix: &str) -> Result<Volumes> {
    let [records, metadata] = scene.restore_pair(cut, prefix).await?;
    Ok(Volumes { records, metadata })
}
