//! The forms of requests to write a recording down.

use serde::Deserialize;

use super::form::{self, Form, FormRules};
use super::{Invalid, Request, fields, flag, model};
use crate::domain::demand::{Media, Transcript};
use crate::domain::{Class, Demand};
use crate::media::{self, LengthBasis, Recording};
use crate::protocol::openai::json::Raw;

/// The longest sample of a known speaker that OpenAI takes, in milliseconds.
const SAMPLE_MS_MAX: u64 = 10_000;

const FORM: FormRules = FormRules { numbers: &[], flags: &["stream"], files: &["file"] };

/// Everything in such a form, other than the recording, that decides its cost.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Body<'a> {
    #[serde(borrow)]
    model: Raw<'a>,
    #[serde(borrow)]
    stream: Raw<'a>,
    #[serde(borrow)]
    chunking_strategy: Raw<'a>,
    #[serde(borrow)]
    known_speaker_references: Raw<'a>,
    #[serde(borrow)]
    file: Raw<'a>,
}

/// Reads a form.
pub(in crate::protocol::openai) fn read_form(body: &[u8], boundary: &str) -> Result<Request, Invalid> {
    let Form { json, files } = form::read(&FORM, body, boundary)?;
    let fields: Body<'_> = fields(&json)?;
    let [(_, file)] = files.as_slice() else {
        return Err(Invalid::field("file", "send exactly one file, with a name"));
    };
    if fields.file.value().is_some() {
        return Err(Invalid::field("file", "it must be a file, with a name"));
    }
    let Some(Recording { millis, basis }) = media::recording(file) else {
        let message = "The length of this recording can't be determined: its format or its codec is not known, or it \
                       plays a part of itself more than once. Send it as WAV, FLAC or MP3.";
        return Err(Invalid::not_allowed("file", message.to_owned()));
    };
    let samples = fields.known_speaker_references.value().unwrap_or_default();
    let audio_ms = millis.saturating_add(count_of(samples).saturating_mul(SAMPLE_MS_MAX));
    let demand = Demand {
        model: model(fields.model, false)?,
        stream: flag(fields.stream, "stream")?,
        // The samples are sound, as data URLs.
        body_bytes: u64::try_from(json.len() - samples.len()).unwrap_or(u64::MAX),
        media: Media { audio_ms, ..Media::default() },
        choices: 1,
        transcript: Some(Transcript {
            is_measured: basis == LengthBasis::Measured,
            in_chunks: fields.chunking_strategy.value().is_some(),
        }),
        units: [(Class::AudioSeconds, millis.div_ceil(1_000))].into(),
        ..Demand::default()
    };
    Ok(Request::unedited(demand))
}

/// How many samples there are: the elements of a list, or one.
fn count_of(samples: &str) -> u64 {
    let list = serde_json::from_str::<Vec<Raw<'_>>>(samples).map(|list| list.len());
    let count = list.unwrap_or(usize::from(!samples.is_empty()));
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAC: &[u8] = include_bytes!("../../../../tests/fixtures/audio/flac.ogg");

    /// A form of these parts, and of files whose names begin with `@`.
    fn heard(parts: &[(&str, &[u8])]) -> Result<Demand, String> {
        let mut body = Vec::new();
        for (name, data) in parts {
            let file = name.strip_prefix('@');
            let name = file.unwrap_or(name);
            let file = if file.is_some() { "; filename=\"x.ogg\"" } else { "" };
            let head = format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n");
            body.extend_from_slice(head.as_bytes());
            body.extend_from_slice(data);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"--b--\r\n");
        read_form(&body, "b").map(|request| *request.demand).map_err(|invalid| invalid.message)
    }

    #[test]
    fn a_recording_is_as_long_as_it_sounds() {
        let model = ("model", &b"whisper-1"[..]);
        let demand = heard(&[model, ("@file", FLAC), ("stream", b"true"), ("prompt", b"To be")]).unwrap();
        // 46,290 samples of 16 kHz, as ffmpeg reads it.
        assert_eq!((demand.units[Class::AudioSeconds], demand.media.audio_ms), (3, 2_894));
        assert_eq!(demand.transcript, Some(Transcript { is_measured: true, in_chunks: false }));
        assert_eq!(demand.body_bytes, 52, "the fields alone are text");
        assert!(demand.stream && &*demand.model == "whisper-1");
    }

    #[test]
    fn chunks_and_samples_of_speakers_are_seen() {
        let sample = [b"data:audio/wav;base64,", "A".repeat(50_000).as_bytes()].concat();
        let parts = [
            ("model", &b"gpt-4o-transcribe-diarize"[..]),
            ("@file", FLAC),
            ("chunking_strategy[type]", b"server_vad"),
            ("known_speaker_references[]", &sample),
            ("known_speaker_references[]", &sample),
        ];
        let demand = heard(&parts).unwrap();
        assert_eq!((demand.media.audio_ms, demand.units[Class::AudioSeconds]), (22_894, 3));
        assert!(demand.body_bytes < 200 && demand.transcript.unwrap().in_chunks);
    }

    #[test]
    fn a_form_without_one_clear_recording_is_refused() {
        let (model, file) = (("model", &b"whisper-1"[..]), ("@file", FLAC));
        for (parts, says) in [
            (&[model][..], "exactly one file"),
            (&[model, file, file], "exactly one file"),
            (&[model, ("file", b"x")], "exactly one file"),
            (&[model, file, ("file", b"x")], "with a name"),
            (&[file], "model"),
            (&[model, ("@recording", FLAC)], "not taken as a file"),
            (&[model, ("@model", b"gpt-4o-transcribe"), file], "not taken as a file"),
            (&[model, file, ("stream", b"True")], "stream"),
            (&[model, ("@file", b"\xff\xf1\x50\x80 and no container")], "can't be determined"),
            (&[model, ("@file", b"")], "can't be determined"),
        ] {
            let message = heard(parts).unwrap_err();
            assert!(message.contains(says), "{message}");
        }
    }
}
