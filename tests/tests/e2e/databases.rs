//! The example that everything began with: a ring of three Cassandra nodes and three PostgreSQL servers on three nodes,
//! all under write load; the ring is flushed by a rule and cut at one instant, together with one of the servers; all
//! of it is restored into another namespace beside the original. By the files of `deploy/examples/databases` and
//! plain kubectl.

mod restored;
mod shop;
mod told;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use stillpoint_tests::cluster::images;
use stillpoint_tests::cluster::workspace::Workspace;
use stillpoint_tests::harness::Step;

use crate::cluster;
use crate::manifests::READY_TO_USE;
use restored::Proof;
use shop::{ALONE, IN_GROUP, Loads, Shop, UNTOUCHED, example};
use told::RunTold;

/// Everything but the deletion; what waits has limits of its own.
const STORY_LIMIT: Duration = Duration::from_mins(15);
/// Load before the cut, to compare with.
const USUAL: Duration = Duration::from_secs(6);
/// Load after it.
const AFTER: Duration = Duration::from_secs(1);
/// Writers of a busy machine are slow at times; held they are for milliseconds.
const STALL_LIMIT: Duration = Duration::from_secs(20);

#[test]
#[ignore = "needs a cluster; run by: make e2e"]
fn a_ring_and_servers_under_load_are_cut_at_one_instant_and_restored_beside_the_original() {
    let begin = Instant::now();
    let space = Workspace::new(&cluster(), "shop").unwrap();
    images::databases::load(space.layout()).unwrap();
    let told = space.in_network(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime
            .block_on(async { tokio::time::timeout(STORY_LIMIT, story(&space)).await.context("too slow")? })
    });
    told.unwrap().unwrap();
    let step = Step::begin("deleting everything");
    space.close().unwrap();
    step.done();
    println!("the example from beginning to end: {:.0} s", begin.elapsed().as_secs_f64());
}

async fn story(space: &Workspace) -> Result<()> {
    let shop = Shop::open(space).await?;
    let mut loads = Loads::start(&shop).await?;
    let began = Instant::now();
    tokio::time::sleep(USUAL).await;

    let asked = Instant::now();
    let run = cut(space)?;
    let ready = Instant::now();
    println!(
        "  group snapshot asked for → ready to use: {:.1} s; {}",
        (ready - asked).as_secs_f64(),
        run.line()
    );
    let alone_asked = Instant::now();
    space.apply(&example("snapshot.yaml")?)?;
    space.wait("volumesnapshot/orders", READY_TO_USE)?;
    let alone_ready = Instant::now();
    tokio::time::sleep(AFTER).await;
    loads.check_alive()?;

    let required = Proof {
        rows: loads.ring.acknowledged_before(run.flush_began()?),
        in_group: loads.servers[IN_GROUP].acknowledged_before(run.hold_began()?),
        alone: loads.servers[ALONE].acknowledged_before(alone_asked),
    };
    let stalls = Stalls {
        usual: (began, asked),
        run: (asked, ready),
        window: run.window()?,
        alone: (alone_asked, alone_ready),
    };
    stalls.print(&loads)?;
    loads.stop().await?;

    restored::prove(&shop, &required).await?;
    refused_until_the_ring_is_whole(&shop)?;
    shop.close()
}

