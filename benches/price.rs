//! From the bytes of a request to the most that it can cost.
//!
//! `media` is what reading the header of inline media costs: it must not grow
//! with the media, other than where a header is long or each character escaped.

#![expect(clippy::unwrap_used, reason = "a benchmark that can't go on has failed")]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde_json::json;
use spendguard::domain::KeptSize;
use spendguard::domain::demand::Tier;
use spendguard::media;
use spendguard::pricing::bound::{ToolsBound, bound};
use spendguard::pricing::plan::Policy;
use spendguard::pricing::sheet::Sheet;
use spendguard::protocol::openai::CHAT;

/// A conversation of so many bytes of text.
fn text(bytes: usize) -> Vec<u8> {
    let turn =
        "Answer in plain words, \"cite\" the line you used, and say so when you don't know.\n".repeat(12);
    let turns = bytes / (turn.len() + 40);
    let messages: Vec<_> = (0..turns)
        .map(|n| json!({ "role": if n % 2 == 0 { "user" } else { "assistant" }, "content": turn }))
        .collect();
    json!({ "model": "gpt-5", "messages": messages, "max_completion_tokens": 500 }).to_string().into_bytes()
}

/// A question about an inline image of so many bytes.
fn image(bytes: usize) -> Vec<u8> {
    let url = format!("data:image/png;base64,{}", "iVBORw0K".repeat(bytes / 8));
    let content = json!([{ "type": "text", "text": "What is it?" }, { "type": "image_url", "image_url": { "url": url } }]);
    json!({ "model": "gpt-5", "messages": [{ "role": "user", "content": content }] }).to_string().into_bytes()
}

fn bounds(c: &mut Criterion) {
    let sheet = Sheet::built_in(&[]).unwrap();
    let policy = Policy {
        output_default: 16_384,
        tool_calls_max: 8,
        tool_context_max: 16_000,
        tools_bound: ToolsBound::Practical,
        project_tier: Tier::default(),
    };
    let mut group = c.benchmark_group("bound");
    for (name, body) in [
        ("1 KB of text", text(1 << 10)),
        ("100 KB of text", text(100 << 10)),
        ("20 MB of image", image(20 << 20)),
    ] {
        group.throughput(Throughput::Bytes(u64::try_from(body.len()).unwrap()));
        group.bench_function(name, |b| {
            b.iter(|| {
                let read = CHAT.read(&body).unwrap();
                let price = sheet.find(&read.demand.model, 1_795_000_000).unwrap();
                let written = policy.written(&price, &read.demand, true);
                bound(&price, None, &read.demand, policy.inputs(&read.demand, written, KeptSize::NOTHING))
            });
        });
    }
    group.finish();
}

/// A JPEG of so many bytes whose frame header is behind so many bytes of
/// application segments, as a JSON string.
fn jpeg(segments: usize, bytes: usize) -> String {
    let segment = [&[0xff, 0xe1, 0xff, 0xff][..], &vec![7; 65_533]].concat().repeat(segments);
    let frame = [0xff, 0xc0, 0, 11, 8, 0x0f, 0xa0, 0x17, 0x70, 1, 1, 0x11, 0, 0xff, 0xda];
    let head = [&[0xff, 0xd8], &segment[..], &frame].concat();
    let pixels = vec![0x5a; bytes - head.len()];
    format!("\"data:image/jpeg;base64,{}\"", STANDARD.encode([head, pixels].concat()))
}

fn headers(c: &mut Criterion) {
    let mut group = c.benchmark_group("media");
    let plain = jpeg(1, 20 << 20);
    for (name, token) in [
        ("20 MB of JPEG, 64 KiB before its size", plain.clone()),
        ("20 MB of JPEG, 1 MiB before its size", jpeg(16, 20 << 20)),
        ("20 MB of JPEG, slashes escaped", plain.replace('/', "\\/")),
    ] {
        let size = media::image_size(&token).unwrap();
        assert_eq!((size.width, size.height), (6_000, 4_000));
        group.bench_function(name, |b| b.iter(|| media::image_size(&token)));
    }
    group.finish();
}

criterion_group!(benches, bounds, headers);
criterion_main!(benches);
