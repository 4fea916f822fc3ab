//! TLS, HTTP/2, connections, and clients' own keys.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Version};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{House, call, chat, run};
use crate::process::Process;

/// A certificate for this machine: its file and its key's file in a folder.
pub(crate) fn certificate(
    folder: &std::path::Path,
) -> (std::path::PathBuf, std::path::PathBuf, rcgen::Certificate) {
    let made = rcgen::generate_simple_self_signed(["localhost".into(), "127.0.0.1".into()]).unwrap();
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (cert, key, made.cert)
}

pub(crate) fn trusting(cert: &rcgen::Certificate) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Arc::new(config.unwrap().with_root_certificates(roots).with_no_client_auth())
}

#[test]
fn the_proxy_speaks_tls_with_both_versions_of_http() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key, trusted) = certificate(folder.path());
        let tls = format!("[server.tls]\ncert = {cert:?}\nkey = {key:?}\n");
        let house = House::with(&tls).await;
        let connect = async |config: Arc<rustls::ClientConfig>| {
            let tcp = tokio::net::TcpStream::connect(house.proxy_address).await.unwrap();
            tokio_rustls::TlsConnector::from(config)
                .connect("localhost".try_into().unwrap(), tcp)
                .await
                .unwrap()
        };
        let mut with_alpn = trusting(&trusted).as_ref().clone();
        with_alpn.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let stream = connect(Arc::new(with_alpn)).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
        let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut sender, connection) = shaken.await.unwrap();
        tokio::task::spawn_local(connection);
        let request = Request::post(format!("https://{}/v1/chat/completions", house.proxy_address))
            .header("authorization", format!("Bearer {}", house.key))
            .body(Full::new(Bytes::from(chat(json!({})).to_string())))
            .unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!((answer.status(), answer.version()), (StatusCode::OK, Version::HTTP_2));
        // Without ALPN it is HTTP/1.1.
        let mut stream = connect(trusting(&trusted)).await;
        let request = format!(
            "GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
            house.key
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    });
}

#[test]
fn many_requests_share_one_http_2_connection_without_tls() {
    run(async {
        let house = House::with("").await;
        let tcp = tokio::net::TcpStream::connect(house.proxy_address).await.unwrap();
        let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp));
        let (sender, connection) = shaken.await.unwrap();
        tokio::task::spawn_local(connection);
        let asked = (0..20).map(|_| {
            let mut sender = sender.clone();
            let request = Request::post(format!("http://{}/v1/chat/completions", house.proxy_address))
                .header("authorization", format!("Bearer {}", house.key))
                .header("x-fake-latency-ms", "50")
                .body(Full::new(Bytes::from(chat(json!({})).to_string())))
                .unwrap();
            tokio::task::spawn_local(async move {
                let answer = sender.send_request(request).await.unwrap();
                assert_eq!((answer.status(), answer.version()), (StatusCode::OK, Version::HTTP_2));
                answer.into_body().collect().await.unwrap().to_bytes().len()
            })
        });
        for answer in asked.collect::<Vec<_>>() {
            assert!(answer.await.unwrap() > 0);
        }
        assert_eq!(house.entries().await.len(), 20);
    });
}

#[test]
fn upstream_is_reached_by_tls_under_a_path_and_only_if_it_is_trusted() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key, _) = certificate(folder.path());
        let listener = spendguard::net::bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        let upstream = format!("https://{}/openai/v1", listener.local_addr().unwrap());
        let tls = Arc::new(spendguard::net::Tls::load(&cert, &key).unwrap());
        let (_stop, stop) = tokio::sync::watch::channel(false);
        let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async move {
            let seen = format!("{:?} {}", request.version(), request.uri().path());
            Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from(seen))))
        });
        let serving = spendguard::net::Serving {
            timeouts: spendguard::net::Timeouts {
                header: Duration::from_secs(5),
                idle: Duration::from_secs(5),
            },
            connections: Arc::new(tokio::sync::Semaphore::new(10)),
            tls: Some(tls),
            stop,
        };
        tokio::task::spawn_local(spendguard::net::serve(listener, serving, service));
        for (trusted, expected) in [(true, "HTTP/1.1 /openai/v1/models"), (false, "upstream_unreachable")] {
            let data = folder.path().join(expected.replace('/', "-")).display().to_string();
            let mut environment = vec![
                ("SPENDGUARD_SERVER__LISTEN", "127.0.0.1:0"),
                ("SPENDGUARD_ADMIN__LISTEN", "127.0.0.1:0"),
                ("SPENDGUARD_STORAGE__PATH", data.as_str()),
                ("SPENDGUARD_UPSTREAM__BASE_URL", upstream.as_str()),
                ("SPENDGUARD_KEYS__UNKNOWN", "pass-through"),
            ];
            environment.extend(trusted.then_some(("SSL_CERT_FILE", cert.to_str().unwrap())));
            let process = Process::start(&["serve"], &environment, "OPENAI_BASE_URL");
            let proxy = crate::harness::client(process.address("proxy listening"));
            let headers = [("authorization", "Bearer sk-own")];
            let answer = call(&proxy, Method::GET, "/v1/models", &headers, Bytes::new()).await;
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(text.contains(expected), "{text}");
        }
    });
}

