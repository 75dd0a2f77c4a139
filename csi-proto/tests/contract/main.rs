//! `contract.txt` is the table written from the specification: every method, field number and enum number of CSI 1.13. Our
//! `csi.proto` must say exactly the same. The tests package compares the table with the specification's own module.

#![allow(clippy::unwrap_used)]

mod table;

use std::collections::{BTreeMap, BTreeSet};

use stillpoint_csi_proto::v1;
use table::{assert_same, contract, marked_secret, ours, table};

#[test]
fn our_proto_says_exactly_what_the_specification_says() {
    let table = table();
    assert!(table.len() > 300, "the table was cut short: {} lines", table.len());
    assert_same(&contract(&ours()), &table, "csi.proto against contract.txt");
}

#[test]
fn the_generated_code_calls_exactly_these_methods() {
    let code = include_str!(concat!(env!("OUT_DIR"), "/csi.v1.rs"));
    let called: BTreeSet<String> = code
        .split('"')
        .filter(|text| text.starts_with("/csi.v1.") && !text.contains(char::is_whitespace))
        .map(str::to_owned)
        .collect();
    let wanted = table()
        .iter()
        .filter_map(|line| line.strip_prefix("rpc ")?.split(' ').next().map(str::to_owned))
        .collect();
    assert_same(&called, &wanted, "paths in the generated code");
}

#[test]
fn every_field_called_secrets_is_marked_and_nothing_else() {
    let pool = ours();
    let named: BTreeSet<String> = pool
        .all_messages()
        .flat_map(|message| message.fields().collect::<Vec<_>>())
        .filter(|field| field.name() == "secrets")
        .map(|field| field.full_name().to_owned())
        .collect();
    assert_eq!(named.len(), 22);
    assert_same(&marked_secret(&pool), &named, "marked csi_secret");
}

#[test]
fn printing_a_request_does_not_show_its_secrets() {
    let secrets = [("password".to_owned(), "hunter2".to_owned())];
    let create =
        v1::CreateVolumeRequest { name: "v".into(), secrets: secrets.clone().into(), ..Default::default() };
    let stage = v1::NodeStageVolumeRequest { secrets: secrets.clone().into(), ..Default::default() };
    let group = v1::CreateVolumeGroupSnapshotRequest { secrets: secrets.into(), ..Default::default() };
    for text in [format!("{create:?}"), format!("{stage:#?}"), format!("{:?}", Some(group))] {
        assert!(!text.contains("hunter2") && !text.contains("password"), "{text}");
        assert!(text.contains("<1 secret entries>"), "{text}");
    }
    assert!(format!("{create:?}").contains("name: \"v\""));
}

#[test]
fn the_numbers_that_the_driver_announces_are_these() {
    use v1::controller_service_capability::rpc::Type as Controller;
    use v1::group_controller_service_capability::rpc::Type as Group;
    use v1::node_service_capability::rpc::Type as Node;
    use v1::plugin_capability::service::Type as Plugin;
    let numbers: BTreeMap<&str, i32> = [
        ("plugin controller", Plugin::ControllerService as i32),
        ("plugin topology", Plugin::VolumeAccessibilityConstraints as i32),
        ("plugin groups", Plugin::GroupControllerService as i32),
        ("create volume", Controller::CreateDeleteVolume as i32),
        ("list volumes", Controller::ListVolumes as i32),
        ("capacity", Controller::GetCapacity as i32),
        ("snapshot", Controller::CreateDeleteSnapshot as i32),
        ("list snapshots", Controller::ListSnapshots as i32),
        ("clone", Controller::CloneVolume as i32),
        ("expand", Controller::ExpandVolume as i32),
        ("get volume", Controller::GetVolume as i32),
        ("multi writer", Controller::SingleNodeMultiWriter as i32),
        ("get snapshot", Controller::GetSnapshot as i32),
        ("group", Group::CreateDeleteGetVolumeGroupSnapshot as i32),
        ("stage", Node::StageUnstageVolume as i32),
        ("stats", Node::GetVolumeStats as i32),
        ("node expand", Node::ExpandVolume as i32),
        ("node multi writer", Node::SingleNodeMultiWriter as i32),
        ("mount group", Node::VolumeMountGroup as i32),
    ]
    .into();
    let expected = [
        ("plugin controller", 1),
        ("plugin topology", 2),
        ("plugin groups", 3),
        ("create volume", 1),
        ("list volumes", 3),
        ("capacity", 4),
        ("snapshot", 5),
        ("list snapshots", 6),
        ("clone", 7),
        ("expand", 9),
        ("get volume", 12),
        ("multi writer", 13),
        ("get snapshot", 15),
        ("group", 1),
        ("stage", 1),
        ("stats", 2),
        ("node expand", 3),
        ("node multi writer", 5),
        ("mount group", 6),
    ];
    assert_eq!(numbers, expected.into());
}
