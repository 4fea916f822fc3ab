//! The most tokens of what a model speaks, or writes down of a recording.

use crate::domain::Demand;
use crate::domain::demand::{Speech, Transcript};
use crate::pricing::sheet::Price;

/// Audio is 10 tokens a second, so a token lasts 100 milliseconds.
pub const AUDIO_MS_PER_TOKEN: u64 = 100;
/// Tokens of a minute of sound that a model speaks: OpenAI's price of a minute, 0.015 dollars,
/// by its price of a million tokens of sound, 12 dollars (gpt-4o-mini-tts).
const SPOKEN_TOKENS_PER_MINUTE: u64 = 1_250;
/// The time that a character takes at the slowest, and a pause around the whole. Read slowly,
/// Chinese has 150 characters a minute, and languages with an alphabet four times as many.
/// A speech that takes longer is cut.
const CHARACTER_MS_MAX: u64 = 500;
const PAUSE_MS_MAX: u64 = 10_000;
/// Tokens of the text of a second of speech. The fastest languages have 8 syllables a second
/// (Pellegrino et al., Language 87, 2011), and a syllable is at most four tokens where a
/// vocabulary has hardly a token longer than a letter.
const WRITTEN_TOKENS_PER_SECOND: u64 = 32;
/// The shortest that chunks of a recording are taken to be, in milliseconds: OpenAI cuts
/// recordings of more than 30 seconds.
const CHUNK_MS_MIN: u64 = 30_000;

/// Tokens of the request's audio whose length is known.
pub fn audio_tokens(demand: &Demand) -> u64 {
    demand.media.audio_ms.div_ceil(AUDIO_MS_PER_TOKEN)
}

/// Tokens of spoken sound of a length, rounded up.
pub fn speech_tokens(millis: u64) -> u64 {
    millis.saturating_mul(SPOKEN_TOKENS_PER_MINUTE).div_ceil(60_000)
}

/// The most tokens of a text that is spoken.
pub(super) fn spoken_tokens(speech: Speech) -> u64 {
    speech_tokens(speech.characters.saturating_mul(CHARACTER_MS_MAX).saturating_add(PAUSE_MS_MAX))
}

/// The most tokens of a recording's text. A single block has the model's maximum; of chunks
/// each may have it, and all of them no more than can be said.
pub(super) fn written_tokens(price: &Price, demand: &Demand, transcript: Transcript) -> u64 {
    let seconds = demand.media.audio_ms.div_ceil(1_000);
    let said = seconds.saturating_mul(WRITTEN_TOKENS_PER_SECOND);
    match price.max_output_tokens {
        Some(most) if transcript.in_chunks => said.max(most),
        Some(most) => most,
        None => said,
    }
}

/// How often the text of a request is read: once for each chunk of its recording.
pub(super) fn chunks(demand: &Demand) -> u64 {
    match demand.transcript {
        Some(Transcript { in_chunks: true, .. }) => demand.media.audio_ms.div_ceil(CHUNK_MS_MIN).max(1),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::demand::Media;
    use crate::pricing::bound::{BoundInputs, ToolsBound, bound};
    use crate::pricing::sheet::Sheet;

    fn held(model: &str, demand: &Demand) -> (String, u64, u64) {
        let price = Sheet::built_in(&[]).unwrap().find(model, 1_795_000_000).unwrap();
        let inputs = BoundInputs {
            is_writable: true,
            text_tokens: None,
            prompt_tokens: None,
            document_tokens: None,
            context_tokens: Some(0),
            context_pictures: Some(0),
            output_max: None,
            tool_calls: 0,
            tool_context_max: 0,
            tools_bound: ToolsBound::Practical,
            project_tier: crate::domain::demand::Tier::Standard,
        };
        let bound = bound(&price, None, demand, inputs);
        (bound.cost.to_string(), bound.input_tokens, bound.output_tokens)
    }

    fn recording(seconds: u64, in_chunks: bool) -> Demand {
        Demand {
            body_bytes: 100,
            choices: 1,
            media: Media { audio_ms: seconds * 1_000, ..Media::default() },
            transcript: Some(Transcript { is_measured: true, in_chunks }),
            units: [(crate::domain::Class::AudioSeconds, seconds)].into(),
            ..Demand::default()
        }
    }

    #[test]
    fn a_block_holds_the_models_maximum_and_chunks_hold_what_can_be_said() {
        // Ten minutes: 6,000 tokens of sound. 0.006 dollars a minute of whisper-1.
        assert_eq!(held("whisper-1", &recording(600, false)), ("0.06".to_owned(), 0, 0));
        let of = |seconds, in_chunks| held("gpt-4o-transcribe", &recording(seconds, in_chunks));
        assert_eq!(of(600, false), ("0.03525".to_owned(), 6_100, 2_000));
        assert_eq!(of(600, true), ("0.212".to_owned(), 8_000, 19_200));
        assert_eq!(of(7_200, false).1, 16_000, "OpenAI takes no longer block");
        assert_eq!(of(7_200, true).1, 72_000 + 240 * 100);
        assert_eq!(of(30, true), ("0.021".to_owned(), 400, 2_000));
    }

    #[test]
    fn a_speech_holds_half_a_second_for_each_character() {
        let speech = |characters| Demand {
            body_bytes: 200,
            choices: 1,
            audio_output: true,
            speech: Some(Speech { characters, is_plain: false }),
            units: [(crate::domain::Class::Characters, characters)].into(),
            ..Demand::default()
        };
        assert_eq!(held("tts-1", &speech(1_000)), ("0.015".to_owned(), 0, 0));
        // 510 seconds of sound, at 1,250 tokens a minute and 12 dollars a million.
        assert_eq!(held("gpt-4o-mini-tts", &speech(1_000)), ("0.12762".to_owned(), 200, 10_625));
        assert_eq!(speech_tokens(60_000), 1_250);
        assert_eq!(speech_tokens(1), 1);
    }
}
