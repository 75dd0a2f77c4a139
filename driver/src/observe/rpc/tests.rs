use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use http_body_util::BodyExt;
use hyper::body::Bytes;
use prost_reflect::prost::Message;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};
use stillpoint_csi_proto::v1;
use tonic::codegen::http::{HeaderMap, HeaderValue};
use tower::ServiceExt;

use super::*;

const HIDDEN: &str = "hunter2";
const PLAIN: &str = "plain-text";

fn framed(message: &[u8]) -> Vec<u8> {
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend(message);
    body
}

/// A message with something in every field; what the field is worth depends on whether it is secret.
fn filled(descriptor: &MessageDescriptor, depth: usize, secrets: &mut usize) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    for field in descriptor.fields() {
        let secret = fields::is_marked(&field) || ["token", "ticket", "rule_yaml"].contains(&field.name());
        *secrets += usize::from(secret);
        if let Some(value) = value(&field, if secret { HIDDEN } else { PLAIN }, depth, secrets) {
            message.set_field(&field, value);
        }
    }
    message
}

fn value(field: &FieldDescriptor, text: &str, depth: usize, secrets: &mut usize) -> Option<Value> {
    if field.is_map() {
        return Some(Value::Map([(MapKey::String(text.into()), Value::String(text.into()))].into()));
    }
    let kind = field.kind();
    let one = if kind == Kind::String {
        Value::String(text.into())
    } else if kind == Kind::Bytes {
        Value::Bytes(Bytes::copy_from_slice(text.as_bytes()))
    } else {
        let inner = kind.as_message().filter(|_| depth > 0)?;
        Value::Message(filled(inner, depth - 1, secrets))
    };
    Some(if field.is_list() { Value::List(vec![one]) } else { one })
}

#[test]
fn no_request_of_any_service_shows_a_secret() {
    let (mut secrets, mut shown) = (0, 0);
    for (path, descriptor) in fields::requests() {
        let body = framed(&filled(&descriptor, 3, &mut secrets).encode_to_vec());
        let text = fields::of_request(&path, &body).unwrap_or_else(|| panic!("{path} is not shown"));
        assert!(!text.contains(HIDDEN), "{path}: {text}");
        shown += usize::from(text.contains(PLAIN));
    }
    // The nine of CSI, the token of an enrolment, the text of a rule: otherwise nothing was looked at.
    assert!(secrets >= 11, "{secrets}");
    assert!(shown > 20, "{shown}");
}

#[test]
fn what_cannot_be_read_is_not_shown() {
    for (path, body) in [
        ("/csi.v1.Controller/DeleteVolume", &[][..]),
        ("/csi.v1.Controller/DeleteVolume", &[0, 0, 0, 0, 3, 0xff, 0xff, 0xff]),
        ("/csi.v1.Controller/Nothing", &[0, 0, 0, 0, 0]),
        ("/stillpoint.agent.v1.Agent/Round", &[0, 0, 0, 0, 0]),
        ("", &[0, 0, 0, 0, 0]),
    ] {
        assert_eq!(fields::of_request(path, body), None, "{path}");
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads the whole request, then answers with this code in the trailers.
async fn answer(request: Request<Body>, code: &'static str) -> Result<Response<Body>, io::Error> {
    request.into_body().collect().await.map_err(io::Error::other)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(code));
    let body =
        http_body_util::Full::new(Bytes::from_static(b"x")).with_trailers(async { Some(Ok(trailers)) });
    Ok(Response::new(Body::new(body)))
}

/// What is logged, and what is counted, when this is asked.
async fn seen(method: &'static str, message: &impl Message, code: &'static str) -> String {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let service = Observe.layer(tower::service_fn(move |request| answer(request, code)));
    let body = http_body_util::Full::new(Bytes::from(framed(&message.encode_to_vec())));
    let mut request = Request::new(Body::new(body));
    *request.uri_mut() = format!("http://x/{method}").parse().unwrap();
    request.headers_mut().insert(REQUEST_ID, HeaderValue::from_static("req-4711"));
    let response = service.oneshot(request).await.unwrap();
    response.into_body().collect().await.unwrap();
    let text = log.0.lock().unwrap().clone();
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn a_call_is_a_span_with_its_id_its_fields_and_its_code() {
    let request = v1::DeleteVolumeRequest {
        volume_id: "3f9a0c11d2e4-x".into(),
        secrets: [("password".to_owned(), HIDDEN.to_owned())].into(),
    };
    let text = seen("csi.v1.Controller/DeleteVolume", &request, "10").await;
    assert!(text.contains("3f9a0c11d2e4-x") && text.contains("request=req-4711"), "{text}");
    assert!(text.contains("Aborted") && !text.contains(HIDDEN), "{text}");
    let metrics = crate::observe::metrics::of_controller(std::sync::Arc::default()).text();
    let line = r#"stillpoint_rpcs_total{method="csi.v1.Controller/DeleteVolume",code="Aborted"}"#;
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test]
async fn methods_that_nobody_serves_are_not_counted() {
    seen("made.Up/Name", &v1::ProbeRequest {}, "12").await;
    assert!(!crate::observe::metrics::of_controller(std::sync::Arc::default()).text().contains("made.Up"));
}
