//! From the bytes of a request to the most that it can cost.

#![expect(clippy::unwrap_used, reason = "a benchmark that can't go on has failed")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde_json::json;
use spendguard::domain::demand::Tier;
use spendguard::openai::{Metered, request};
use spendguard::pricing::bound::{ToolsBound, bound};
use spendguard::pricing::plan::Policy;
use spendguard::pricing::sheet::Sheet;

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
                let read = request::parse(Metered::Chat, &body).unwrap();
                let price = sheet.find(&read.demand.model, 1_795_000_000).unwrap();
                let written = policy.written(&price, &read.demand, true);
                bound(&price, None, &read.demand, policy.inputs(&read.demand, written, Some(0)))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bounds);
criterion_main!(benches);
