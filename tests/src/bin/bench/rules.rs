//! What rules cost: whether a rule makes the window of three hosts longer, how much longer than that window a session
//! holds, and what five hundred pods at once take.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use stillpoint::domain::Bytes;
use stillpoint::domain::record::CutRecord;
use stillpoint_rules::plan::Action;
use stillpoint_rules::run::{Attempt, Run};
use stillpoint_tests::harness::operator::Barrier;
use stillpoint_tests::harness::stack::Rcu;
use stillpoint_tests::harness::{Blueprint, Pod, Stack, Step};

use super::field::FILESYSTEM;
use super::table::{Goal, Row, Samples};

const HOSTS: [&str; 3] = ["a", "b", "c"];
const POOL: Bytes = Bytes::gib(8);
const SIZE: Bytes = Bytes::mib(320);
/// Pods that are worked with at once.
const CROWD: usize = 500;
/// Each of these takes seconds.
const CROWD_ROUNDS: u32 = 3;
/// Prints more than is kept, then works for two seconds.
const CROWD_COMMAND: &str = "head -c 100000 /dev/zero | tr '\\0' x; sleep 2";

const HEAD: &str =
    "apiVersion: stillpoint.dev/v1alpha1\nkind: Rule\nmetadata: {name: bench}\nspec:\n  steps:\n";

fn commands() -> String {
    format!(
        "{HEAD}  - name: flush\n    pods: {{selector: {{matchLabels: {{group: three}}}}}}\n    before: {{command: [\"true\"]}}\n    after: {{command: [\"true\"]}}\n"
    )
}

fn sessions() -> String {
    let script = "echo held; while read line; do echo \\\"$line\\\"; done";
    format!(
        "{HEAD}  - name: lock\n    pods: {{selector: {{matchLabels: {{group: three}}}}}}\n    hold: {{command: [sh, -c, \"{script}\"], ready: held, probe: {{send: still, expect: still}}, finish: [bye]}}\n"
    )
}

fn crowd() -> String {
    format!(
        "{HEAD}  - name: crowd\n    pods: {{selector: {{matchLabels: {{group: crowd}}}}, min: {CROWD}, parallel: {CROWD}}}\n    before: {{shell: \"{}\", timeout: 5m}}\n",
        CROWD_COMMAND.replace('\\', "\\\\")
    )
}

/// All of it, on three hosts of its own.
pub async fn all(rounds: u32) -> Result<Vec<Row>> {
    let stack = Stack::start(Stack::directory("bench-rules")?, &blueprint()).await?;
    for host in HOSTS {
        stack.provision(&volume(host), host, SIZE, FILESYSTEM).await?;
    }
    let mut rows = windows(&stack, rounds).await?;
    rows.extend(crowds(&stack).await?);
    let left = stack.close()?;
    ensure!(left.is_clean(), "something had to be released by force: {left}");
    Ok(rows)
}

fn blueprint() -> Blueprint {
    let three = HOSTS.map(|host| pod(&format!("three-{host}"), "three", host, vec![volume(host)]));
    let crowd = (0..CROWD).map(|number| pod(&format!("crowd-{number}"), "crowd", HOSTS[0], vec![]));
    Blueprint {
        hosts: HOSTS.map(String::from).to_vec(),
        pool_size: POOL,
        pods: three.into_iter().chain(crowd).collect(),
        rcu: Rcu::Auto,
    }
}

fn volume(host: &str) -> String {
    format!("data-{host}")
}

fn pod(name: &str, group: &str, host: &str, volumes: Vec<String>) -> Pod {
    Pod {
        name: name.into(),
        labels: BTreeMap::from([("group".into(), group.into())]),
        host: host.into(),
        containers: vec!["main".into()],
        volumes,
        exec: vec!["env".into()],
    }
}

