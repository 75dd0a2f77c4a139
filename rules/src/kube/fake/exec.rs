//! `exec` over a WebSocket (`v5.channel.k8s.io`): the command runs as a process of this machine. The connection's end
//! is the end of its standard input, and, as in a cluster, nothing else.

use std::process::Stdio;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::Request;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const CLOSE: u8 = 255;

pub(super) async fn serve(mut stream: TcpStream, request: &Request) {
    let key = request.headers.get("sec-websocket-key").cloned().unwrap_or_default();
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
         sec-websocket-accept: {}\r\nsec-websocket-protocol: v5.channel.k8s.io\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    if stream.write_all(head.as_bytes()).await.is_err() {
        return;
    }
    let socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    let argv = arguments(&request.query, "command");
    let with_input = arguments(&request.query, "stdin").iter().any(|value| value == "true");
    let Some((program, rest)) = argv.split_first() else { return };
    let input = if with_input { Stdio::piped() } else { Stdio::null() };
    let child = Command::new(program)
        .args(rest)
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // As a runtime does: the process leads a group of its own.
        .process_group(0)
        .spawn();
    match child {
        Ok(child) => converse(socket, child).await,
        Err(error) => refuse(socket, &format!("exec: \"{program}\": {error}")).await,
    }
}

async fn refuse(mut socket: WebSocketStream<TcpStream>, why: &str) {
    let status = json!({ "metadata": {}, "status": "Failure", "message": why, "reason": "InternalError" });
    // The client learns of a lost connection by itself.
    let _ = socket.send(framed(STATUS, status.to_string().as_bytes())).await;
}

async fn converse(socket: WebSocketStream<TcpStream>, mut child: Child) {
    let (mut to_client, mut from_client) = socket.split();
    let (frames, mut outgoing) = mpsc::channel::<Message>(64);
    let out = tokio::spawn(pump(child.stdout.take(), STDOUT, frames.clone()));
    let err = tokio::spawn(pump(child.stderr.take(), STDERR, frames.clone()));
    let sending = tokio::spawn(async move {
        while let Some(frame) = outgoing.recv().await {
            if to_client.send(frame).await.is_err() {
                return;
            }
        }
        // The other side closes after the status.
        let _ = to_client.close().await;
    });
    let mut stdin = child.stdin.take();
    let listening = tokio::spawn(async move {
        while let Some(Ok(message)) = from_client.next().await {
            let data = message.into_data();
            match data.first() {
                Some(&STDIN) => {
                    if let Some(stdin) = &mut stdin {
                        // A process that has ended reads no more.
                        let _ = stdin.write_all(&data[1..]).await;
                        let _ = stdin.flush().await;
                    }
                }
                Some(&CLOSE) => stdin = None,
                Some(_) | None => {}
            }
        }
    });
    let ended = child.wait().await;
    let _ = tokio::join!(out, err);
    let code = ended.ok().and_then(|status| status.code()).unwrap_or(137);
    let _ = frames.send(framed(STATUS, outcome(code).to_string().as_bytes())).await;
    drop(frames);
    let _ = sending.await;
    listening.abort();
}

fn outcome(code: i32) -> Value {
    if code == 0 {
        return json!({ "metadata": {}, "status": "Success" });
    }
    json!({
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] }
    })
}

async fn pump(stream: Option<impl AsyncRead + Unpin>, channel: u8, frames: mpsc::Sender<Message>) {
    let Some(mut stream) = stream else { return };
    let mut chunk = vec![0; 8192];
    while let Ok(length @ 1..) = stream.read(&mut chunk).await {
        if frames.send(framed(channel, &chunk[..length])).await.is_err() {
            return;
        }
    }
}

fn framed(channel: u8, bytes: &[u8]) -> Message {
    let mut frame = vec![channel];
    frame.extend_from_slice(bytes);
    Message::Binary(frame.into())
}

/// All values of one key.
pub(super) fn arguments(query: &str, key: &str) -> Vec<String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(name, _)| *name == key).map(|(_, value)| decoded(value)).collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = tail
            .get(..2)
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (first, code) {
            (b'%', Some(code)) => {
                bytes.push(code);
                rest = &tail[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = tail;
            }
            (other, _) => {
                bytes.push(*other);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
