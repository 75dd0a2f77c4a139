use super::*;
use crate::domain::Code;
use crate::standalone::fixtures::{pod, volume, volumes};

fn pods() -> Vec<Pod> {
    vec![
        pod("pg-0", "pg", &["pg-data", "pg-wal"]),
        pod("ring-0", "ring", &["ring"]),
        pod("web-0", "web", &[]),
    ]
}

fn chosen(selectors: &[&str], named: &[&str]) -> Result<Vec<String>, Fault> {
    let text = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    let wanted = Wanted { selectors: text(selectors), volumes: text(named) };
    let volumes = volumes();
    choose(&wanted, &pods(), &volumes)
        .map(|list| list.iter().map(|volume| volume.name().to_owned()).collect())
}

#[test]
fn a_selector_means_the_volumes_of_its_pods_and_each_volume_is_taken_once() {
    assert_eq!(chosen(&["app=pg"], &[]).unwrap(), ["pg-data", "pg-wal"]);
    assert_eq!(chosen(&["app=pg", "app in (pg,ring)"], &["pg-wal"]).unwrap(), ["pg-data", "pg-wal", "ring"]);
    let id = volume("ring", 3).id().to_string();
    assert_eq!(chosen(&[], &[&id]).unwrap(), ["ring"]);
}

#[test]
fn nothing_that_matches_is_an_error_and_never_an_empty_cut() {
    let fault = chosen(&["app=cassandra"], &[]).unwrap_err();
    assert_eq!(fault.code, Code::NotFound);
    assert!(fault.message.contains("app=cassandra") && fault.message.contains("pg-0"), "{fault}");
    let fault = chosen(&["app=web"], &[]).unwrap_err();
    assert!(fault.message.contains("web-0") && fault.message.contains("no volumes"), "{fault}");
    assert_eq!(chosen(&[], &[]).unwrap_err().code, Code::Invalid);
    assert_eq!(chosen(&["app=="], &["="]).unwrap_err().code, Code::NotFound);
}

#[test]
fn a_finished_pod_is_not_meant() {
    let mut all = pods();
    all[1].state = PodState::Finished;
    let wanted = Wanted { selectors: vec!["app=ring".into()], volumes: vec![] };
    assert_eq!(choose(&wanted, &all, &volumes()).unwrap_err().code, Code::NotFound);
}

#[test]
fn an_unknown_volume_is_refused_by_name_but_not_while_a_host_is_silent() {
    let fault = chosen(&[], &["pg-dta"]).unwrap_err();
    assert_eq!(fault.code, Code::NotFound);
    assert!(fault.message.contains("pg-dta") && fault.message.contains("pg-data"), "{fault}");
    let mut partial = volumes();
    partial.silent.push(Fault::unavailable("host node-3: no answer"));
    assert_eq!(find("pg-dta", &partial).unwrap_err().code, Code::Unavailable);
    assert!(find("pg-data", &partial).is_ok());
}

#[test]
fn a_name_on_two_hosts_must_be_told_apart_by_id() {
    let mut twice = volumes();
    twice.all.push(volume("ring", 1));
    let fault = find("ring", &twice).unwrap_err();
    assert_eq!(fault.code, Code::Invalid);
    assert!(fault.message.contains("node-1") && fault.message.contains("node-3"), "{fault}");
}

#[test]
fn a_pod_with_an_unknown_volume_makes_no_smaller_cut() {
    let mut all = pods();
    all[0].state = PodState::NotReady("its volume `pg-wal` does not exist".into());
    let wanted = Wanted { selectors: vec!["app=pg".into()], volumes: vec![] };
    let fault = choose(&wanted, &all, &volumes()).unwrap_err();
    assert_eq!(fault.code, Code::Precondition);
    assert!(fault.message.contains("pg-0") && fault.message.contains("pg-wal"), "{fault}");
    let mut partial = volumes();
    partial.silent.push(Fault::unavailable("host node-2: no answer"));
    assert_eq!(choose(&wanted, &all, &partial).unwrap_err().code, Code::Unavailable);
}

#[test]
fn names_that_could_not_be_typed_or_stored_are_refused() {
    for good in ["nightly", "cut-2026.11_20", "a".repeat(128).as_str()] {
        assert!(check_name("name", good).is_ok(), "{good}");
    }
    for bad in ["", "../x", "a b", "a\n", "a\u{202e}", "-x", "ü", &"a".repeat(129)] {
        assert_eq!(check_name("name", bad).unwrap_err().code, Code::Invalid, "{bad:?}");
    }
}
