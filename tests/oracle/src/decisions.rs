//! Decisions: requests of all kinds, and what OpenAI charges for them.
//!
//! Input costs what it costs at the standard tier, output nothing (pricing page, `gpt-6-luna`).
//! The usage has the form of a response's. What a request has beside its text are images, in
//! the input and in the instructions of its questions.

use serde_json::{Value, json};

use crate::base64;
use crate::chance::Chance;
use crate::image;
use crate::media::Picture;
use crate::prices::{Model, Place, Tier, find};

/// The only model.
const MODEL: &str = "gpt-6-luna";

/// A request for decisions.
#[derive(Debug)]
pub struct Asking {
    body: Value,
    /// Tokens of the images that are in the body.
    pub images: u64,
    /// Images behind URLs, of which nothing bounds the size.
    pub remote: u64,
    model: &'static Model,
}

/// What upstream used.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the names are those of the classes of tokens")]
pub struct Used {
    pub input: u64,
    pub cached: u64,
    pub written: u64,
    pub output: u64,
}

impl Asking {
    /// Draws a request.
    pub fn draw(chance: &mut Chance) -> Self {
        let model = find(MODEL).expect("a model of the catalogue");
        let (mut images, mut remote) = (0, 0);
        let text = |chance: &mut Chance| "Is it ünïque? ".repeat(chance.index(40) + 1);
        let mut part = |chance: &mut Chance| match chance.within(0, 4) {
            0 if chance.percent(20) => {
                remote += 1;
                json!({ "type": "input_image", "image_url": "https://a.example/x.png", "detail": "high" })
            }
            1 => {
                let (width, height) = (chance.within(1, 3_000), chance.within(1, 3_000));
                images += image::tokens(model, (width, height), "auto");
                let side = |side: u64| u32::try_from(side).expect("a small image");
                let file = Picture::Png.file(side(width), side(height), &[7; 40]);
                let url = format!("data:image/png;base64,{}", base64::encode(&file));
                json!({ "type": "input_image", "image_url": url })
            }
            2 => json!({ "type": "input_json", "data": { "type": "input_image", "a": [1, null, "é"] } }),
            _ => json!({ "type": "input_text", "text": text(chance) }),
        };
        let mut parts = |chance: &mut Chance| -> Value {
            if chance.percent(30) {
                return json!(text(chance));
            }
            (0..chance.within(1, 3)).map(|_| part(chance)).collect()
        };
        let input = if chance.percent(30) {
            json!(text(chance))
        } else {
            let call = json!({ "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}" });
            let output = json!({ "type": "function_call_output", "call_id": "c", "output": parts(chance) });
            json!([{ "role": "user", "content": parts(chance) }, call, output])
        };
        let questions: Value = (0..chance.within(1, 5))
            .map(|_| {
                let mut question = json!({ "type": "predicate", "instructions": parts(chance) });
                match chance.within(0, 2) {
                    0 => {
                        question["type"] = json!("choice");
                        question["choices"] =
                            json!([{ "value": true }, { "value": "no", "description": "not" }]);
                    }
                    1 => {
                        question["type"] = json!("score");
                        question["levels"] = json!([{ "label": "low" }, { "label": "high" }]);
                    }
                    _ => {}
                }
                question
            })
            .collect();
        let body =
            json!({ "model": MODEL, "input": input, "questions": questions, "safety_identifier": "u" });
        Self { body, images, remote, model }
    }

    /// The body.
    pub fn body(&self) -> String {
        self.body.to_string()
    }

    /// Tokens that it may have at the most: a token for each byte beside those of images, and
    /// no more than the window has.
    pub fn tokens_max(&self) -> u64 {
        let bytes = u64::try_from(self.body().len()).expect("a small body");
        let window = self.model.input_max.expect("a window");
        if self.remote > 0 { window } else { window.min(self.images + bytes) }
    }

    /// What upstream used of it.
    pub fn used(&self, chance: &mut Chance, tokens_max: u64) -> Used {
        let input = chance.within(1, tokens_max);
        let cached = chance.within(0, input);
        let written = chance.within(0, input - cached);
        Used { input, cached, written, output: chance.within(0, 500) }
    }

    /// Its answer.
    pub fn answer(&self, used: &Used) -> Value {
        json!({
            "answers": [{ "type": "predicate", "name": null, "probability": 0.5 }, { "type": "refusal", "name": null }],
            "model": MODEL,
            "usage": {
                "input_tokens": used.input,
                "input_tokens_details": { "cached_tokens": used.cached, "cache_write_tokens": used.written },
                "output_tokens": used.output,
                "output_tokens_details": { "reasoning_tokens": 0 },
                "total_tokens": used.input + used.output,
            },
        })
    }

    /// What OpenAI charges for that, in picodollars.
    pub fn charge_pico(&self, used: &Used, place: Place<'_>) -> u128 {
        let is_long = self.model.long_above.is_some_and(|above| used.input > above);
        let rates = self.model.rates(Tier::Standard, is_long, place);
        let plain = used.input - used.cached - used.written;
        u128::from(plain) * rates.input
            + u128::from(used.cached) * rates.cached
            + u128::from(used.written) * rates.write
    }

    /// What that many tokens can cost at the most, in picodollars.
    pub fn maximum_pico(&self, tokens: u64, place: Place<'_>) -> u128 {
        self.charge_pico(&Used { input: tokens, cached: 0, written: tokens, output: 0 }, place)
    }
}
