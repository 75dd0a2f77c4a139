//! For tests: an API server in memory on a socket of this machine. It keeps any object by its path, refuses a write
//! over a version that is not the newest, deletes an object with finalizers only when they are gone, lists by label, page
//! by page and as metadata, and runs the commands of `exec` as processes of this machine, over real
//! WebSockets. It checks no schema and knows no authorization but what [`FakeCluster::refuse`] tells it.

mod exec;
mod store;
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

    /// Deletes the object at a path as the API server does: one with finalizers stays until they are gone.
    pub fn delete(&self, path: &str) {
        let mut state = self.state();
        drop(state.delete(path, &[]));
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
