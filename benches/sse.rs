//! Watching a stream: what the tap adds to each byte that passes.

#![expect(clippy::unwrap_used, reason = "a benchmark that can't go on has failed")]

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use spendguard::protocol::openai::CHAT;
use spendguard::protocol::openai::sse::Hide;

const EVENTS: usize = 5_000;

fn stream() -> Bytes {
    let event = "data: {\"id\":\"chatcmpl-0123456789\",\"object\":\"chat.completion.chunk\",\"created\":1795000000,\
                 \"model\":\"gpt-5\",\"service_tier\":\"default\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"},\
                 \"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n";
    let usage = "data: {\"id\":\"chatcmpl-0123456789\",\"object\":\"chat.completion.chunk\",\"model\":\"gpt-5\",\"choices\":[],\
                 \"usage\":{\"prompt_tokens\":9,\"completion_tokens\":5000}}\n\ndata: [DONE]\n\n";
    Bytes::from(event.repeat(EVENTS) + usage)
}

fn taps(c: &mut Criterion) {
    let stream = stream();
    let mut group = c.benchmark_group("sse");
    group.throughput(Throughput::Bytes(u64::try_from(stream.len()).unwrap()));
    let event_bytes = stream.len() / EVENTS;
    for (name, hide) in [("seen", Hide::Nothing), ("edited", Hide::InjectedUsage)] {
        for (frames, frame_bytes) in [("an event a frame", event_bytes), ("8 KiB frames", 8 << 10)] {
            let frames_of = || {
                (0..stream.len())
                    .step_by(frame_bytes)
                    .map(|at| stream.slice(at..(at + frame_bytes).min(stream.len())))
            };
            group.bench_function(format!("{name}, {frames}"), |b| {
                b.iter_batched(
                    || (CHAT.tap(hide, 32 << 20), frames_of().collect::<Vec<_>>()),
                    |(mut tap, frames)| {
                        let passed: usize = frames.into_iter().map(|frame| tap.feed(frame).len()).sum();
                        assert!(tap.answer().usage.is_some() && passed > 0);
                    },
                    BatchSize::LargeInput,
                );
            });
        }
    }
    group.finish();
}

criterion_group!(benches, taps);
criterion_main!(benches);