/// Windows without a rule, with commands, with sessions: in turns, so that all meet the same machine.
async fn windows(stack: &Stack, rounds: u32) -> Result<Vec<Row>> {
    let step = Step::begin("windows of 3 hosts with rules and without");
    let (mut plain, mut ruled, mut held, mut holding) = (vec![], vec![], vec![], vec![]);
    for round in 0..rounds {
        // Whoever comes first may pay for what the one before left behind, so that is another one each time.
        for turn in 0..3 {
            let name = format!("three-{round}-{turn}");
            match (round + turn) % 3 {
                0 => plain.push(window(&cut(stack, &name, None).await?.0)?),
                1 => ruled.push(window(&cut(stack, &name, Some(&commands())).await?.0)?),
                _ => {
                    let (record, run) = cut(stack, &name, Some(&sessions())).await?;
                    held.push(window(&record)?);
                    let run = run.context("a cut with a rule has no run")?;
                    holding.extend(run.attempts.iter().filter_map(held_for));
                }
            }
        }
    }
    ensure!(holding.len() == held.len() * HOSTS.len(), "a session did not hold");
    step.done();
    let without = Samples::times(plain);
    Ok(vec![
        Row {
            other: Some(without.clone()),
            ..Row::times(
                "window, 3 hosts, commands around it (script: without a rule)",
                ruled,
                vec![Goal::AddsMs(10)],
            )
        },
        Row {
            other: Some(without),
            ..Row::times(
                "window, 3 hosts, sessions over it (script: without a rule)",
                held.clone(),
                vec![Goal::AddsMs(10)],
            )
        },
        Row {
            other: Some(Samples::times(held)),
            ..Row::times(
                "a session, from held to released (script: the window)",
                holding,
                vec![Goal::AddsMs(20)],
            )
        },
    ])
}

async fn cut(stack: &Stack, name: &str, rule: Option<&str>) -> Result<(CutRecord, Option<Run>)> {
    let operator = stack.operator();
    let taken = operator.snapshot_and_run(name, "group=three", rule, Barrier::Together).await?;
    operator.delete(&taken.0.id.to_string()).await?;
    Ok(taken)
}

fn window(record: &CutRecord) -> Result<Duration> {
    let timeline = record.timeline.as_ref().context("a sealed cut has no timeline")?;
    Ok(Duration::from_micros(timeline.window_us))
}

/// From the moment when it said that it holds to its end.
fn held_for(attempt: &Attempt) -> Option<Duration> {
    let held = attempt.held_after_us.filter(|_| attempt.action == Action::Hold)?;
    Some(Duration::from_micros(attempt.duration_us.saturating_sub(held)))
}

/// Five hundred pods at once, beside the slowest of them, and beside a shell that starts the same commands.
async fn crowds(stack: &Stack) -> Result<Vec<Row>> {
    let step = Step::begin(format!("{CROWD} pods at once"));
    let (mut whole, mut slowest) = (vec![], vec![]);
    let before = stack.controller().resident_kib()? >> 10;
    for round in 0..CROWD_ROUNDS {
        let (name, rule, begin) = (format!("crowd-{round}"), crowd(), Instant::now());
        let taken = stack.operator().snapshot_and_run(&name, "group=three", Some(&rule), Barrier::Together);
        let (record, run) = taken.await?;
        whole.push(begin.elapsed());
        stack.operator().delete(&record.handle().to_string()).await?;
        let run = run.context("a cut with a rule has no run")?;
        ensure!(run.attempts.len() == CROWD, "{} pods instead of {CROWD}", run.attempts.len());
        let longest = run.attempts.iter().map(|attempt| attempt.duration_us).max().unwrap_or(0);
        slowest.push(Duration::from_micros(longest));
    }
    step.detail("the same by a shell");
    let mut shell = Vec::new();
    for _ in 0..CROWD_ROUNDS {
        shell.push(by_shell()?);
    }
    let memory = stack.controller().peak_kib()?;
    step.done();
    Ok(vec![
        Row {
            other: Some(Samples::times(slowest)),
            ..Row::times(
                format!("{CROWD} pods at once, cut included (script: the slowest pod)"),
                whole.clone(),
                vec![Goal::AtMostPercent(120)],
            )
        },
        Row {
            other: Some(Samples::times(shell)),
            ..Row::times(
                format!("{CROWD} pods at once (script: a shell with the same in the background)"),
                whole,
                vec![],
            )
        },
        Row {
            own: Samples::Memory(memory),
            ..Row::times(
                format!("memory of the controller at its most, {CROWD} pods ({before} MiB before them)"),
                vec![],
                vec![Goal::MiB(80)],
            )
        },
    ])
}

fn by_shell() -> Result<Duration> {
    let line = format!("i=0; while [ $i -lt {CROWD} ]; do ( {CROWD_COMMAND} ) & i=$((i+1)); done; wait");
    let begin = Instant::now();
    let status =
        Command::new("sh").args(["-c", &line]).stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "the shell failed: {status}");
    Ok(begin.elapsed())
}
