//! Rates in the headers of answers, as OpenAI writes them.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::throttle::RateLeft;

/// Puts `x-ratelimit-{limit,remaining,reset}-{requests,tokens}` on an answer.
pub fn rate_headers(headers: &mut HeaderMap, left: &RateLeft) {
    let names = if left.of_requests {
        ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"]
    } else {
        ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"]
    };
    let reset = HeaderValue::from_str(&go_duration(left.reset));
    let values = [Ok(HeaderValue::from(left.limit)), Ok(HeaderValue::from(left.remaining)), reset];
    for (name, value) in names.into_iter().zip(values) {
        headers.extend(value.ok().map(|value| (HeaderName::from_static(name), value)));
    }
}

/// A duration as Go prints it and OpenAI sends it: `120ms`, `1.146s`, `6m0s`.
pub(super) fn go_duration(duration: std::time::Duration) -> String {
    let ms = duration.as_millis();
    if ms < 1_000 {
        return format!("{ms}ms");
    }
    let (minutes, rest) = (ms / 60_000, ms % 60_000);
    let seconds = format!("{}.{:03}", rest / 1_000, rest % 1_000);
    let seconds = seconds.trim_end_matches('0').trim_end_matches('.');
    if minutes == 0 { format!("{seconds}s") } else { format!("{minutes}m{seconds}s") }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::go_duration;

    #[test]
    fn durations_read_as_openai_writes_them() {
        for (ms, text) in
            [(120, "120ms"), (1_000, "1s"), (1_146, "1.146s"), (360_000, "6m0s"), (692_334, "11m32.334s")]
        {
            assert_eq!(go_duration(Duration::from_millis(ms)), text);
        }
    }
}
