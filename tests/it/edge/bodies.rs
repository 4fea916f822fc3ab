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

/// Text that is hard to compress.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        u8::try_from(state >> 58).unwrap() + b' '
    };
    (0..bytes).map(|_| next()).collect()
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
        let answer = post("gzip", gzip(&noise(9 << 20))).await;
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

#[test]
fn counts_below_what_openai_takes_are_refused_in_its_words() {
    run(async {
        let house = House::with("").await;
        let below = |param: &str, least: u64, got: &str| {
            format!(
                "Invalid '{param}': integer below minimum value. Expected a value >= {least}, but got {got} instead."
            )
        };
        for (path, field, value, least) in [
            ("/v1/chat/completions", "n", 0, 1),
            ("/v1/chat/completions", "n", -1, 1),
            ("/v1/chat/completions", "max_completion_tokens", -1, 1),
            ("/v1/completions", "n", 0, 1),
            ("/v1/completions", "best_of", -2, 0),
            ("/v1/responses", "max_output_tokens", -5, 1),
        ] {
            let mut body =
                json!({ "model": "gpt-3.5-turbo-instruct", "prompt": "x", "input": "x", "messages": [] });
            body[field] = json!(value);
            let answer = house.post(path, &[], &body).await;
            let error = &answer.json()["error"];
            assert_eq!(
                (answer.status, &error["param"]),
                (StatusCode::BAD_REQUEST, &json!(field)),
                "{path} {field}"
            );
            assert_eq!(error["message"], below(field, least, &value.to_string()), "{path}");
        }
        let body = json!({ "model": "gpt-3.5-turbo-instruct", "prompt": "x", "best_of": 0 });
        let answer = house.post("/v1/completions", &[], &body).await;
        assert_eq!(answer.status, StatusCode::OK, "the specification allows none: {answer:?}");
    });
}
