//! The trace of a request, as it stands in the header `traceparent`.
//!
//! The form and the rules are those of <https://www.w3.org/TR/trace-context/>: a client's header
//! that can't be read is as good as none, and takes `tracestate` with it.

use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, HeaderName, HeaderValue};

/// The header with the ids of trace and parent.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The header with what tracing systems add to it.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The flag of a trace that is recorded.
const SAMPLED: u8 = 0b01;
/// The flag of a trace whose id is random; it is passed on.
const RANDOM: u8 = 0b10;
/// The length of version 00; later versions may go on after a dash.
const LENGTH: usize = 55;
const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";
/// The step of `SplitMix64`: 2^64 divided by the golden ratio.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// The place of a request in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// Id of the trace; not zero.
    pub trace: u128,
    /// Id of the guard's span; not zero.
    pub span: u64,
    /// Id of the client's span, if the client began the trace.
    pub parent: Option<u64>,
    /// The flags that upstream gets.
    flags: u8,
}

/// The span of a client that a request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    trace: u128,
    span: u64,
    flags: u8,
}

/// Makes ids that differ between runs: a random start, then a count, mixed so that each bit is
/// as good as random.
#[derive(Debug)]
pub struct Ids {
    next: AtomicU64,
    starts: [u64; 3],
}

impl Ids {
    /// Ids from a random start.
    pub fn new() -> Result<Self, getrandom::Error> {
        let starts = [getrandom::u64()?, getrandom::u64()?, getrandom::u64()?];
        Ok(Self { next: AtomicU64::new(0), starts })
    }

    /// The ids of a new trace and of a span.
    fn next(&self) -> (u128, u64) {
        let steps = self.next.fetch_add(1, Ordering::Relaxed).wrapping_mul(STEP);
        let [high, low, span] = self.starts.map(|start| mixed(start.wrapping_add(steps)));
        ((u128::from(high) << 64) | u128::from(low.max(1)), span.max(1))
    }
}

/// The output function of `SplitMix64`.
fn mixed(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

impl Parent {
    /// Reads a client's header; `None` if there is none, more than one, or none in that form.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let value = values.next()?;
        if values.next().is_some() {
            return None;
        }
        Self::parse(value.as_bytes())
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let is_dashed = [2, 35, 52].iter().all(|at| bytes.get(*at) == Some(&b'-'));
        let version = hex(bytes.get(..2)?)?;
        let ends = bytes.len() == LENGTH || (version > 0 && bytes.get(LENGTH) == Some(&b'-'));
        if !is_dashed || !ends || version == 0xFF {
            return None;
        }
        let (high, low) = (hex(bytes.get(3..19)?)?, hex(bytes.get(19..35)?)?);
        let trace = Some((u128::from(high) << 64) | u128::from(low)).filter(|id| *id != 0)?;
        let span = hex(bytes.get(36..52)?).filter(|id| *id != 0)?;
        let flags = hex(bytes.get(53..LENGTH)?)?;
        Some(Self { trace, span, flags: u8::try_from(flags).ok()? })
    }
}

/// The number of up to 16 lower-case hexadecimal digits.
fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |number: u64, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some((number << 4) | u64::from(value))
    })
}

/// Writes bytes as lower-case hexadecimal digits, from a place on.
pub(crate) fn write_hex(text: &mut [u8], at: usize, bytes: &[u8]) {
    let digit = |value: u8| HEX_DIGITS[usize::from(value & 0xF)];
    for (pair, byte) in text[at..].chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[digit(byte >> 4), digit(*byte)]);
    }
}

impl TraceContext {
    /// A span below a client's, recorded if the client records its own.
    pub(super) fn below(parent: Parent, ids: &Ids) -> Self {
        let Parent { trace, span: above, flags } = parent;
        let (_, span) = ids.next();
        Self { trace, span, parent: Some(above), flags: flags & (SAMPLED | RANDOM) }
    }

    /// The first span of a trace; `is_sampled` decides by the last 56 bits of its id.
    pub(super) fn root(ids: &Ids, is_sampled: impl FnOnce(u64) -> bool) -> Self {
        let (trace, span) = ids.next();
        let last = u64::try_from(trace & u128::from(u64::MAX >> 8)).unwrap_or(0);
        let flags = if is_sampled(last) { SAMPLED } else { 0 };
        Self { trace, span, parent: None, flags }
    }

