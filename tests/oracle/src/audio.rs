//! Audio requests, what upstream makes of them, and what OpenAI charges for that.
//!
//! Prices are those of OpenAI's page, as of 2026-11-21. A second of a recording is ten tokens;
//! a minute of speech is 1,250, as its price of a minute and of a token say.

use serde_json::{Value, json};

use crate::chance::Chance;

const BOUNDARY: &str = "0aFb7";

/// What a model that writes recordings down is billed by, in picodollars.
#[derive(Clone, Copy, Debug)]
enum Price {
    /// A second: 0.006 and 0.0045 dollars a minute.
    Second(u128),
    /// A token that is read, and one that is written.
    Tokens(u128, u128),
}

const LISTENERS: [(&str, Price); 5] = [
    ("whisper-1", Price::Second(100_000_000)),
    ("gpt-transcribe", Price::Second(75_000_000)),
    ("gpt-4o-transcribe", Price::Tokens(2_500_000, 10_000_000)),
    ("gpt-4o-mini-transcribe", Price::Tokens(1_250_000, 5_000_000)),
    ("gpt-4o-transcribe-diarize", Price::Tokens(2_500_000, 10_000_000)),
];
/// The most tokens of one block, and of a second of fast English: 4 words, 6 tokens.
const BLOCK_TOKENS_MAX: u64 = 2_000;
const SECOND_TOKENS_MAX: u64 = 6;
/// Speech by tokens: 0.6 dollars a million of text, 12 of sound.
const TEXT_PICO: u128 = 600_000;
const SOUND_PICO: u128 = 12_000_000;
/// The longest that a character is spoken, in milliseconds: 150 of Chinese a minute.
const CHARACTER_MS_MAX: u64 = 400;

/// A recording that is to be written down.
#[derive(Clone, Debug)]
pub struct Listening {
    model: &'static str,
    price: Price,
    /// Its length in tenths of a second.
    tenths: u64,
    prompt: String,
    in_chunks: bool,
    stream: bool,
}

/// Tokens of text and of sound that are read, and those that are written.
pub type Tokens = [u64; 3];

impl Listening {
    /// Draws a request.
    pub fn draw(chance: &mut Chance) -> Self {
        let (model, price) = chance.one(&LISTENERS);
        Self {
            model,
            price,
            tenths: chance.magnitude(1_500) + 1,
            prompt: "be ünïque, ".repeat(chance.index(20)),
            in_chunks: chance.percent(40),
            stream: matches!(price, Price::Tokens(..)) && chance.percent(40),
        }
    }

    /// Its content type and its body: a WAV of 8 bits and 8 kHz.
    pub fn body(&self) -> (String, Vec<u8>) {
        let head = b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x40\x1f\0\0\x01\0\x08\0data\xff\xff\xff\x7f";
        let samples = vec![0x80; usize::try_from(self.tenths * 800).expect("short")];
        let mut body = Vec::new();
        let mut part = |name: &str, data: &[u8]| {
            let head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n");
            let head =
                if name == "file" { head.replace("\"file\"", "\"file\"; filename=\"a.wav\"") } else { head };
            body.extend_from_slice(head.as_bytes());
            body.extend_from_slice(data);
            body.extend_from_slice(b"\r\n");
        };
        part("model", self.model.as_bytes());
        part("prompt", self.prompt.as_bytes());
        part("file", &[&head[..], &samples].concat());
        if self.in_chunks {
            part("chunking_strategy", b"auto");
        }
        if self.stream {
            part("stream", b"true");
        }
        body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
        (format!("multipart/form-data; boundary={BOUNDARY}"), body)
    }

    fn written_max(&self) -> u64 {
        let said = self.tenths.div_ceil(10) * SECOND_TOKENS_MAX;
        if self.in_chunks { said.max(BLOCK_TOKENS_MAX) } else { BLOCK_TOKENS_MAX }
    }

    /// The most that it can use: the prompt is read once for each chunk of 30 seconds.
    fn most(&self) -> Tokens {
        let chunks = if self.in_chunks { self.tenths.div_ceil(300) } else { 1 };
        [u64::try_from(self.prompt.len()).expect("short") * chunks, self.tenths, self.written_max()]
    }

    /// Draws what upstream uses.
    pub fn used(&self, chance: &mut Chance) -> Tokens {
        self.most().map(|most| chance.within(0, most))
    }

