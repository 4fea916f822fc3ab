//! Answers of requests to write a recording down: JSON, or the text itself.

use std::borrow::Cow;

use serde::Deserialize;

use super::figures::{Counted, Figures, Sides};
use super::{Answer, AnswerForm, Outcome, is_error_envelope};
use crate::domain::{Class, Money, Quantities};
use crate::protocol::openai::json::{Loose, Object, Raw};

/// An answer in JSON.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Body<'a> {
    #[serde(borrow)]
    text: Raw<'a>,
    #[serde(borrow)]
    usage: Raw<'a>,
    #[serde(borrow)]
    duration: Raw<'a>,
}

/// A usage that is not of tokens.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Duration<'a> {
    #[serde(borrow)]
    seconds: Raw<'a>,
}

/// Reads a whole answer. One that is neither JSON around a text nor OpenAI's error is the text itself,
/// without usage, whatever its words look like.
pub(super) fn of_text(text: &str) -> Answer {
    let whole = Answer { outcome: Outcome::Completed, has_begun: true, ..Answer::default() };
    let Ok(Object(body)) = serde_json::from_str::<Object<Body<'_>>>(text) else { return whole };
    if body.text.string().is_none() {
        let failed = || Answer { outcome: Outcome::Failed, ..Answer::default() };
        return if is_error_envelope(text.as_bytes()) { failed() } else { whole };
    }
    let counted = body.usage.value().and_then(counted).or_else(|| Some(lasting(seconds(body.duration)?)));
    let Some(Counted { tokens, sides, .. }) = counted else { return whole };
    Answer {
        usage: Some(tokens).filter(|_| sides.are_known()),
        used_so_far: Some(tokens).filter(|_| !sides.are_known()),
        ..whole
    }
}

/// The text that was written, by itself if the answer is JSON.
pub(super) fn written(body: &[u8]) -> Cow<'_, str> {
    let text = std::str::from_utf8(body).ok();
    let read = text.and_then(|text| serde_json::from_str::<Object<Body<'_>>>(text).ok());
    read.and_then(|Object(body)| body.text.string()).unwrap_or_else(|| String::from_utf8_lossy(body))
}

/// A usage, of tokens or of a duration.
pub(super) fn counted(usage: &str) -> Option<Counted> {
    let Loose(Duration { seconds: of }) = serde_json::from_str::<Loose<Duration<'_>>>(usage).ok()?;
    if let Some(seconds) = seconds(of) {
        return Some(lasting(seconds));
    }
    let Loose(figures) = serde_json::from_str::<Loose<Figures>>(usage).ok()?;
    figures.counted(AnswerForm::Transcript)
}

/// The usage of so many seconds.
fn lasting(seconds: u64) -> Counted {
    let tokens = Quantities::from([(Class::AudioSeconds, seconds)]);
    Counted { tokens, sides: Sides { input: true, output: true }, hides_cache_life: false }
}

/// Begun seconds of a duration in decimal text, or in a string of that.
fn seconds(raw: Raw<'_>) -> Option<u64> {
    let string = raw.string();
    let nano = string.as_deref().or_else(|| raw.value())?.parse::<Money>().ok()?.nano();
    u64::try_from(nano).ok().map(|nano| nano.div_ceil(1_000_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_of_tokens_or_of_seconds() {
        let answer = of_text(
            r#"{"text":"To be","usage":{"type":"tokens","input_tokens":14,"input_token_details":{"text_tokens":10,
                "audio_tokens":4},"output_tokens":101,"total_tokens":115}}"#,
        );
        let tokens = [(Class::Input, 10), (Class::AudioInput, 4), (Class::Output, 101)].into();
        assert_eq!((answer.usage, answer.outcome), (Some(tokens), Outcome::Completed));
        for (body, seconds) in [
            (r#"{"text":"","usage":{"type":"duration","seconds":9}}"#, 9),
            (r#"{"text":"","usage":{"type":"duration","seconds":8.01},"duration":20}"#, 9),
            (r#"{"text":"","duration":2.893125}"#, 3),
            (r#"{"text":"","duration":"2.89"}"#, 3),
        ] {
            let heard = Quantities::from([(Class::AudioSeconds, seconds)]);
            assert_eq!(of_text(body).usage, Some(heard), "{body}");
        }
    }

    #[test]
    fn an_answer_without_usage_ends_well_unless_it_is_an_error() {
        for body in
            [r#"{"text":"To be"}"#, "To be", "WEBVTT\n\n00:00.000 --> 00:02.000\nTo be", "", "[1]", "3"]
        {
            let answer = of_text(body);
            assert_eq!((answer.usage, answer.outcome), (None, Outcome::Completed), "{body}");
        }
        let spoken = [
            r#"{"error":"x"}"#,
            r#"{"error":{"message":"no"}}"#,
            r#"{"duration":1}"#,
            r#"{"text":1,"duration":1}"#,
        ];
        let figures = r#"{"usage":{"type":"duration","seconds":1}}"#;
        for body in spoken.into_iter().chain([figures]) {
            let answer = of_text(body);
            assert_eq!((answer.usage, answer.outcome), (None, Outcome::Completed), "a text: {body}");
        }
        for body in [r#"{"text":"","usage":null,"duration":-1}"#, r#"{"text":"","usage":{"seconds":true}}"#] {
            assert_eq!(of_text(body).usage, None, "{body}");
        }
        let failed = of_text(r#"{"error":{"message":"no","type":"server_error"}}"#);
        assert!(failed.failed_at_once());
    }

    #[test]
    fn the_text_is_found_in_the_form_around_it() {
        assert_eq!(written(br#"{"text":"To \"be\"","segments":[{"text":"To"}]}"#), "To \"be\"");
        assert_eq!(written(b"1\n00:00 --> 00:02\nTo be"), "1\n00:00 --> 00:02\nTo be");
        assert_eq!(written(br#"{"text":3}"#), r#"{"text":3}"#);
    }
}
