//! `tests/contract.txt` is the table written from the specification: every method, field number and enum number
//! of CSI 1.13. Our `csi.proto` must say exactly the same.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use protox::prost_reflect::{Cardinality, DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};
use stillpoint_csi_proto::{DESCRIPTOR_SET, v1};

const PACKAGE: &str = "csi.v1.";

fn table() -> BTreeSet<String> {
    let text = include_str!("contract.txt");
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}

fn ours() -> DescriptorPool {
    DescriptorPool::decode(DESCRIPTOR_SET).unwrap()
}

fn short(name: &str) -> &str {
    name.strip_prefix(PACKAGE).unwrap_or(name)
}

fn kind_name(kind: &Kind) -> String {
    if let Some(message) = kind.as_message() {
        short(message.full_name()).to_owned()
    } else if let Some(kind) = kind.as_enum() {
        short(kind.full_name()).to_owned()
    } else {
        format!("{kind:?}")
    }
}

fn map_shape(entry: &Kind) -> String {
    let entry = entry.as_message().unwrap();
    let (key, value) = (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
    format!("map {} to {}", kind_name(&key), kind_name(&value))
}

fn shape(field: &FieldDescriptor) -> String {
    if field.is_map() {
        return map_shape(&field.kind());
    }
    let repeated = if field.cardinality() == Cardinality::Repeated { "repeated " } else { "" };
    format!("{repeated}{}", kind_name(&field.kind()))
}

fn message_lines(message: &MessageDescriptor, lines: &mut BTreeSet<String>) {
    let name = short(message.full_name()).to_owned();
    for field in message.fields() {
        let oneof =
            field.containing_oneof().map(|oneof| format!(" oneof {}", oneof.name())).unwrap_or_default();
        lines.insert(format!("field {name}.{} = {} {}{oneof}", field.name(), field.number(), shape(&field)));
    }
    for range in message.reserved_ranges() {
        lines.insert(format!("reserved {name} = {}..{}", range.start, range.end));
    }
}

/// All that counts on the wire, one fact per line.
fn contract(pool: &DescriptorPool) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for service in pool.services() {
        for method in service.methods() {
            let stream = if method.is_server_streaming() { "stream " } else { "" };
            assert!(!method.is_client_streaming());
            let (input, output) = (method.input(), method.output());
            let (input, output) = (short(input.full_name()), short(output.full_name()));
            lines.insert(format!(
                "rpc /{}/{} {input} -> {stream}{output}",
                service.full_name(),
                method.name()
            ));
        }
    }
    let mine = |name: &str| name.starts_with(PACKAGE);
    for message in pool.all_messages().filter(|m| mine(m.full_name()) && !m.is_map_entry()) {
        message_lines(&message, &mut lines);
    }
    for kind in pool.all_enums().filter(|kind| mine(kind.full_name())) {
        for value in kind.values() {
            lines.insert(format!("enum {}.{} = {}", short(kind.full_name()), value.name(), value.number()));
        }
        for range in kind.reserved_ranges() {
            lines.insert(format!(
                "reserved {} = {}..={}",
                short(kind.full_name()),
                range.start(),
                range.end()
            ));
        }
    }
    for extension in pool.all_extensions() {
        let on = extension.containing_message();
        let on = on.full_name().rsplit('.').next().unwrap_or_default().to_owned();
        lines.insert(format!("option {on}.{} = {}", extension.name(), extension.number()));
    }
    lines
}

fn marked_secret(pool: &DescriptorPool) -> BTreeSet<String> {
    let marker = pool.get_extension_by_name("csi.v1.csi_secret").unwrap();
    pool.all_messages()
        .flat_map(|message| message.fields().collect::<Vec<_>>())
        .filter(|field| field.options().has_extension(&marker))
        .map(|field| field.full_name().to_owned())
        .collect()
}

fn assert_same(ours: &BTreeSet<String>, theirs: &BTreeSet<String>, what: &str) {
    let missing: Vec<_> = theirs.difference(ours).collect();
    let extra: Vec<_> = ours.difference(theirs).collect();
    assert!(missing.is_empty() && extra.is_empty(), "{what}: missing {missing:#?}, extra {extra:#?}");
}

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

/// Where Go has put the specification's own module; it comes with csi-sanity.
fn module() -> Option<PathBuf> {
    let output = Command::new("go").args(["env", "GOMODCACHE"]).output().ok()?;
    let cache = String::from_utf8(output.stdout).ok()?;
    let path = PathBuf::from(cache.trim()).join("github.com/container-storage-interface/spec@v1.13.0");
    path.join("csi.proto").exists().then_some(path)
}

#[test]
fn the_table_is_what_the_specifications_own_module_says_where_it_is_present() {
    let Some(path) = module() else {
        println!("skipped: the Go module of the CSI specification v1.13.0 is not in Go's module cache");
        return;
    };
    let mut compiler = protox::Compiler::new([path]).unwrap();
    compiler.include_imports(true).open_file("csi.proto").unwrap();
    let theirs = DescriptorPool::decode(compiler.encode_file_descriptor_set().as_slice()).unwrap();
    assert_same(&table(), &contract(&theirs), "contract.txt against the specification's module");
    assert_same(&marked_secret(&ours()), &marked_secret(&theirs), "secrets");
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
