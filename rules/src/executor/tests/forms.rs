use super::*;

const WHOLE: &str = "
csiSocket: /run/csi.sock
schedules:
- name: shop-db
  daily: {at: '02:30'}
  timeZone: Europe/Berlin
  jitter: 10m
  catchUp: 6h
  cut:
    selectors: ['app=cassandra', 'app in (pg,mysql)']
    volumes: [extra]
    namespaces: [shop]
    rule: rules/cassandra.yaml
    params: {keyspace: shop}
  retention: {last: 3, daily: 7, maxAge: 90d}
  limits: {run: 30m}
- name: minutely
  every: 1m
  suspend: true
  cut: {volumes: [a]}
";

#[test]
fn a_job_is_read_with_everything_and_with_defaults() {
    let jobs = in_config(WHOLE).unwrap();
    assert_eq!(jobs.len(), 2);
    let first = &jobs[0];
    assert_eq!((first.name(), first.run_limit), ("shop-db", Duration::from_mins(30)));
    assert_eq!(first.cut.selectors.len(), 2);
    assert_eq!(first.cut.rule.as_deref(), Some(std::path::Path::new("rules/cassandra.yaml")));
    assert_eq!(first.cut.params["keyspace"], "shop");
    assert!(!first.retention.is_empty());
    assert_eq!(jobs[1].run_limit, defaults::RUN);
    assert!(jobs[1].retention.is_empty());
    assert_eq!(jobs[1].schedule.activity(), Activity::Suspended);
    assert_eq!(in_config("csiSocket: x\n").unwrap(), vec![]);
}

#[test]
fn what_is_wrong_is_told_with_the_place_in_the_whole_file() {
    let one = |lines: &str| format!("a: 1\nschedules:\n- name: s\n{lines}");
    let table = [
        (
            one("  evry: 1m\n  cut: {volumes: [a]}\n"),
            "line 4, column 3: schedules[0].evry",
            "did you mean `every`?",
        ),
        (one("  every: 1m\n"), "`cut` is missing", "add `cut: …`"),
        (one("  every: 1m\n  cut: {}\n"), "nothing is to be cut", "selectors"),
        (
            one("  every: 1m\n  cut: {selector: [a=b]}\n"),
            "line 5, column 9: schedules[0].cut.selector",
            "did you mean `selectors`?",
        ),
        (one("  every: 1m\n  cut: {selectors: ['a=(']}\n"), "schedules[0].cut.selectors", "app=db"),
        (
            one("  every: 1m\n  cut: {volumes: [a], params: {x: y}}\n"),
            "parameters without a rule",
            "rule: FILE",
        ),
        (
            one("  every: 1m\n  cut: {volumes: [a]}\n  retention: {dayly: 1}\n"),
            "line 6, column 15",
            "did you mean `daily`?",
        ),
        (
            one("  every: 1m\n  cut: {volumes: [a]}\n  limits: {run: 2d}\n"),
            "`2d` is out of bounds",
            "at most 1d",
        ),
        (
            one("  every: 1m\n  cut: {volumes: [a]}\n  limits: {runs: 2h}\n"),
            "schedules[0].limits.runs",
            "did you mean `run`?",
        ),
        (
            one("  every: 1m\n  cut: {volumes: [a]}\n- name: s\n  every: 2m\n  cut: {volumes: [b]}\n"),
            "a second schedule `s`",
            "another name",
        ),
        (
            "schedules:\n- {name: plan, every: 1m, cut: {volumes: [a]}}\n".to_owned(),
            "cannot be called `plan`",
            "another name",
        ),
        ("schedules: {name: x}\n".to_owned(), "a list is expected", "- item"),
        ("schedules:\n".to_owned(), "this is empty", "a list is expected"),
    ];
    for (text, what, fix) in table {
        let error = in_config(&text).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains(fix), "{text}\n{error}");
    }
    let one = |n| format!("- {{name: s{n}, every: 1m, cut: {{volumes: [a]}}}}");
    let many = (0..=limits::SCHEDULES).map(one).collect::<Vec<_>>().join("\n");
    let error = in_config(&format!("schedules:\n{many}")).unwrap_err().to_string();
    assert!(error.contains("101 schedules") && error.contains("at most 100"), "{error}");
}
