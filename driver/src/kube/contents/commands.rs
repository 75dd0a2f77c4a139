//! The commands that are shown for orphans. People copy them out of a log or an event, so each is one line that a shell
//! takes as it is printed.

use serde_json::{Value, json};

use super::Content;
use super::orphans::{Dangling, Unclaimed};
use crate::csi::DRIVER_NAME;
use crate::domain::{CutKind, NameHash};

/// Words that YAML 1.1 or 1.2 does not read as text.
const WORDS: [&str; 11] = ["true", "false", "yes", "no", "on", "off", "y", "n", "null", "nan", "inf"];

impl Unclaimed {
    /// The objects that make the cluster know it; deleting the second of them deletes it.
    pub fn objects(&self, namespace: &str) -> Value {
        let handle = self.cut.to_string();
        let name = format!("adopted-{}", NameHash::of(&handle));
        let metadata = json!({ "name": name });
        let own = json!({ "name": name, "namespace": namespace });
        let content = |source: Value, reference: &str| json!({ "driver": DRIVER_NAME, "deletionPolicy": "Delete", "source": source, reference: own });
        let items = match self.cut.cut.kind {
            CutKind::Single => {
                let api = "snapshot.storage.k8s.io/v1";
                let source = json!({ "snapshotHandle": self.members.first().map(ToString::to_string) });
                json!([
                    { "apiVersion": api, "kind": "VolumeSnapshotContent", "metadata": metadata,
                      "spec": content(source, "volumeSnapshotRef") },
                    { "apiVersion": api, "kind": "VolumeSnapshot", "metadata": own,
                      "spec": { "source": { "volumeSnapshotContentName": name } } },
                ])
            }
            CutKind::Group => {
                let api = "groupsnapshot.storage.k8s.io/v1";
                let members: Vec<String> = self.members.iter().map(ToString::to_string).collect();
                let handles =
                    json!({ "volumeGroupSnapshotHandle": handle, "volumeSnapshotHandles": members });
                json!([
                    { "apiVersion": api, "kind": "VolumeGroupSnapshotContent", "metadata": metadata,
                      "spec": content(json!({ "groupSnapshotHandles": handles }), "volumeGroupSnapshotRef") },
                    { "apiVersion": api, "kind": "VolumeGroupSnapshot", "metadata": own,
                      "spec": { "source": { "volumeGroupSnapshotContentName": name } } },
                ])
            }
        };
        json!({ "apiVersion": "v1", "kind": "List", "items": items })
    }

    /// The command that makes the cluster know it.
    pub fn adopt(&self, namespace: &str) -> String {
        format!("echo '{}' | kubectl apply -f -", flow(&self.objects(namespace)))
    }

    /// The command that deletes it, once it is known.
    pub fn delete(&self, namespace: &str) -> String {
        let kind = match self.cut.cut.kind {
            CutKind::Single => "volumesnapshot",
            CutKind::Group => "volumegroupsnapshot",
        };
        format!("kubectl -n {namespace} delete {kind}/adopted-{}", NameHash::of(&self.cut.to_string()))
    }
}

/// What the kinds of a content and of the object that is bound to it are called in commands.
pub(super) fn kind_of(content: &Content) -> (&'static str, &'static str) {
    match content.kind {
        CutKind::Single => ("volumesnapshotcontent", "volumesnapshot"),
        CutKind::Group => ("volumegroupsnapshotcontent", "volumegroupsnapshot"),
    }
}

/// The command that deletes a content without a snapshot, with the VolumeSnapshot that is bound to it. `all` are the
/// contents without a snapshot: a member of a group is deleted with its group, because the snapshot controller keeps a
/// member's VolumeSnapshot as long as the VolumeGroupSnapshot exists.
pub fn delete_dangling<'a>(content: &'a Dangling, all: impl IntoIterator<Item = &'a Dangling>) -> String {
    let is_group = |other: &&Dangling| {
        other.kind == CutKind::Group && other.handle.is_some() && other.handle == content.group
    };
    let target = all.into_iter().find(is_group).unwrap_or(content);
    let (kind, snapshot) = kind_of(target);
    let bound = &target.bound_to;
    let mut command = format!("kubectl delete {kind}/{} --ignore-not-found", target.name);
    if !bound.uid.is_empty() {
        let first =
            format!("kubectl -n {} delete {snapshot}/{} --ignore-not-found", bound.namespace, bound.name);
        command = format!("{first} && {command}");
    }
    command
}

/// YAML in one line. Logs quote their fields and put a backslash before each double quote, so text that needs no quotes
/// is written without.
fn flow(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|(key, value)| format!("{}: {}", text(key), flow(value))).collect();
            format!("{{{}}}", fields.join(", "))
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(flow).collect();
            format!("[{}]", items.join(", "))
        }
        Value::String(value) => text(value),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

fn text(value: &str) -> String {
    let is_simple = value.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '/' | '-'));
    // Numbers and dates begin with a digit and have no letter but these.
    let is_no_number = |c: char| c.is_ascii_alphabetic() && !"abcdefABCDEFoOtTxXzZ".contains(c);
    let is_text = value.starts_with(|first: char| first.is_ascii_alphabetic())
        || value.starts_with(|first: char| first.is_ascii_digit()) && value.contains(is_no_number);
    let is_word = WORDS.contains(&value.to_ascii_lowercase().as_str());
    if is_simple && is_text && !is_word { value.to_owned() } else { json!(value).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_in_one_line_has_quotes_only_where_text_would_be_read_as_something_else() {
        let value = json!({ "name": "0a1-g0", "items": ["v1", "on", "12", "0x1e", "2001-01-01", "", "a: b", true], "none": null });
        let written = flow(&value);
        assert_eq!(
            written,
            r#"{items: [v1, "on", "12", "0x1e", "2001-01-01", "", "a: b", true], name: 0a1-g0, none: null}"#
        );
    }
}