#[test]
fn beyond_the_bound_of_connections_new_ones_wait() {
    run(async {
        let house = House::with("[server]\nconnections_max = 1\nheader_timeout = \"5s\"\n").await;
        let request =
            format!("GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n", house.key);
        let connect = || tokio::net::TcpStream::connect(house.proxy_address);
        let mut first = connect().await.unwrap();
        let mut answer = [0; 64];
        first.write_all(request.as_bytes()).await.unwrap();
        let wait = Duration::from_secs(5);
        assert!(tokio::time::timeout(wait, first.read(&mut answer)).await.unwrap().unwrap() > 0);
        let mut second = connect().await.unwrap();
        second.write_all(request.as_bytes()).await.unwrap();
        let early = tokio::time::timeout(Duration::from_millis(300), second.read(&mut answer)).await;
        assert!(early.is_err(), "the second waits");
        drop(first);
        let late = tokio::time::timeout(wait, second.read(&mut answer)).await;
        assert!(late.unwrap().unwrap() > 0, "and is served when there is room");
    });
}

#[test]
fn clients_own_keys_pass_through_and_are_metered_and_limited() {
    run(async {
        let config =
            "[[limit]]\nname = \"each\"\nper = \"key\"\nwindow = \"day\"\nunit = \"requests\"\nhard = 2\n";
        let house = House::in_front_of(None, None, config).await;
        let ask = async |secret: &str| {
            let bearer = format!("Bearer {secret}");
            let headers = [("authorization", bearer.as_str())];
            let body = Bytes::from(chat(json!({})).to_string());
            call(&house.proxy, Method::POST, "/v1/chat/completions", &headers, body).await
        };
        for _ in 0..2 {
            assert_eq!(ask("sk-proj-own-key-of-ann").await.status, StatusCode::OK);
        }
        assert_eq!(ask("sk-proj-own-key-of-ann").await.code(), "project_spend_limit_exceeded");
        assert_eq!(ask("sk-proj-own-key-of-bob").await.status, StatusCode::OK, "each key has its own meter");
        let last = call(&house.fake_direct, Method::GET, "/__last", &[], Bytes::new()).await.json();
        assert_eq!(last["headers"]["authorization"], "Bearer sk-proj-own-key-of-bob");
        let keys = house.admin(Method::GET, "/guard/v1/keys", None).await;
        let text = String::from_utf8_lossy(&keys.body).into_owned();
        assert!(!text.contains("sk-proj-own-key-of"), "{text}");
        assert!(text.contains("\"pass_through\":true"), "{text}");
    });
}

#[test]
fn an_allowed_endpoint_is_forwarded_unmetered_and_nothing_else_is() {
    run(async {
        let house = House::with("[endpoints]\nallow = [\"POST /v1/images/variations\"]\n").await;
        let allowed = house.post("/v1/images/variations", &[], &json!({ "prompt": "x" })).await;
        assert_eq!(allowed.status, StatusCode::NOT_FOUND, "the fake's own answer");
        let last = call(&house.fake_direct, Method::GET, "/__last", &[], Bytes::new()).await.json();
        assert_eq!(last["uri"], "/v1/images/variations");
        let other = house.post("/v1/audio/voices", &[], &json!({ "prompt": "x" })).await;
        assert_eq!((other.status, other.code().as_str()), (StatusCode::FORBIDDEN, "endpoint_not_allowed"));
    });
}