    /// Whether the request's span is recorded.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The flags, as a span has them.
    pub(super) fn flags(&self) -> u8 {
        self.flags
    }

    /// Makes the guard's span the parent of what upstream records.
    pub(super) fn put_on(&self, headers: &mut HeaderMap) {
        let Self { trace, span, flags, .. } = self;
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&mut text, 3, &trace.to_be_bytes());
        write_hex(&mut text, 36, &span.to_be_bytes());
        write_hex(&mut text, 53, &[*flags]);
        let value = HeaderValue::from_bytes(&text).expect("digits and dashes fit a header");
        headers.insert(TRACEPARENT, value);
        if self.parent.is_none() {
            headers.remove(TRACESTATE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn read(values: &[&str]) -> Option<Parent> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(TRACEPARENT, HeaderValue::from_str(value).unwrap());
        }
        Parent::of(&headers)
    }

    /// The examples of the recommendation, and its rules on what is invalid.
    #[test]
    fn a_traceparent_is_read_as_w3c_has_it() {
        let valid = format!("00-{TRACE}-b7ad6b7169203331-01");
        let parent = Parent {
            trace: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
            span: 0xb7ad_6b71_6920_3331,
            flags: 1,
        };
        assert_eq!(read(&[&valid]), Some(parent));
        assert_eq!(read(&[&valid.replacen("00", "01", 1)]), Some(parent), "a later version");
        assert_eq!(read(&[&format!("cc-{}-what", &valid[3..])]), Some(parent), "which may be longer");
        for wrong in [
            String::new(),
            valid[..54].to_owned(),
            format!("{valid}-x"),
            format!("cc-{}.", &valid[3..]),
            valid.replacen("00", "ff", 1),
            valid.to_uppercase(),
            valid.replace(TRACE, &"0".repeat(32)),
            valid.replace("b7ad6b7169203331", &"0".repeat(16)),
            valid.replace('-', "_"),
            valid.replace("-01", "-0g"),
        ] {
            assert_eq!(read(&[&wrong]), None, "{wrong}");
        }
        assert_eq!(read(&[&valid, &valid]), None);
        assert_eq!(read(&[]), None);
    }

    #[test]
    fn upstream_gets_the_clients_trace_and_the_guards_span() {
        let ids = Ids::new().unwrap();
        for (flags, passed) in [("00", "00"), ("01", "01"), ("03", "03"), ("ff", "03")] {
            let sent = format!("00-{TRACE}-b7ad6b7169203331-{flags}");
            let context = TraceContext::below(read(&[&sent]).unwrap(), &ids);
            let mut headers = HeaderMap::from_iter([(TRACESTATE, HeaderValue::from_static("vendor=1"))]);
            headers.insert(TRACEPARENT, HeaderValue::from_str(&sent).unwrap());
            context.put_on(&mut headers);
            assert_eq!(headers.get_all(TRACEPARENT).iter().count(), 1);
            let span = context.span;
            assert_eq!(headers[TRACEPARENT], format!("00-{TRACE}-{span:016x}-{passed}"));
            assert_eq!(headers[TRACESTATE], "vendor=1");
            assert_eq!((context.is_sampled(), context.parent), (flags != "00", Some(0xb7ad_6b71_6920_3331)));
        }
    }

    #[test]
    fn a_trace_of_the_guards_own_has_no_state_of_another_and_ids_that_differ() {
        let ids = Ids::new().unwrap();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..10_000 {
            let context = TraceContext::root(&ids, |_| true);
            assert!(context.trace != 0 && context.span != 0);
            assert!(seen.insert(context.trace) && seen.insert(u128::from(context.span)));
        }
        let mut headers = HeaderMap::from_iter([(TRACESTATE, HeaderValue::from_static("vendor=1"))]);
        TraceContext::root(&ids, |_| false).put_on(&mut headers);
        assert!(!headers.contains_key(TRACESTATE));
        assert!(headers[TRACEPARENT].to_str().unwrap().ends_with("-00"));
        assert!(Parent::of(&headers).is_some(), "it is in the form that clients send");
    }
}
