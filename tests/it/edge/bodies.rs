//! Compressed bodies, and chunked ones.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use http::StatusCode;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::attack::Target;
use crate::edge::last;
use crate::harness::{House, chat, run};

fn gzip(text: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap().into()
}

fn deflate(text: &[u8]) -> Bytes {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap().into()
}

#[test]
fn compressed_bodies_are_unpacked_metered_and_forwarded_plain() {
    run(async {
        let house = House::with("").await;
        // Small, and larger than what is unpacked at once.
        let noise: String =
            (0..40_000_u64).map(|n| char::from(b'a' + u8::try_from(n * n % 23).unwrap())).collect();
        for content in ["hello", noise.as_str()] {
            let body = chat(json!({ "messages": [{ "role": "user", "content": content }] })).to_string();
            let zstd = compress_to_vec(body.as_bytes(), CompressionLevel::Fastest).into();
            let codings =
                [("gzip", gzip(body.as_bytes())), ("deflate", deflate(body.as_bytes())), ("zstd", zstd)];
            for (coding, packed) in codings {
                let headers = [("content-encoding", coding)];
                let answer = house.post_raw("/v1/chat/completions", &headers, packed).await;
                assert_eq!(answer.status, StatusCode::OK, "{coding}: {answer:?}");
                let seen = last(&house).await;
                assert_eq!(seen["body"], body, "{coding}");
                assert!(seen["headers"].get("content-encoding").is_none(), "{seen}");
            }
        }
        assert_eq!(house.entries().await.len(), 6);
    });
}

#[test]
fn what_can_not_be_unpacked_within_bounds_is_refused() {
    run(async {
        let house = House::with("[server]\nrequest_body_max = \"8MiB\"\n").await;
        let body = chat(json!({})).to_string();
        let post = async |coding: &str, body: Bytes| {
            house.post_raw("/v1/chat/completions", &[("content-encoding", coding)], body).await
        };
        for unknown in ["br", "compress", "gzip, gzip", "zstd, gzip"] {
            let answer = post(unknown, gzip(body.as_bytes())).await;
            assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{unknown}");
            assert_eq!(answer.header("accept-encoding"), "gzip, deflate, zstd");
        }
        let packed = gzip(body.as_bytes());
        for broken in [packed.slice(..packed.len() - 9), Bytes::from_static(b"{}"), packed.slice(..12)] {
            assert_eq!(post("gzip", broken).await.status, StatusCode::BAD_REQUEST);
        }
        let bomb = gzip(&vec![b' '; 7 << 20]);
        let answer = post("gzip", bomb).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer:?}");
        let large: Vec<u8> = (0..9_u64 << 20).map(|n| u8::try_from(n * n / 7 % 64).unwrap() + b' ').collect();
        let answer = post("gzip", gzip(&large)).await;
        assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE, "{answer:?}");
        assert!(house.fake.served().is_empty() && house.entries().await.is_empty());
    });
}

#[test]
fn a_chunked_request_keeps_its_connection() {
    run(async {
        let house = House::with("").await;
        let target = Target::from(&house);
        let body = chat(json!({})).to_string();
        let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        let request = target.request("POST /v1/chat/completions", "Transfer-Encoding: chunked\r\n", &chunked);
        let mut stream = target.connect().await;
        for turn in 0..3 {
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut text = String::new();
            while !text.contains("\"usage\"") {
                let mut part = [0; 4096];
                let count = stream.read(&mut part).await.unwrap();
                assert!(count > 0, "it was closed in turn {turn}: {text}");
                text.push_str(&String::from_utf8_lossy(&part[..count]));
            }
            assert!(text.starts_with("HTTP/1.1 200") && !text.contains("connection: close"), "{text}");
        }
    });
}