    /// The most that it can cost, in picodollars.
    pub fn maximum_pico(&self) -> u128 {
        self.charge_pico(self.most())
    }

    /// What OpenAI charges for it, in picodollars.
    pub fn charge_pico(&self, [text, sound, written]: Tokens) -> u128 {
        match self.price {
            Price::Second(second) => u128::from(self.tenths.div_ceil(10)) * second,
            Price::Tokens(read, of_output) => {
                u128::from(text + sound) * read + u128::from(written) * of_output
            }
        }
    }

    /// The answer: its content type, and its bytes.
    pub fn answer(&self, [text, sound, written]: Tokens) -> (&'static str, String) {
        let usage = match self.price {
            Price::Second(_) => json!({ "type": "duration", "seconds": self.tenths.div_ceil(10) }),
            Price::Tokens(..) => json!({
                "type": "tokens", "input_tokens": text + sound, "output_tokens": written,
                "input_token_details": { "text_tokens": text, "audio_tokens": sound },
                "total_tokens": text + sound + written,
            }),
        };
        let whole = json!({ "text": "To be", "usage": usage });
        if !self.stream {
            return ("application/json", whole.to_string());
        }
        let event = |kind: &str, mut event: Value| {
            event["type"] = kind.into();
            format!("event: {kind}\ndata: {event}\n\n")
        };
        let deltas = event("transcript.text.delta", json!({ "delta": "To " })).repeat(3);
        ("text/event-stream", deltas + &event("transcript.text.done", whole))
    }
}

/// A text that is to be spoken, as events.
#[derive(Clone, Debug)]
pub struct Speaking {
    input: String,
}

impl Speaking {
    /// Draws a request.
    pub fn draw(chance: &mut Chance) -> Self {
        let part = chance.one(&["To be, or not to be. ", "生存还是毁灭，", "1 2 3 ", "🙂"]);
        Self { input: part.repeat(chance.index(40) + 1) }
    }

    /// Its body.
    pub fn body(&self) -> String {
        json!({ "model": "gpt-4o-mini-tts", "voice": "alloy", "input": self.input, "stream_format": "sse" })
            .to_string()
    }

    fn most(&self) -> [u64; 2] {
        let characters = u64::try_from(self.input.chars().count()).expect("short");
        let text = u64::try_from(self.input.len()).expect("short");
        [text, (characters * CHARACTER_MS_MAX * 1_250).div_ceil(60_000)]
    }

    /// Draws what upstream uses: tokens of text, and of sound.
    pub fn used(&self, chance: &mut Chance) -> [u64; 2] {
        self.most().map(|most| chance.within(0, most))
    }

    /// The most that it can cost, in picodollars.
    pub fn maximum_pico(&self) -> u128 {
        Self::charge_pico(self.most())
    }

    /// What OpenAI charges for it, in picodollars.
    pub fn charge_pico([text, sound]: [u64; 2]) -> u128 {
        u128::from(text) * TEXT_PICO + u128::from(sound) * SOUND_PICO
    }

    /// The events of the answer.
    pub fn answer([text, sound]: [u64; 2]) -> String {
        let usage = json!({ "input_tokens": text, "output_tokens": sound, "total_tokens": text + sound });
        let done = json!({ "type": "speech.audio.done", "usage": usage });
        let delta = json!({ "type": "speech.audio.delta", "audio": "UklG".repeat(500) });
        format!("event: speech.audio.delta\ndata: {delta}\n\nevent: speech.audio.done\ndata: {done}\n\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recording_is_charged_as_the_price_list_says() {
        let of = |model, price| Listening {
            model,
            price,
            tenths: 605,
            prompt: "To be".to_owned(),
            in_chunks: false,
            stream: false,
        };
        let [(whisper, by_second), _, (gpt, by_token), ..] = LISTENERS;
        // 61 seconds at 0.006 dollars a minute.
        assert_eq!(of(whisper, by_second).charge_pico([0; 3]), 6_100_000_000);
        // 610 at 2.5 dollars a million, and 2,000 at 10.
        assert_eq!(of(gpt, by_token).maximum_pico(), 1_525_000_000 + 20_000_000_000);
        assert_eq!(Speaking::charge_pico([10, 1_250]), 6_000_000 + 15_000_000_000);
    }
}
