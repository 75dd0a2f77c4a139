//! For tests: an API server in memory on a socket of this machine. It keeps any object by its path, refuses a write
//! over a version that is not the newest, and runs the commands of `exec` as processes of this machine, over real
//! WebSockets. It checks no schema and knows no authorization but what [`FakeCluster::refuse`] tells it.

mod exec;
mod watch;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Bytes of a request's head or body that are read.
const LIMIT: usize = 4 * 1024 * 1024;

/// A cluster in memory. Cheap to clone; it goes with its last clone's runtime.
#[derive(Clone)]
pub struct FakeCluster {
    shared: Arc<Mutex<State>>,
    newest: Arc<tokio::sync::watch::Sender<u64>>,
    address: std::net::SocketAddr,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    refused: Vec<(String, u16)>,
    exec_allowed: bool,
    log: Vec<String>,
    version: u64,
    changes: Vec<watch::Change>,
}

/// A request as far as it matters.
struct Request {
    method: String,
    path: String,
    query: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl FakeCluster {
    /// An empty cluster that answers from now on.
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let cluster =
            Self { shared: Arc::default(), newest: Arc::default(), address: listener.local_addr()? };
        let serving = cluster.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let cluster = serving.clone();
                tokio::spawn(async move { cluster.serve(stream).await });
            }
        });
        Ok(cluster)
    }

    /// A client of it.
    pub fn client(&self) -> Result<kube::Client, kube::Error> {
        let uri = format!("http://{}", self.address).parse();
        kube::Client::try_from(kube::Config::new(uri.map_err(|error| kube::Error::Service(Box::new(error)))?))
    }

    /// Writes an object under its path, whatever was there.
    pub fn put(&self, path: &str, mut object: Value) {
        let mut state = self.state();
        state.complete(path, &mut object);
        state.keep(path, object);
        self.newest.send_replace(state.version);
    }

    /// The object at a path.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.state().objects.get(path).cloned()
    }

    /// Removes the object at a path.
    pub fn remove(&self, path: &str) {
        let mut state = self.state();
        state.forget(path);
        self.newest.send_replace(state.version);
    }

    /// All objects below a path.
    pub fn below(&self, path: &str) -> Vec<Value> {
        let state = self.state();
        state
            .objects
            .iter()
            .filter(|(at, _)| at.starts_with(path))
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// From now on requests whose `METHOD /path` contains this text are answered with this code.
    pub fn refuse(&self, text: &str, code: u16) {
        self.state().refused.push((text.to_owned(), code));
    }

    /// From now on access reviews say yes.
    pub fn allow_exec(&self) {
        self.state().exec_allowed = true;
    }

    /// Everything is answered again.
    pub fn relent(&self) {
        self.state().refused.clear();
    }

    /// `METHOD /path` of all requests so far.
    pub fn log(&self) -> Vec<String> {
        self.state().log.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn subscribe(&self) -> tokio::sync::watch::Receiver<u64> {
        self.newest.subscribe()
    }

    fn changes_since(&self, version: u64) -> Vec<watch::Change> {
        self.state().changes.iter().filter(|change| change.version > version).cloned().collect()
    }

    async fn serve(&self, stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        while let Some(request) = read(&mut stream).await {
            let refused = self.note(&request);
            let is_exec = request.headers.get("upgrade").is_some_and(|upgrade| upgrade == "websocket");
            let (code, body) = match refused {
                Some(code) => (code, failure(code, "refused by the test")),
                None if is_exec => return exec::serve(stream.into_inner(), &request).await,
                None if watch::options(&request.query).get("watch") == Some(&"true") => {
                    return watch::serve(self, stream.into_inner(), &request).await;
                }
                None => {
                    let mut state = self.state();
                    let answer = state.answer(&request);
                    self.newest.send_replace(state.version);
                    answer
                }
            };
            let text = body.to_string();
            let head = format!(
                "HTTP/1.1 {code} Answer\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                text.len()
            );
            if stream.write_all(head.as_bytes()).await.is_err()
                || stream.write_all(text.as_bytes()).await.is_err()
            {
                return;
            }
        }
    }

    fn note(&self, request: &Request) -> Option<u16> {
        let mut state = self.state();
        let line = format!("{} {}", request.method, request.path);
        let refused = state.refused.iter().find(|(text, _)| line.contains(text)).map(|(_, code)| *code);
        state.log.push(line);
        refused
    }
}

impl State {
    fn complete(&mut self, path: &str, object: &mut Value) {
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

    fn keep(&mut self, path: &str, object: Value) {
        let kind = if self.objects.contains_key(path) { "MODIFIED" } else { "ADDED" };
        let (version, path) = (self.version, path.to_owned());
        self.changes.push(watch::Change { version, path: path.clone(), kind, object: object.clone() });
        self.objects.insert(path, object);
    }

    fn forget(&mut self, path: &str) {
        let Some(object) = self.objects.remove(path) else { return };
        self.version += 1;
        let (version, path) = (self.version, path.to_owned());
        self.changes.push(watch::Change { version, path, kind: "DELETED", object });
    }

    fn answer(&mut self, request: &Request) -> (u16, Value) {
        let path = request.path.trim_end_matches('/');
        match request.method.as_str() {
            "GET" => match self.objects.get(path) {
                Some(object) => (200, object.clone()),
                None => {
                    self.listed(path).map_or_else(|| (404, failure(404, "not found")), |list| (200, list))
                }
            },
            "POST" if path.ends_with("/selfsubjectaccessreviews") => {
                (201, json!({ "metadata": {}, "spec": {}, "status": { "allowed": self.exec_allowed } }))
            }
            "POST" => self.create(path, &request.body),
            "PUT" => self.replace(path, &request.body),
            "PATCH" => self.patch(path, request),
            other => (405, failure(405, other)),
        }
    }

    /// A path with a name at its end is no list: names are told by the number of parts.
    fn listed(&self, path: &str) -> Option<Value> {
        if !is_list(path) {
            return None;
        }
        let items: Vec<&Value> =
            self.objects.iter().filter(|(at, _)| is_in(path, at)).map(|(_, object)| object).collect();
        let metadata = json!({ "resourceVersion": self.version.to_string() });
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
            if value.is_null() {
                object["metadata"]["annotations"].as_object_mut().map(|all| all.remove(key));
            } else {
                object["metadata"]["annotations"][key] = value.clone();
                fields.insert(format!("f:{key}"), json!({}));
            }
        }
        object["metadata"]["managedFields"] = json!([{
            "manager": manager, "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
            "fieldsV1": { "f:metadata": { "f:annotations": fields } }
        }]);
        self.complete(path, &mut object);
        self.keep(path, object.clone());
        (200, object)
    }

    fn replace(&mut self, path: &str, body: &[u8]) -> (u16, Value) {
        let Ok(given) = serde_json::from_slice::<Value>(body) else { return (400, failure(400, "no JSON")) };
        let Some(path) = path.strip_suffix("/status") else { return (405, failure(405, "status only")) };
        let Some(mut object) = self.objects.get(path).cloned() else {
            return (404, failure(404, "not found"));
        };
        if given["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
            return (409, failure(409, "the object has been modified"));
        }
        object["status"] = given["status"].clone();
        self.complete(path, &mut object);
        self.keep(path, object.clone());
        (200, object)
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
fn is_in(list: &str, object: &str) -> bool {
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

fn failure(code: u16, message: &str) -> Value {
    let reason = match code {
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        422 => "Invalid",
        _ => "InternalError",
    };
    json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": code, "message": message, "reason": reason
    })
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
        if head.len() > LIMIT {
            return None;
        }
    }
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length: usize = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length.min(LIMIT)];
    stream.read_exact(&mut body).await.ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    Some(Request { method, path: path.to_owned(), query: query.to_owned(), headers, body })
}
