use super::*;

const GOOD: &str = "
csiSocket: csi.sock
operatorSocket: /run/op.sock
stateDir: state
tls: {ca: pki/ca.crt, cert: pki/controller.crt, key: pki/controller.key}
agents:
- {host: node-1, address: '127.0.0.1:9701'}
- {host: node-2, address: '127.0.0.1:9702'}
placement: {withoutTopology: node-2}
limits: {softMs: 1000, hardMs: 5000}
pods:
- {name: db-0, host: node-1}
";

fn parse(text: &str) -> Result<Config, Vec<String>> {
    Config::parse(text, Path::new("/etc/sp"))
}

fn problems(text: &str) -> String {
    parse(text).unwrap_err().join("\n")
}

#[test]
fn a_configuration_is_read_and_relative_paths_belong_to_its_directory() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.csi_socket, Path::new("/etc/sp/csi.sock"));
    assert_eq!(config.operator_socket, Path::new("/run/op.sock"));
    assert_eq!(config.tls.key, Path::new("/etc/sp/pki/controller.key"));
    assert_eq!(config.agents.len(), 2);
    assert_eq!(config.without_topology, Some("node-2".parse().unwrap()));
    assert_eq!(config.limits.soft, Duration::from_secs(1));
    assert!(matches!(config.pods, PodSource::List(pods) if pods.len() == 1));
}

#[test]
fn what_is_not_given_has_a_default() {
    let config = parse("{tls: {ca: a, cert: b, key: c}, agents: [{host: n, address: 'n:1'}]}").unwrap();
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.without_topology, None);
    assert_eq!(config.pods, PodSource::List(vec![]));
    assert_eq!(config.operator_socket, Path::new("/run/stillpoint/operator.sock"));
    assert_eq!(config.state_dir, Path::new("/var/lib/stillpoint"));
}

#[test]
fn a_misspelt_field_is_refused_by_name_wherever_it_is() {
    assert!(problems(&GOOD.replace("csiSocket", "csiSockt")).contains("csiSockt: is not a field here"));
    assert!(problems(&GOOD.replace("softMs", "sofMs")).contains("limits.sofMs"));
    assert!(problems(&GOOD.replace("address: '127.0.0.1:9702'", "adress: x")).contains("agents[1].adress"));
    assert!(problems(&GOOD.replace("ca:", "CA:")).contains("tls.CA"));
}

#[test]
fn a_key_that_is_there_twice_is_refused() {
    let text = format!("{GOOD}\nstateDir: elsewhere\n");
    assert!(problems(&text).contains("stateDir"), "{}", problems(&text));
    assert!(problems(&GOOD.replace("softMs: 1000", "softMs: 1000, softMs: 900")).contains("softMs"));
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let text = "
csiSockt: x
tls: {ca: a}
agents:
- {host: UPPER, address: nowhere}
limits: {softMs: 0}
pods: {}
";
    let told = problems(text);
    for part in [
        "csiSockt",
        "tls.cert: is missing",
        "tls.key",
        "agents[0].host",
        "agents[0].address",
        "limits.softMs",
        "pods",
    ] {
        assert!(told.contains(part), "{part} in\n{told}");
    }
}

#[test]
fn a_hold_can_be_limited_but_never_beyond_thirty_seconds_nor_in_the_wrong_order() {
    assert!(problems(&GOOD.replace("hardMs: 5000", "hardMs: 30001")).contains("limits.hardMs"));
    assert!(problems(&GOOD.replace("softMs: 1000", "softMs: 5000")).contains("not below hardMs"));
    assert!(problems(&GOOD.replace("softMs: 1000", "softMs: -1")).contains("limits.softMs"));
    assert!(problems(&GOOD.replace("softMs: 1000", "softMs: '1000'")).contains("limits.softMs"));
}

#[test]
fn agents_are_needed_and_each_host_has_one() {
    assert!(problems("{tls: {ca: a, cert: b, key: c}}").contains("names no agent"));
    assert!(problems(&GOOD.replace("host: node-2", "host: node-1")).contains("listed twice"));
    assert!(problems(&GOOD.replace("9702", "0")).contains("is not an address"));
}