/// A pod is being replaced, as in a rolling restart or a drained node. The rule wants three, and is named by the claims.
fn refused_until_the_ring_is_whole(shop: &Shop<'_>) -> Result<()> {
    let space = shop.space;
    let step =
        Step::begin("a cut while a node of the ring restarts: refused in words, and taken when it is back");
    space.run(&["annotate", "pvc", "-l", "cut=shop", "stillpoint.dev/rule=flush-ring"])?;
    space.run(&["delete", "pod", "cassandra-2", "--wait=false"])?;
    let group = example("group-snapshot.yaml")?;
    let (annotations, spec) = (group.find("  annotations:"), group.find("spec:"));
    let plain =
        [&group[..annotations.context("no annotations")?], &group[spec.context("no spec")?..]].concat();
    space.apply(&plain.replace("name: shop\n", "name: restarting\n"))?;
    let told = space.wait("volumegroupsnapshot/restarting", "jsonpath={.status.error.message}");
    told.context("nobody says why it is not cut")?;
    let path = "jsonpath={.status.error.message}";
    let message = space.run(&["get", "volumegroupsnapshot/restarting", "-o", path])?;
    ensure!(says_that_the_ring_is_short(&message), "it does not say what is missing: {message}");
    space.wait("volumegroupsnapshot/restarting", READY_TO_USE)?;
    let run = RunTold::of(space, "restarting")?;
    run.check_level()?;
    step.done();
    println!("  it said: {message}");
    println!("  then: {}", run.line());
    Ok(())
}

/// The message names the pod that is not ready, or says how many pods the rule wants and how many there are.
fn says_that_the_ring_is_short(message: &str) -> bool {
    message.contains("cassandra-2 is not ready") || message.contains("2 of at least 3 pods match")
}

#[test]
fn only_a_message_that_says_what_is_missing_counts() {
    assert!(!says_that_the_ring_is_short("it takes a minute"));
    assert!(!says_that_the_ring_is_short("the command in cassandra-2 failed: exit code 1"));
    assert!(says_that_the_ring_is_short(
        "step `flush`: pod shop/cassandra-2 is not ready: it is being deleted"
    ));
}

/// Takes the group snapshot and looks at what its run says of itself.
fn cut(space: &Workspace) -> Result<RunTold> {
    let step = Step::begin("nodetool flush in three pods, and one cut of four volumes on three nodes");
    space.apply(&example("group-snapshot.yaml")?)?;
    space.wait("volumegroupsnapshot/shop", READY_TO_USE).map_err(|error| {
        let runs = space.run(&["get", "runs", "-o", "yaml"]).unwrap_or_default();
        error.context(runs)
    })?;
    // The group is ready a little before the last of its members says so too.
    let members = ["wait", &format!("--for={READY_TO_USE}"), "--timeout=60s", "volumesnapshots", "--all"];
    let members = space.run(&members)?;
    ensure!(members.lines().count() == 4, "three volumes of the ring and one of a server, not:\n{members}");
    let run = RunTold::of(space, "shop")?;
    run.check()?;
    step.done();
    Ok(run)
}

type Span = (Instant, Instant);

/// When writers are looked at.
struct Stalls {
    usual: Span,
    run: Span,
    window: Span,
    alone: Span,
}

impl Stalls {
    /// The longest that each writer waited for one answer.
    fn print(&self, loads: &Loads) -> Result<()> {
        println!("  longest wait for one answer, in ms:");
        println!("  {:44}{:>10}{:>12}{:>12}{:>12}", "", "usual", "flush+cut", "the window", "the other");
        let ring = |(from, to): Span| loads.ring.longest_stall(from, to);
        self.row("Cassandra, 3 nodes · flushed and cut", ring)?;
        for (server, what) in [
            (IN_GROUP, "cut with the ring"),
            (ALONE, "cut alone, afterwards (the other)"),
            (UNTOUCHED, "not cut at all"),
        ] {
            let of = |(from, to): Span| loads.servers[server].longest_stall(from, to);
            self.row(&format!("PostgreSQL {server} · {what}"), of)?;
        }
        Ok(())
    }

    fn row(&self, name: &str, longest: impl Fn(Span) -> Duration) -> Result<()> {
        let waits = [self.usual, self.run, self.window, self.alone].map(longest);
        let [usual, run, window, alone] = waits.map(|wait| wait.as_secs_f64() * 1000.0);
        println!("  {name:44}{usual:>10.0}{run:>12.0}{window:>12.0}{alone:>12.0}");
        let longest = waits.into_iter().max().context("there are four")?;
        ensure!(longest < STALL_LIMIT, "{name}: a writer waited for {longest:?}");
        Ok(())
    }
}
