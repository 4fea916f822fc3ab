//! Any event stream, cut in any way: what passes and what is understood do not
//! depend on the cuts, nothing is lost but what was injected, and memory stays
//! within its bound.

#![no_main]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use oracle::Endpoint;
use serde_json::Value;
use spendguard::protocol::openai::{Answer, Hide, Tap};
use spendguard_fuzz::bound::operation;
use spendguard_fuzz::knobs;

/// Counts the bytes in use, so that growth can be seen.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Sizes at which an event is too large to be looked at.
const EVENT_BYTES_MAX: [usize; 5] = [1 << 20, 300, 60, 7, 0];

/// How often a stream is repeated to see whether a tap grows.
const REPEATS: usize = 6;

/// What a tap may hold beside the event it waits for and what it has learned.
const OVERHEAD_BYTES_MAX: usize = 4_096;

/// All that a stream comes to.
#[derive(Debug, PartialEq)]
struct Outcome {
    out: Vec<u8>,
    answer: Answer,
    is_done: bool,
    is_mid_event: bool,
    seen_output: bool,
    transcript: String,
    transcript_bytes: u64,
}

fn run(mut tap: Tap, stream: &[u8], mut cut: impl FnMut() -> usize) -> Outcome {
    let mut out = Vec::new();
    let mut rest = Bytes::copy_from_slice(stream);
    while !rest.is_empty() {
        let frame = rest.split_to(cut().min(rest.len()));
        out.extend_from_slice(&tap.feed(frame));
    }
    let is_mid_event = tap.is_mid_event();
    out.extend_from_slice(&tap.finish());
    Outcome {
        out,
        answer: tap.answer(),
        is_done: tap.is_done(),
        is_mid_event,
        seen_output: tap.seen_output(),
        transcript: tap.transcript().to_owned(),
        transcript_bytes: tap.transcript_bytes(),
    }
}

/// The lengths of the events in a stream, the LF of a last CRLF included.
fn events(stream: &[u8]) -> Vec<&[u8]> {
    let (mut events, mut start, mut at, mut line_empty) = (Vec::new(), 0, 0, true);
    while at < stream.len() {
        let byte = stream[at];
        at += 1;
        if byte != b'\r' && byte != b'\n' {
            line_empty = false;
            continue;
        }
        if byte == b'\r' && stream.get(at) == Some(&b'\n') {
            at += 1;
        }
        if line_empty {
            events.push(&stream[start..at]);
            start = at;
        }
        line_empty = true;
    }
    events.push(&stream[start..]);
    events
}

/// The one `data` line of an event as an object, if all that matters in it is
/// written plainly and once.
fn object(event: &[u8]) -> Option<Value> {
    let text = std::str::from_utf8(event).ok()?;
    let mut data = text.split(['\r', '\n']).filter_map(|line| line.strip_prefix("data"));
    let (one, none) = (data.next()?.strip_prefix(':')?, data.next());
    let plain = !text.contains("\\u") && !text.contains("error") && none.is_none();
    let once = |key: &str| text.matches(key).count() <= 1;
    let clear = plain && ["\"usage\"", "\"choices\"", "\"moderation\""].into_iter().all(once);
    serde_json::from_str::<Value>(one).ok().filter(|value| clear && value.is_object())
}

/// An event by itself loses what was injected, and nothing else.
fn hides_only_usage(endpoint: Endpoint, event: &[u8]) {
    let out = run(operation(endpoint).tap(Hide::InjectedUsage, 1 << 20), event, || event.len()).out;
    let mentions = event.windows(7).any(|bytes| bytes == b"\"usage\"");
    assert!(mentions || out == event, "an event that says nothing of usage passes as it is");
    // Usage is injected into these streams only.
    let chatty = matches!(endpoint, Endpoint::Chat | Endpoint::Completions);
    let Some(mut before) = object(event).filter(|_| mentions && chatty) else { return };
    let is_given = |name: &str| !before[name].is_null();
    let has_choices = is_given("choices") && before["choices"].as_array().is_none_or(|list| !list.is_empty());
    let is_usage_only = is_given("usage") && !has_choices && !is_given("moderation");
    assert_eq!(out.is_empty(), is_usage_only, "a chunk that is all usage is dropped, and no other");
    if is_usage_only {
        return;
    }
    before.as_object_mut().map(|members| members.remove("usage"));
    assert_eq!(object(&out), Some(before), "usage is taken out, and nothing else");
}

/// However long a stream lasts, a tap holds one event and what it has learned.
fn stays_small(endpoint: Endpoint, hide: Hide, event_bytes_max: usize, stream: &[u8]) {
    let before = IN_USE.load(Ordering::Relaxed);
    let mut tap = operation(endpoint).tap(hide, event_bytes_max);
    let frame = Bytes::copy_from_slice(stream);
    for _ in 0..REPEATS {
        drop(tap.feed(frame.clone()));
        let held = IN_USE.load(Ordering::Relaxed).saturating_sub(before + stream.len());
        // Buffers grow by doubling; what was learned was in the stream once.
        let learned = 2 * tap.transcript().len() + 4 * stream.len();
        let partial = 2 * (event_bytes_max.min(REPEATS * stream.len()) + stream.len());
        assert!(held <= learned + partial + OVERHEAD_BYTES_MAX, "{held} bytes are held");
    }
}

fuzz_target!(|input: &[u8]| {
    let Some(([endpoint, hide, limit, first, second, third], stream)) = knobs::<6>(input) else { return };
    let endpoint = Endpoint::ALL[endpoint % Endpoint::ALL.len()];
    let hide = [Hide::Nothing, Hide::InjectedUsage][hide % 2];
    let event_bytes_max = EVENT_BYTES_MAX[limit % EVENT_BYTES_MAX.len()];
    let tap = || operation(endpoint).tap(hide, event_bytes_max);
    let whole = run(tap(), stream, || stream.len());
    assert_eq!(run(tap(), stream, || 1), whole, "byte by byte it is the same");
    let mut cuts = [first + 1, second + 1, third + 1].into_iter().cycle();
    let cut = run(tap(), stream, || cuts.next().unwrap_or(1));
    assert_eq!(cut, whole, "cut anywhere it is the same");
    if hide == Hide::Nothing {
        assert_eq!(whole.out, stream, "byte for byte what came");
    } else if event_bytes_max > stream.len() {
        let apart = events(stream);
        assert_eq!(apart.concat(), stream);
        apart.iter().filter(|event| !event.is_empty()).for_each(|event| hides_only_usage(endpoint, event));
    }
    let mut held = tap();
    held.hold_last_usage();
    let pieces = stream.chunks(first + 1).map(|piece| held.feed(Bytes::copy_from_slice(piece)));
    let mut passed = pieces.collect::<Vec<_>>().concat();
    passed.extend_from_slice(&held.finish());
    passed.extend_from_slice(&held.release(None));
    assert_eq!(passed, whole.out, "what waits for a cost that is not known passes as it is");
    assert_eq!(format!("{:?}", held.answer()), format!("{:?}", whole.answer));
    stays_small(endpoint, hide, event_bytes_max, stream);
});
