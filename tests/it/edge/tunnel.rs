//! Upstream behind a proxy.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, Full};
use spendguard::net::{Serving, Timeouts, Tls};
use spendguard::upstream::{Config, HttpProxy, SendError, Upstream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::edge::Scripted;
use crate::harness::run;
use crate::network::{certificate, trusting};
use crate::process::Process;

/// A proxy that opens tunnels, or says something else; what it was asked.
async fn proxy(answer: &'static str) -> (std::net::SocketAddr, Rc<RefCell<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Rc::new(RefCell::new(Vec::new()));
    let noted = Rc::clone(&asked);
    tokio::task::spawn_local(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let noted = Rc::clone(&noted);
            tokio::task::spawn_local(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = client.read_u8().await else { return };
                    head.push(byte);
                }
                let text = String::from_utf8(head).unwrap();
                let place = text.split(' ').nth(1).unwrap().to_owned();
                noted.borrow_mut().push(text);
                client.write_all(answer.as_bytes()).await.unwrap();
                if answer.starts_with("HTTP/1.1 200") {
                    let mut server = TcpStream::connect(place).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    (address, asked)
}

fn config(base_url: &str) -> Config {
    let wait = Duration::from_secs(5);
    Config { base_url: base_url.parse().unwrap(), connect_timeout: wait, response_timeout: wait }
}

fn way(address: std::net::SocketAddr, user: Option<&str>) -> HttpProxy {
    HttpProxy {
        url: format!("http://{address}").parse().unwrap(),
        authorization: user.map(|user| user.parse().unwrap()),
    }
}

async fn get(upstream: &Upstream) -> Result<String, SendError> {
    let answer = upstream.send(Method::GET, "/models", HeaderMap::new(), Bytes::new()).await?;
    Ok(String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

#[test]
fn an_upstream_with_tls_is_reached_through_a_tunnel() {
    run(async {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key, trusted) = certificate(folder.path());
        let listener = spendguard::net::bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        let server = listener.local_addr().unwrap();
        let (_stop, stop) = tokio::sync::watch::channel(false);
        let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async move {
            let seen = format!("{} {}", request.uri(), request.headers().contains_key("proxy-authorization"));
            Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from(seen))))
        });
        let serving = Serving {
            timeouts: Timeouts { header: Duration::from_secs(5), idle: Duration::from_secs(5) },
            connections: Arc::new(tokio::sync::Semaphore::new(10)),
            tls: Some(Arc::new(Tls::load(&cert, &key).unwrap())),
            stop,
        };
        tokio::task::spawn_local(spendguard::net::serve(listener, serving, service));
        let (address, asked) = proxy("HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n").await;
        let to = config(&format!("https://{server}/v1"));
        let upstream = Upstream::through(Some(&way(address, Some("Basic YTpi"))), &to, &trusting(&trusted));
        for _ in 0..2 {
            assert_eq!(
                get(&upstream).await.unwrap(),
                "/v1/models false",
                "the server sees nothing of the proxy"
            );
        }
        let tunnel =
            format!("CONNECT {server} HTTP/1.1\r\nHost: {server}\r\nProxy-Authorization: Basic YTpi\r\n\r\n");
        assert_eq!(*asked.borrow(), [tunnel], "once for a connection that is kept");
    });
}

#[test]
fn a_proxy_that_refuses_says_why_in_the_error() {
    run(async {
        let to = config("https://api.openai.com/v1");
        let roots = spendguard::upstream::roots();
        for (answer, expected) in [
            ("HTTP/1.1 403 Forbidden by policy\r\nContent-Length: 0\r\n\r\n", "403 Forbidden by policy"),
            ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "user and password"),
            ("SSH-2.0-OpenSSH_9.6\r\n\r\n", "SSH-2.0"),
            ("HTTP/1.1 200", "ended the connection"),
        ] {
            let (address, _) = proxy(answer).await;
            let upstream = Upstream::through(Some(&way(address, Some("Basic c2VjcmV0"))), &to, &roots);
            let error = get(&upstream).await.unwrap_err();
            assert!(!error.sent, "{error}");
            let text = error.to_string();
            assert!(text.contains(expected) && text.contains(&format!("http://****@{address}")), "{text}");
            assert!(!text.contains("c2VjcmV0"), "{text}");
        }
    });
}

#[test]
fn a_plain_upstream_is_asked_through_the_proxy_itself() {
    run(async {
        let scripted = Scripted::says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").await;
        let address: std::net::SocketAddr =
            scripted.base_url.trim_start_matches("http://").trim_end_matches("/v1").parse().unwrap();
        let to = config("http://llm.acme.example:8000/v1");
        let upstream =
            Upstream::through(Some(&way(address, Some("Basic YTpi"))), &to, &spendguard::upstream::roots());
        assert_eq!(get(&upstream).await.unwrap(), "hi");
        let asked = scripted.asked.borrow()[0].clone();
        assert!(asked.starts_with("GET http://llm.acme.example:8000/v1/models HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("\r\nhost: llm.acme.example:8000\r\n"), "{asked}");
        assert!(asked.contains("\r\nproxy-authorization: Basic YTpi\r\n"), "{asked}");
        let refused =
            Scripted::says("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n").await;
        let address = refused.base_url.trim_start_matches("http://").trim_end_matches("/v1").parse().unwrap();
        let upstream = Upstream::through(Some(&way(address, None)), &to, &spendguard::upstream::roots());
        let error = get(&upstream).await.unwrap_err();
        assert!(!error.sent && error.to_string().contains("user and password"), "{error}");
    });
}

#[test]
fn the_environments_proxy_is_used_and_its_password_is_not_shown() {
    run(async {
        let (address, asked) = proxy("HTTP/1.1 403 Forbidden\r\n\r\n").await;
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data").display().to_string();
        let named = format!("http://user:hunter2@{address}");
        let environment = [
            ("SPENDGUARD_SERVER__LISTEN", "127.0.0.1:0"),
            ("SPENDGUARD_ADMIN__LISTEN", "127.0.0.1:0"),
            ("SPENDGUARD_STORAGE__PATH", data.as_str()),
            ("SPENDGUARD_KEYS__UNKNOWN", "pass-through"),
            ("HTTPS_PROXY", named.as_str()),
        ];
        let process = Process::start(&["serve"], &environment, "OPENAI_BASE_URL");
        let proxy = crate::harness::client(process.address("proxy listening"));
        let headers = [("authorization", "Bearer sk-own")];
        let answer = crate::harness::call(&proxy, Method::GET, "/v1/models", &headers, Bytes::new()).await;
        assert_eq!(answer.code(), "upstream_unreachable");
        assert!(asked.borrow()[0].starts_with("CONNECT api.openai.com:443 HTTP/1.1\r\n"), "{asked:?}");
        let environment: Vec<_> = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let settings = spendguard::config::load(None, environment).unwrap();
        let shown = settings.text.clone();
        assert!(shown.contains(&format!("http://****@{address}")) && !shown.contains("hunter2"), "{shown}");
    });
}
