use serde_json::json;

use super::*;

/// Two schedules: one whose volume `log` was never cut, one that is suspended.
fn sample() -> Overview {
    let protection = |good: Option<&str>, overdue: bool| json!({"expected": "2026-11-20T01:30:00Z", "newestGood": good, "overdue": overdue});
    let good = "2026-11-20T01:30:04Z";
    let run = json!({"cut": "nightly-20261120T013000Z", "due": "2026-11-20T01:30:00Z",
        "started": "2026-11-20T01:30:01Z", "tries": 2});
    let succeeded = json!({"at": "2026-11-20T01:30:09Z", "event":
        {"kind": "succeeded", "run": run, "level": "application"}});
    let skipped = json!({"at": "2026-11-19T08:00:00Z", "event": {"kind": "skipped",
        "after": "2026-11-17T01:30:00Z", "through": "2026-11-19T01:30:00Z", "missed": 2, "why": "down"}});
    let nightly = json!({
        "name": "nightly", "when": "daily 02:30", "timeZone": "Europe/Berlin", "suspended": null,
        "next": "2026-11-21T01:30:00Z", "running": null,
        "lastGood": {"name": "nightly-20261120T013000Z", "id": "x", "at": good, "verdict": "good", "level": "application"},
        "lastRun": succeeded, "kept": 7, "protection": protection(Some(good), false),
        "volumes": [
            {"name": "data", "host": "a", "protection": protection(Some(good), false)},
            {"name": "log", "host": "b", "protection": protection(None, true)},
        ],
        "volumesFault": null, "retentionFault": null, "history": [succeeded, skipped], "configuration": {},
    });
    let off = json!({
        "name": "off", "when": "every 15m", "timeZone": "UTC", "suspended": {"byHand": good}, "next": null,
        "running": null, "lastGood": null, "lastRun": null, "kept": 0, "protection": protection(None, false),
        "volumes": [], "volumesFault": null, "retentionFault": "cannot delete x: a copy reads it",
        "history": [], "configuration": {},
    });
    serde_json::from_value(json!({
        "now": "2026-11-20T13:30:04Z", "schedules": [nightly, off], "unscheduled": ["scratch"], "silent": [],
    }))
    .unwrap()
}

#[test]
fn the_table_says_what_runs_when_and_what_is_not_protected() {
    let sample = sample();
    let text = overview(&sample);
    for part in [
        "daily 02:30 Europe/Berlin",
        "in 11 h 59 min",
        "12 h 0 min ago",
        "good",
        "OVERDUE nightly: newest good cut of log (never)",
        "suspended",
        "off: retention: cannot delete x: a copy reads it",
        "in no schedule: scratch",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert_eq!(sample.overdue(), ["nightly (log)"]);
    let none = Overview { schedules: vec![], ..sample };
    assert!(overview(&none).contains("no schedules"));
}

#[test]
fn a_schedule_tells_what_happened_newest_first() {
    let sample = sample();
    let text = detail(&sample.schedules[0], sample.now);
    for part in
        ["(started 2 times)", "level application", "2 until 2026-11-19T01:30:00Z", "the controller was down"]
    {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(text.find("started 2 times") < text.find("the controller was down"), "{text}");
}
