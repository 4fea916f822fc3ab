//! The body of a request to speak a text.

use serde::Deserialize;

use super::{Invalid, Request, fields, model, string, text};
use crate::domain::demand::Speech;
use crate::domain::{Class, Demand};
use crate::protocol::openai::json::Raw;

/// Everything in such a body that decides its cost.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Body<'a> {
    #[serde(borrow)]
    model: Raw<'a>,
    #[serde(borrow)]
    input: Raw<'a>,
    #[serde(borrow)]
    response_format: Raw<'a>,
    #[serde(borrow)]
    stream_format: Raw<'a>,
}

/// Reads a body.
pub(in crate::protocol::openai) fn read(body: &[u8]) -> Result<Request, Invalid> {
    let text = text(body)?;
    let body: Body<'_> = fields(text)?;
    let input = string(body.input, "input")?.ok_or_else(|| Invalid::field("input", "it must be a string"))?;
    let characters = u64::try_from(input.chars().count()).unwrap_or(u64::MAX);
    let is_plain = string(body.response_format, "response_format")?.as_deref() == Some("pcm");
    Ok(Request::unedited(Demand {
        model: model(body.model, false)?,
        stream: string(body.stream_format, "stream_format")?.as_deref() == Some("sse"),
        body_bytes: u64::try_from(text.len()).unwrap_or(u64::MAX),
        choices: 1,
        audio_output: true,
        speech: Some(Speech { characters, is_plain }),
        units: [(Class::Characters, characters)].into(),
        ..Demand::default()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spoken(body: &str) -> Result<Demand, String> {
        read(body.as_bytes()).map(|request| *request.demand).map_err(|invalid| invalid.message)
    }

    #[test]
    fn a_speech_is_as_long_as_its_characters() {
        let demand = spoken(r#"{"model":"tts-1","input":"Zażółć \u0067ęślą 😀","voice":"alloy"}"#).unwrap();
        assert_eq!((&*demand.model, demand.units[Class::Characters], demand.stream), ("tts-1", 14, false));
        assert_eq!(demand.speech, Some(Speech { characters: 14, is_plain: false }));
        let streamed = spoken(
            r#"{"model":"gpt-4o-mini-tts","input":"","stream_format":"sse","response_format":"pcm","voice":{"id":"v"}}"#,
        );
        let streamed = streamed.unwrap();
        assert!(streamed.stream && streamed.speech.unwrap().is_plain);
    }

    #[test]
    fn a_speech_that_can_be_read_in_two_ways_is_refused() {
        for (body, says) in [
            (r#"{"input":"a"}"#, "model"),
            (r#"{"model":"tts-1"}"#, "input"),
            (r#"{"model":"tts-1","input":["a"]}"#, "input"),
            (r#"{"model":"tts-1","input":"a","input":"b"}"#, "duplicate"),
            (r#"{"model":"tts-1","input":"a","stream_format":1}"#, "stream_format"),
        ] {
            let message = spoken(body).unwrap_err();
            assert!(message.contains(says), "{body}: {message}");
        }
    }
}
