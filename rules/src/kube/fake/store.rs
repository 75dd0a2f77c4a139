//! Objects by their paths, and what an API server does with them.

use serde_json::{Value, json};

use super::{Request, State, exec, failure, watch};

impl State {
    pub(super) fn complete(&mut self, path: &str, object: &mut Value) {
        self.version += 1;
        let parts: Vec<&str> = path.split('/').collect();
        let metadata = &mut object["metadata"];
        metadata["resourceVersion"] = json!(self.version.to_string());
        if metadata["name"].is_null() {
            metadata["name"] = json!(parts.last());
        }
        if metadata["uid"].is_null() {
            metadata["uid"] = json!(format!("uid-{}", self.version));
        }
        if let Some(at) = parts.iter().position(|part| *part == "namespaces") {
            metadata["namespace"] = json!(parts.get(at + 1));
        }
    }

    pub(super) fn keep(&mut self, path: &str, object: Value) {
        let kind = if self.objects.contains_key(path) { "MODIFIED" } else { "ADDED" };
        let (version, path) = (self.version, path.to_owned());
        self.changes.push(watch::Change { version, path: path.clone(), kind, object: object.clone() });
        self.objects.insert(path, object);
    }

    pub(super) fn forget(&mut self, path: &str) {
        let Some(object) = self.objects.remove(path) else { return };
        self.version += 1;
        let (version, path) = (self.version, path.to_owned());
        self.changes.push(watch::Change { version, path, kind: "DELETED", object });
    }

    pub(super) fn answer(&mut self, request: &Request) -> (u16, Value) {
        let path = request.path.trim_end_matches('/');
        match request.method.as_str() {
            "GET" => {
                let found = self.objects.get(path).cloned().or_else(|| self.listed(path, request));
                found.map_or_else(|| (404, failure(404, "not found")), |found| (200, found))
            }
            "POST" if path.ends_with("/selfsubjectaccessreviews") => {
                (201, json!({ "metadata": {}, "spec": {}, "status": { "allowed": self.exec_allowed } }))
            }
            "POST" => self.create(path, &request.body),
            "PUT" => self.replace(path, &request.body),
            "PATCH" => self.patch(path, request),
            "DELETE" => self.delete(path, &request.body),
            other => (405, failure(405, other)),
        }
    }

