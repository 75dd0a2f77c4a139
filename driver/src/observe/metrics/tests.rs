use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::agent::fixtures::Bench;

const DOCUMENT: &str = include_str!("../../../../docs/metrics.md");

/// Name as it is asked for, who exports it, type.
type Line = (String, &'static str, String);

fn exported(who: &'static str, text: &str) -> BTreeSet<Line> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .map(|line| {
            let (name, kind) = line.split_once(' ').unwrap();
            let name = if kind == "counter" { format!("{name}_total") } else { name.to_owned() };
            (name, who, kind.to_owned())
        })
        .collect()
}

/// Rows of the tables under `## Agent`, `## Controller` and `## Both`.
fn documented() -> BTreeSet<Line> {
    let mut who: &[&'static str] = &[];
    let mut lines = BTreeSet::new();
    for line in DOCUMENT.lines() {
        match line {
            "## Agents" => who = &["agent"],
            "## Controller" => who = &["controller"],
            "## Both" => who = &["agent", "controller"],
            _ if line.starts_with("## ") => who = &[],
            _ => {}
        }
        let Some(row) = line.strip_prefix("| `stillpoint_") else { continue };
        let mut cells = row.split('|').map(str::trim);
        let name = format!("stillpoint_{}", cells.next().unwrap().trim_end_matches('`'));
        let kind = cells.next().unwrap().to_owned();
        assert!(cells.next().is_some_and(|meaning| meaning.len() > 10), "{name} has no meaning");
        lines.extend(who.iter().map(|who| (name.clone(), *who, kind.clone())));
    }
    lines
}

#[test]
fn what_is_exported_is_what_the_document_lists() {
    let bench = Bench::new();
    rpcs::answered("x.Y/Z", "OK", Duration::from_millis(1));
    let job = stillpoint_rules::executor::in_config("schedules: [{name: s, every: 1m, cut: {volumes: [a]}}]");
    let job = job.unwrap().remove(0);
    let book = stillpoint_rules::executor::Book::new(&job.schedule, jiff::Timestamp::UNIX_EPOCH);
    schedules::known(&job, &book);
    let agent = of_agent(bench.pools.clone(), Arc::default());
    let mut all = exported("agent", &agent.text());
    all.extend(exported("controller", &of_controller(std::sync::Arc::default()).text()));
    let listed = documented();
    let missing: Vec<_> = all.difference(&listed).collect();
    let stale: Vec<_> = listed.difference(&all).collect();
    assert!(missing.is_empty(), "not in docs/metrics.md: {missing:?}");
    assert!(stale.is_empty(), "in docs/metrics.md and not exported: {stale:?}");
    assert!(all.len() > 25, "{all:?}");
}

#[test]
fn alerts_ask_for_metrics_that_exist() {
    let rules = include_str!("../../../../deploy/monitoring/alerts.yaml");
    let known: BTreeSet<String> = documented().into_iter().map(|(name, ..)| name).collect();
    let words = rules.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let asked: BTreeSet<&str> = words.filter(|word| word.starts_with("stillpoint_")).collect();
    assert!(asked.len() >= 6, "{asked:?}");
    for name in asked {
        let base =
            ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        assert!(known.contains(base), "{name} is not a metric");
    }
}

#[test]
fn a_pool_tells_its_space_and_what_it_holds() {
    let bench = Bench::new();
    bench.volume("one", None);
    let pool = bench.pools.iter().next().unwrap();
    let text = of_agent(bench.pools.clone(), Arc::default()).text();
    let value = |name: &str| {
        let start = format!("stillpoint_{name}{{pool=\"{}\"}} ", pool.id());
        let line = text.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse::<u64>().unwrap()
    };
    let space = pool.space().unwrap();
    assert_eq!(value("pool_size_bytes"), space.total.0);
    assert_eq!(value("pool_available_bytes"), space.available.0);
    assert_eq!(value("pool_reserve_bytes"), space.reserve.0);
    assert_eq!(value("volumes"), 1);
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn copies_are_told_with_why_they_failed() {
    let text = of_controller(Arc::default()).text();
    for line in ["stillpoint_copies_running 0", "stillpoint_copied_bytes_total 0"] {
        assert!(text.contains(line), "no {line} in\n{text}");
    }
    for reason in ["unavailable", "no_space", "busy", "cancelled", "dropped", "other"] {
        assert!(text.contains(&format!("stillpoint_copies_failed_total{{reason=\"{reason}\"}} 0")), "{text}");
    }
    let counters = Arc::<crate::agent::transfer::counters::Counters>::default();
    counters.broken_off(crate::domain::Code::Exhausted);
    counters.sent_bytes.add(4096);
    let (bench, arriving) = (Bench::new(), counters.receiving.enter());
    let text = of_agent(bench.pools.clone(), Arc::clone(&counters)).text();
    drop(arriving);
    for line in [
        "stillpoint_copy_sent_bytes_total 4096",
        "stillpoint_copies_receiving 1",
        "stillpoint_copies_broken_off_total{reason=\"no_space\"} 1",
        "stillpoint_copies_broken_off_total{reason=\"stopped\"} 0",
    ] {
        assert!(text.contains(line), "no {line} in\n{text}");
    }
}

#[test]
fn a_hold_is_seen_while_it_lasts() {
    let held = crate::observe::holds::process().begin();
    let text = of_controller(std::sync::Arc::default()).text();
    let line = text.lines().find_map(|line| line.strip_prefix("stillpoint_holds ")).unwrap();
    assert!(line.parse::<i64>().unwrap() >= 1);
    drop(held);
}

#[tokio::test]
async fn metrics_are_served_over_http_and_nothing_else_is() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let listener = serve::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(serve::serve(listener, of_controller(std::sync::Arc::default()), async {
        drop(stopped.await);
    }));
    let ask = async |line: &str| {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("{line} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = ask("GET /metrics").await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("stillpoint_cuts_sealed_total"),
        "{answer}"
    );
    assert!(answer.contains("application/openmetrics-text"));
    assert!(ask("GET /").await.starts_with("HTTP/1.1 404"));
    assert!(ask("POST /metrics").await.starts_with("HTTP/1.1 405"));
    drop(stop);
    server.await.unwrap();
}
