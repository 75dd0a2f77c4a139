//! Watches: what has changed below a path since a version, one JSON document per line, until the client goes away.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{FakeCluster, Request};

/// A change of one object.
#[derive(Clone)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) path: String,
    pub(super) kind: &'static str,
    pub(super) object: Value,
}

/// The options of a request.
pub(super) fn options(query: &str) -> BTreeMap<&str, &str> {
    query.split('&').filter_map(|pair| pair.split_once('=')).filter(|(_, value)| !value.is_empty()).collect()
}

/// Answers a watch. Like the real one it needs the version from which on it is to tell, and knows no older ones than
/// it was asked to keep (all of them).
pub(super) async fn serve(cluster: &FakeCluster, mut stream: TcpStream, request: &Request) {
    let options = options(&request.query);
    let mut seen: u64 = options.get("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0);
    let only = options.get("fieldSelector").and_then(|text| text.strip_prefix("metadata.name%3D"));
    let head = "HTTP/1.1 200 Answer\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    if stream.write_all(head.as_bytes()).await.is_err() {
        return;
    }
    let mut changes = cluster.subscribe();
    loop {
        let new: Vec<Change> = cluster
            .changes_since(seen)
            .into_iter()
            .filter(|change| super::store::is_in(&request.path, &change.path))
            .filter(|change| only.is_none_or(|name| change.path.ends_with(&format!("/{name}"))))
            .collect();
        for change in new {
            seen = change.version;
            let line = json!({ "type": change.kind, "object": change.object }).to_string() + "\n";
            let chunk = format!("{:x}\r\n{line}\r\n", line.len());
            if stream.write_all(chunk.as_bytes()).await.is_err() {
                return;
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}