    /// A path with a name at its end is no list: names are told by the number of parts.
    fn listed(&self, path: &str, request: &Request) -> Option<Value> {
        if !is_list(path) {
            return None;
        }
        let asked = |key: &str| query(request, key);
        let wanted = asked("labelSelector");
        let after = asked("continue").unwrap_or_default();
        let mut found = self.objects.iter().filter(|(at, object)| {
            is_in(path, at) && at.as_str() > after.as_str() && has_labels(object, wanted.as_deref())
        });
        let limit = asked("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
        let page: Vec<(&String, &Value)> = found.by_ref().take(limit).collect();
        let more = found.next().and(page.last()).map(|(at, _)| (*at).clone());
        let as_metadata = request
            .headers
            .get("accept")
            .is_some_and(|accept| accept.contains("as=PartialObjectMetadataList"));
        let shown = |object: &Value| {
            if as_metadata {
                let metadata = object["metadata"].clone();
                json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata })
            } else {
                object.clone()
            }
        };
        let items: Vec<Value> = page.iter().map(|(_, object)| shown(object)).collect();
        let metadata = json!({ "continue": more, "resourceVersion": self.version.to_string() });
        Some(json!({ "kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items }))
    }

    fn create(&mut self, path: &str, body: &[u8]) -> (u16, Value) {
        let Ok(mut object) = serde_json::from_slice::<Value>(body) else {
            return (400, failure(400, "no JSON"));
        };
        let name = match (object["metadata"]["name"].as_str(), object["metadata"]["generateName"].as_str()) {
            (Some(name), _) => name.to_owned(),
            (None, Some(prefix)) => format!("{prefix}{}", self.version),
            (None, None) => return (422, failure(422, "no name")),
        };
        let path = format!("{path}/{name}");
        if self.objects.contains_key(&path) {
            return (409, failure(409, "it exists"));
        }
        // A subresource is not written with the object.
        object.as_object_mut().map(|fields| fields.remove("status"));
        self.complete(&path, &mut object);
        self.keep(&path, object.clone());
        (201, object)
    }

    /// Merge patches of metadata. Like the real one it refuses another identity, and remembers which manager wrote which
    /// annotation.
    fn patch(&mut self, path: &str, request: &Request) -> (u16, Value) {
        let Ok(given) = serde_json::from_slice::<Value>(&request.body) else {
            return (400, failure(400, "no JSON"));
        };
        let Some(mut object) = self.objects.get(path).cloned() else {
            return (404, failure(404, "not found"));
        };
        let metadata = &given["metadata"];
        if !metadata["uid"].is_null() && metadata["uid"] != object["metadata"]["uid"] {
            return (409, failure(409, "Precondition failed: UID in precondition"));
        }
        let manager =
            watch::options(&request.query).get("fieldManager").copied().unwrap_or("unknown").to_owned();
        let mut fields = serde_json::Map::new();
        for (key, value) in metadata["annotations"].as_object().into_iter().flatten() {
            if !value.is_null() {
                fields.insert(format!("f:{key}"), json!({}));
            }
        }
        merge(&mut object, &given);
        object["metadata"]["managedFields"] = json!([{
            "manager": manager, "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
            "fieldsV1": { "f:metadata": { "f:annotations": fields } }
        }]);
        self.complete(path, &mut object);
        self.keep(path, object.clone());
        (200, object)
    }

    /// The whole object or its status: each leaves the other's part alone.
    fn replace(&mut self, path: &str, body: &[u8]) -> (u16, Value) {
        let Ok(given) = serde_json::from_slice::<Value>(body) else { return (400, failure(400, "no JSON")) };
        let (path, is_status) = path.strip_suffix("/status").map_or((path, false), |path| (path, true));
        let Some(known) = self.objects.get(path).cloned() else { return (404, failure(404, "not found")) };
        if given["metadata"]["resourceVersion"] != known["metadata"]["resourceVersion"] {
            return (409, failure(409, "the object has been modified"));
        }
        if !given["metadata"]["uid"].is_null() && given["metadata"]["uid"] != known["metadata"]["uid"] {
            return (409, failure(409, "the uid in the precondition is another one"));
        }
        let mut object = if is_status { known.clone() } else { given.clone() };
        object["status"] = if is_status { given["status"].clone() } else { known["status"].clone() };
        for field in ["uid", "deletionTimestamp"] {
            object["metadata"][field] = known["metadata"][field].clone();
        }
        if is_leaving(&object) && !finalizers(&object).iter().all(|one| finalizers(&known).contains(one)) {
            return (422, failure(422, "no new finalizers can be added if the object is being deleted"));
        }
        self.complete(path, &mut object);
        if is_leaving(&object) && finalizers(&object).is_empty() {
            self.forget(path);
        } else {
            self.keep(path, object.clone());
        }
        (200, object)
    }

    /// An object with finalizers only begins to leave.
    pub(super) fn delete(&mut self, path: &str, body: &[u8]) -> (u16, Value) {
        let Some(mut object) = self.objects.get(path).cloned() else {
            return (404, failure(404, "not found"));
        };
        let options: Value = serde_json::from_slice(body).unwrap_or_default();
        let uid = &options["preconditions"]["uid"];
        if !uid.is_null() && *uid != object["metadata"]["uid"] {
            return (409, failure(409, "the uid in the precondition is another one"));
        }
        if finalizers(&object).is_empty() {
            self.forget(path);
        } else {
            object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            self.complete(path, &mut object);
            self.keep(path, object.clone());
        }
        (200, object)
    }
}

fn is_leaving(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

fn finalizers(object: &Value) -> Vec<&str> {
    object["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// `a=b,c=d`.
fn has_labels(object: &Value, wanted: Option<&str>) -> bool {
    let pairs =
        wanted.into_iter().flat_map(|wanted| wanted.split(',')).filter_map(|pair| pair.split_once('='));
    pairs.into_iter().all(|(key, value)| object["metadata"]["labels"][key] == value)
}

/// One value of a query.
fn query(request: &Request, key: &str) -> Option<String> {
    exec::arguments(&request.query, key).into_iter().next()
}

/// A merge patch: null removes, objects are merged, anything else replaces.
fn merge(object: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            object.as_object_mut().map(|all| all.remove(key));
        } else {
            merge(&mut object[key], value);
        }
    }
}

/// The parts of a path after group and version, and those before.
fn parts(path: &str) -> (Vec<&str>, Vec<&str>) {
    let mut parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let root = if parts.first() == Some(&"api") { 2 } else { 3 };
    let rest = parts.split_off(root.min(parts.len()));
    (parts, rest)
}

fn is_list(path: &str) -> bool {
    matches!(parts(path).1.as_slice(), [_] | ["namespaces", _, _])
}

/// Whether an object belongs to what a list or a watch is of.
pub(super) fn is_in(list: &str, object: &str) -> bool {
    let ((base, of), (root, at)) = (parts(list), parts(object));
    if base != root {
        return false;
    }
    match (of.as_slice(), at.as_slice()) {
        ([plural], [kind, _] | ["namespaces", _, kind, _]) => plural == kind,
        (["namespaces", here, plural], ["namespaces", namespace, kind, _]) => {
            here == namespace && plural == kind
        }
        _ => false,
    }
}
