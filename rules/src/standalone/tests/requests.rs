//! Requests over real sockets.

use super::*;

fn http_request(target: PodTarget, port: u16) -> HttpRequest {
    HttpRequest {
        target,
        method: crate::api::Method::Post,
        port,
        path: "/flush?now".into(),
        headers: vec![("authorization".into(), "Bearer t".into())],
        body: Some("{}".into()),
        tls: None,
        timeout: SAFETY,
        output_limit: 64,
    }
}

/// Answers every request with what it got.
async fn echo(stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (mut stream, mut head) = (stream, vec![0; 4096]);
    let length = stream.read(&mut head).await.unwrap_or(0);
    let text = String::from_utf8_lossy(&head[..length]).replace("\r\n", "|");
    let answer = format!("HTTP/1.1 418 Tea\r\ncontent-length: {}\r\n\r\n{text}", text.len());
    let _ = stream.write_all(answer.as_bytes()).await;
}

#[tokio::test]
async fn a_request_goes_to_the_pods_address_with_headers_and_body() {
    let server = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = server.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = server.accept().await {
            echo(stream).await;
        }
    });
    let (pods, target) = pods(PodDefinition { address: Some("127.0.0.1".into()), ..definition("db") });
    let request = HttpRequest { output_limit: 4096, ..http_request(target.clone(), port) };
    let outcome = timeout(SAFETY, pods.http(request)).await.unwrap().unwrap();
    assert_eq!(outcome.status, 418);
    let said = &outcome.output;
    assert!(
        said.starts_with("POST /flush?now HTTP/1.1|") && said.contains("authorization: Bearer t|"),
        "{said}"
    );
    assert!(said.contains(&format!("host: 127.0.0.1:{port}|")) && said.contains("|{}"), "{said}");
    for (method, body, length) in [
        (crate::api::Method::Post, None, Some("content-length: 0|")),
        (crate::api::Method::Put, Some(String::new()), Some("content-length: 0|")),
        (crate::api::Method::Delete, Some(String::new()), Some("content-length: 0|")),
        (crate::api::Method::Post, Some("é".to_owned()), Some("content-length: 2|")),
        (crate::api::Method::Get, None, None),
    ] {
        let request = HttpRequest { output_limit: 4096, method, body, ..http_request(target.clone(), port) };
        let said = timeout(SAFETY, pods.http(request)).await.unwrap().unwrap().output;
        let found = said.matches("content-length").count();
        assert_eq!(found, usize::from(length.is_some()), "{said}");
        assert!(length.is_none_or(|length| said.contains(length)), "{said}");
    }
    let (nowhere, target) = super::tests::pods(definition("db"));
    let error = nowhere.http(http_request(target, port)).await.unwrap_err().to_string();
    assert!(error.contains("gives it no `address`"), "{error}");
}

#[tokio::test]
async fn over_tls_only_a_certificate_of_the_named_authority_is_accepted() {
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::{ServerConfig, crypto};

    let own = rcgen::generate_simple_self_signed(vec!["db.example".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["db.example".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let server = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = server.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = server.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await {
                echo(stream).await;
            }
        }
    });
    let (pods, target) = pods(PodDefinition { address: Some("127.0.0.1".into()), ..definition("db") });
    let request = |ca_pem: String, name: Option<&str>| HttpRequest {
        tls: Some(HttpTrust { ca_pem, server_name: name.map(str::to_owned) }),
        ..http_request(target.clone(), port)
    };
    let good = pods.http(request(own.cert.pem(), Some("db.example"))).await.unwrap();
    assert_eq!(good.status, 418);
    for (ca, name) in [
        (other.cert.pem(), Some("db.example")),
        (own.cert.pem(), Some("other.example")),
        (own.cert.pem(), None),
        ("no certificate".to_owned(), None),
    ] {
        let error = pods.http(request(ca, name)).await.unwrap_err();
        assert!(matches!(error, ExecError::NotStarted { .. }), "{error}");
        assert!(error.to_string().contains("no TLS"), "{error}");
    }
}
