//! Pairs of sockets whose other ends are slow, silent or gone.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;
use crate::guard::opened;
use crate::proxy::socket::Io;
use crate::proxy::socket::budget::Budgeted;

type Far = WebSocketStream<DuplexStream>;

/// A connection with so many bytes of buffer that a request was upgraded on, and its other end.
async fn connection(bytes: usize) -> (Io, DuplexStream) {
    let (ours, mut theirs) = duplex(bytes);
    let (sender, upgrades) = std::sync::mpsc::sync_channel(1);
    let service = service_fn(move |request| {
        let _ = sender.send(hyper::upgrade::on(request));
        let answer = http::Response::builder().status(101).header("connection", "upgrade");
        std::future::ready(answer.header("upgrade", "websocket").body(Empty::<Bytes>::new()))
    });
    let served = http1::Builder::new().serve_connection(TokioIo::new(ours), service).with_upgrades();
    let asked = async {
        let request = "GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        theirs.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(theirs.read_u8().await.unwrap());
        }
    };
    let (served, ()) = tokio::join!(served, asked);
    served.unwrap();
    (TokioIo::new(upgrades.recv().unwrap().await.unwrap()), theirs)
}

/// A pair, and the other ends of both its sockets.
async fn sockets(guard: &Guard) -> (Pair, Readers, [Far; 2]) {
    let (client, far_client) = connection(4 << 10).await;
    let (upstream, far_upstream) = connection(4 << 10).await;
    let client = Budgeted::new(client, Budget::of("of-pairs".into()), Duration::from_secs(60));
    let client = ClientSocket::from_raw_socket(client, Role::Server, None).await;
    let upstream = UpstreamSocket::from_raw_socket(upstream, Role::Client, None).await;
    let far_client = Far::from_raw_socket(far_client, Role::Client, None).await;
    let far_upstream = Far::from_raw_socket(far_upstream, Role::Server, None).await;
    let (pair, readers) = Pair::of(client, upstream, guard);
    (pair, readers, [far_client, far_upstream])
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_what_it_is_sent_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let (guard, _writer) = opened(folder.path());
    for bytes in [10_000, 200_000] {
        let (pair, _readers, _far) = sockets(&guard).await;
        pair.tell("x".into()).await;
        assert!(!pair.gone.is_cancelled());
        pair.tell("x".repeat(bytes).into()).await;
        assert!(pair.gone.is_cancelled(), "{bytes}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_written_to_a_client_ends_when_that_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let (guard, _writer) = opened(folder.path());
    let (pair, _readers, _far) = sockets(&guard).await;
    let leaves = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        pair.gone.cancel();
    };
    let passing = pair.pass_to_client("x".repeat(200_000).into(), Duration::ZERO);
    let both = async { tokio::join!(passing, leaves) };
    assert!(timeout(Duration::from_secs(2), both).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_asked_whether_it_is_there_and_given_up_if_it_does_not_answer() {
    let folder = tempfile::tempdir().unwrap();
    let (guard, _writer) = opened(folder.path());
    let (pair, Readers { mut from_client, .. }, [mut client, _upstream]) = sockets(&guard).await;
    let budget = Budget::of("of-pairs".into());
    // One that reads answers by itself.
    let answers = async {
        tokio::select! {
            _ = pair.next(&mut from_client, &budget) => panic!("it is there"),
            read = async { while let Some(Ok(_)) = client.next().await {} } => read,
        }
    };
    assert!(timeout(Duration::from_secs(600), answers).await.is_err());
    let early = timeout(Duration::from_secs(59), pair.next(&mut from_client, &budget)).await;
    assert!(early.is_err(), "it may still answer");
    let last = timeout(Duration::from_secs(61), pair.next(&mut from_client, &budget)).await;
    assert!(matches!(last, Ok(FromClient::Closed(None))));
}