#[test]
fn the_place_for_volumes_without_topology_must_be_an_agent() {
    assert!(
        problems(&GOOD.replace("withoutTopology: node-2", "withoutTopology: node-9"))
            .contains("node-9 is not one of the agents")
    );
}

#[test]
fn one_socket_cannot_serve_two_apis_and_must_fit_the_kernel() {
    assert!(problems(&GOOD.replace("csi.sock", "/run/op.sock")).contains("operatorSocket: is the same file"));
    let long = format!("/{}", "x".repeat(108));
    assert!(problems(&GOOD.replace("csi.sock", &long)).contains("csiSocket: is longer"));
}

#[test]
fn what_is_not_a_configuration_is_refused_in_words() {
    for text in ["", "42", "[]", "- a\n- b", "{", "a: b: c", "\t", "%", "&a [*a]", "tls: !x y"] {
        assert!(!problems(text).is_empty(), "{text:?}");
    }
}

#[test]
fn ten_megabytes_of_garbage_are_refused_quickly() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.yaml");
    for garbage in ["[", "{", "- ", "a", "a: ", "\u{0}", "!x ", "? "] {
        std::fs::write(&path, garbage.repeat(10_000_000 / garbage.len())).unwrap();
        assert!(
            matches!(Config::read(&path), Err(ConfigError::File(TextFileError::TooLarge { .. }))),
            "{garbage:?}"
        );
        // The largest part that is looked into at all.
        let largest = garbage.repeat((1 << 20) / garbage.len());
        assert!(parse(&largest).is_err(), "{garbage:?}");
    }
}

#[test]
fn a_hostile_key_does_not_flood_the_message() {
    let told = problems(&format!("'{}\\e[2J': 1", "k".repeat(100_000)));
    assert!(told.len() < 3_000, "{} bytes", told.len());
}

#[test]
fn the_inventory_is_a_file_or_a_list_and_its_mistakes_are_told_with_the_others() {
    let with_file = GOOD.replace("pods:\n- {name: db-0, host: node-1}\n", "inventory: pods.yaml\n");
    assert_eq!(parse(&with_file).unwrap().pods, PodSource::File("/etc/sp/pods.yaml".into()));
    assert!(problems(&format!("{GOOD}inventory: pods.yaml\n")).contains("keep one of the two"));
    let told = problems(&GOOD.replace("name: db-0", "nmae: db-0").replace("csiSocket", "csiSockt"));
    assert!(told.contains("csiSockt") && told.contains("nmae"), "{told}");
}

#[test]
fn schedules_are_read_and_their_mistakes_are_told_with_their_place_in_the_file() {
    let one = "schedules:\n- name: nightly\n  daily: {at: '02:30'}\n  cut: {selectors: [app=db], rule: rules/db.yaml}\n";
    let config = parse(&format!("{GOOD}{one}")).unwrap();
    assert_eq!(config.schedules[0].name(), "nightly");
    assert_eq!(config.schedules[0].cut.rule.as_deref(), Some(Path::new("/etc/sp/rules/db.yaml")));
    assert_eq!(parse(GOOD).unwrap().schedules, vec![]);
    let told = problems(&format!("{GOOD}{one}").replace("daily", "dayly").replace("csiSocket", "csiSockt"));
    let line = GOOD.lines().count() + 3;
    assert!(told.contains(&format!("line {line}, column 3: schedules[0].dayly")), "{told}");
    assert!(told.contains("did you mean `daily`?") && told.contains("csiSockt"), "{told}");
    assert!(problems(&format!("{GOOD}schedules:\n")).contains("a list is expected"));
}

#[test]
fn the_example_with_schedules_is_a_configuration() {
    let example = include_str!("../../../../deploy/examples/standalone-schedules.yaml");
    assert_eq!(parse(example).unwrap().schedules.len(), 2);
}
