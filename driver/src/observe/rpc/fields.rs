//! The fields of a request from its bytes, without what is secret.
//!
//! Secret is a field that CSI marks so (`csi_secret`), and in our own protos one of [`SECRET`]. A request of an unknown
//! method, one that cannot be decoded and a stream are not shown at all.

use std::sync::LazyLock;

use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, FieldDescriptor, ReflectMessage, Value,
};

/// Names of fields that may hold a secret: credentials, tickets of transfers, and the text of rules, whose commands may carry a password.
const SECRET: [&str; 7] = ["secrets", "token", "ticket", "password", "private_key", "key_pem", "rule_yaml"];
/// Bytes before each message of a gRPC body: whether it is compressed, and its length.
const FRAME_HEAD: usize = 5;
/// Messages nest a few levels deep.
const DEPTH: usize = 16;

struct Known {
    pool: DescriptorPool,
    marker: Option<ExtensionDescriptor>,
}

static KNOWN: LazyLock<Known> = LazyLock::new(|| {
    let mut pool = DescriptorPool::new();
    for set in [stillpoint_csi_proto::DESCRIPTOR_SET, crate::proto::DESCRIPTOR_SET] {
        // Both come from the same compiler as the code; a test decodes them.
        if let Err(error) = pool.decode_file_descriptor_set(set) {
            tracing::error!(%error, "requests cannot be shown");
        }
    }
    let marker = pool.get_extension_by_name("csi.v1.csi_secret");
    Known { pool, marker }
});

/// The fields of the request in this body, as JSON.
pub fn of_request(path: &str, body: &[u8]) -> Option<String> {
    let (service, method) = path.trim_start_matches('/').split_once('/')?;
    let method = KNOWN.pool.get_service_by_name(service)?.methods().find(|found| found.name() == method)?;
    let message = body.get(FRAME_HEAD..)?;
    if method.is_client_streaming() || body.first() != Some(&0) {
        return None;
    }
    shown(DynamicMessage::decode(method.input(), message).ok()?)
}

fn shown(mut message: DynamicMessage) -> Option<String> {
    strip(&mut message, DEPTH);
    serde_json::to_string(&message).ok()
}

/// Removes what is secret, at any depth; what is too deep is removed as a whole.
fn strip(message: &mut DynamicMessage, depth: usize) {
    let fields: Vec<FieldDescriptor> = message.descriptor().fields().collect();
    for field in fields {
        if is_secret(&field) || depth == 0 {
            message.clear_field(&field);
        } else if message.has_field(&field) {
            strip_value(message.get_field_mut(&field), depth - 1);
        }
    }
}

fn strip_value(value: &mut Value, depth: usize) {
    if let Value::Message(message) = value {
        strip(message, depth);
    } else if let Value::List(values) = value {
        for value in values.iter_mut() {
            strip_value(value, depth);
        }
    } else if let Value::Map(values) = value {
        for value in values.values_mut() {
            strip_value(value, depth);
        }
    }
}

fn is_secret(field: &FieldDescriptor) -> bool {
    let marked = KNOWN.marker.as_ref().is_some_and(|marker| field.options().has_extension(marker));
    marked || SECRET.contains(&field.name())
}

/// All messages that can arrive, for tests.
#[cfg(test)]
pub(super) fn requests() -> Vec<(String, prost_reflect::MessageDescriptor)> {
    let services: Vec<_> = KNOWN.pool.services().collect();
    services
        .iter()
        .flat_map(|service| {
            service
                .methods()
                .filter(|method| !method.is_client_streaming())
                .map(|method| (format!("/{}/{}", service.full_name(), method.name()), method.input()))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Whether a field counts as secret, for tests.
#[cfg(test)]
pub(super) fn is_marked(field: &FieldDescriptor) -> bool {
    KNOWN.marker.as_ref().is_some_and(|marker| field.options().has_extension(marker))
}
