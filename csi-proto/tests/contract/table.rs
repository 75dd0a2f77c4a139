//! The contract as a set of lines: of `contract.txt`, and of any compiled `csi.proto`.

use std::collections::BTreeSet;

use protox::prost_reflect::{Cardinality, DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};
use stillpoint_csi_proto::DESCRIPTOR_SET;

const PACKAGE: &str = "csi.v1.";

pub fn table() -> BTreeSet<String> {
    let text = include_str!("contract.txt");
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}

pub fn ours() -> DescriptorPool {
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
pub fn contract(pool: &DescriptorPool) -> BTreeSet<String> {
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

pub fn marked_secret(pool: &DescriptorPool) -> BTreeSet<String> {
    let marker = pool.get_extension_by_name("csi.v1.csi_secret").unwrap();
    pool.all_messages()
        .flat_map(|message| message.fields().collect::<Vec<_>>())
        .filter(|field| field.options().has_extension(&marker))
        .map(|field| field.full_name().to_owned())
        .collect()
}

pub fn assert_same(ours: &BTreeSet<String>, theirs: &BTreeSet<String>, what: &str) {
    let missing: Vec<_> = theirs.difference(ours).collect();
    let extra: Vec<_> = ours.difference(theirs).collect();
    assert!(missing.is_empty() && extra.is_empty(), "{what}: missing {missing:#?}, extra {extra:#?}");
}
