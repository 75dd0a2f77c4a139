use super::*;

#[test]
fn a_schedule_is_written_as_it_is_read() {
    let table = [
        "name: a\nevery: 15m\n",
        "name: a\nevery: 36h\njitter: 5m\ncatchUp: 6h\n",
        "name: a\ndaily:\n  at: 02:30\ntimeZone: Europe/Berlin\n",
        "name: a\nweekly:\n  day: sunday\n  at: 23:59\nsuspend: true\n",
        "name: a\nmonthly:\n  day: 31\n  at: 00:00\n",
        "name: a\ncron: 30 2 * * 1-5\n",
    ];
    for text in table {
        let schedule = parse(text).unwrap();
        let written = to_yaml(&schedule).unwrap();
        assert_eq!(written.replace(['\'', '"'], ""), text);
        assert_eq!(parse(&written).unwrap(), schedule);
        let json = serde_json::to_string(&schedule).unwrap();
        assert_eq!(serde_json::from_str::<Schedule>(&json).unwrap(), schedule);
    }
}

#[test]
fn a_wrong_schedule_is_refused_with_place_reason_and_fix() {
    let long = format!("name: a\ncron: '{}'\n", "*/5 ".repeat(100));
    let table = [
        ("name: a\nevry: 15m\n", "line 2, column 1: evry: unknown field `evry`", "did you mean `every`?"),
        ("every: 15m\n", "`name` is missing", "name: …"),
        ("name: A_b\nevery: 15m\n", "`A_b` is not a valid name", "1 to 63"),
        ("name: a\n", "nothing says when runs are due", "every: 15m"),
        ("name: a\nevery: 15m\ncron: '* * * * *'\n", "`every` and `cron` together", "keep one"),
        (
            "name: a\nevery: 0s\n",
            "line 2, column 8: every: `0s` is out of bounds",
            "at least 1s and at most 30d",
        ),
        ("name: a\nevery: 31d\n", "`31d` is out of bounds", "at most 30d"),
        ("name: a\nevery: 15\n", "a number without a unit", "`15m`"),
        ("name: a\nevery: -5m\n", "`-5m` is not a length of time", "`15m`"),
        ("name: a\nevery: 5m1h\n", "`5m1h` is not a length of time", "largest first"),
        ("name: a\ndaily: {at: '24:00'}\n", "`24:00` is not a time of day", "02:30"),
        ("name: a\ndaily: {at: '2:3'}\n", "`2:3` is not a time of day", "02:30"),
        ("name: a\ndaily: {at: '+2:30'}\n", "`+2:30` is not a time of day", "02:30"),
        ("name: a\ndaily: {at: 150}\n", "the number 150", "put it in quotes"),
        ("name: a\ndaily: '02:30'\n", "this is text", "write it with `at`"),
        ("name: a\ndaily:\n", "`daily` is empty", "give it a value"),
        ("name: a\nweekly: {day: sundy, at: '02:30'}\n", "`sundy` is unknown", "did you mean `sunday`?"),
        ("name: a\nmonthly: {day: 32, at: '02:30'}\n", "32 is out of bounds", "from 1 to 31"),
        ("name: a\nmonthly: {day: 0, at: '02:30'}\n", "0 is out of bounds", "from 1 to 31"),
        ("name: a\ncron: '* * * *'\n", "is not a cron pattern", "five fields"),
        ("name: a\ncron: '* * * * * *'\n", "is not a cron pattern", "five fields"),
        ("name: a\ncron: '0 0 30 2 *'\n", "is not a cron pattern", "no day matches it"),
        (&long, "is not a cron pattern", "longer than 128"),
        ("name: a\nevery: 15m\ntimeZone: CET-7\n", "the time zone `CET-7` is unknown", "`Europe/Berlin`"),
        ("name: a\nevery: 15m\ntimeZone: ../../etc/passwd\n", "is unknown", "`Europe/Berlin`"),
        ("name: a\nevery: 15m\njitter: 16m\n", "`16m` is out of bounds", "at most 15m"),
        ("name: a\ndaily: {at: '02:30'}\njitter: 25h\n", "`25h` is out of bounds", "at most 1d"),
        ("name: a\nevery: 15m\ncatchUp: 31d\n", "`31d` is out of bounds", "at most 30d"),
        ("name: a\nevery: 15m\nsuspend: 'yes'\n", "this is text", "write `true` or `false`"),
        ("name: a\nname: b\nevery: 15m\n", "`name` is given twice", "keep one"),
    ];
    for (text, what, fix) in table {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains(fix), "{text:?}: {error}");
    }
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let error = parse("name: A\nevery: 0s\njitter: x\nsuspend: 3\n").unwrap_err();
    assert_eq!(error.problems.len(), 4, "{error}");
}

#[test]
fn json_goes_through_the_same_reader() {
    let error = serde_json::from_str::<Schedule>(r#"{"name": "a", "every": "0s"}"#).unwrap_err().to_string();
    assert!(error.contains("at least 1s"), "{error}");
}

#[test]
fn the_zones_in_the_program_are_there_without_a_directory() {
    let bundled = jiff::tz::TimeZoneDatabase::bundled();
    for name in ["Europe/Berlin", "America/New_York", "Asia/Tokyo", "Pacific/Apia"] {
        assert!(bundled.get(name).is_ok(), "{name}");
        assert_eq!(Zone::named(name).unwrap().name(), name);
    }
}
