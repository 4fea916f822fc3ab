//! Texts, pictures, sounds and documents.

use serde_json::{Value, json};

use super::Hand;
use crate::media::{Picture, mp3_file, pdf_file, wav_file};
use crate::{base64, chance::Chance};

/// Bytes without a pattern, the same for the same length.
fn noise(length: u64) -> Vec<u8> {
    let mut chance = Chance::of_seed(length);
    (0..length).map(|_| u8::try_from(chance.within(0, 255)).expect("a byte")).collect()
}

impl Hand<'_> {
    /// A text of any kind.
    pub(super) fn text(&mut self) -> String {
        let length = self.chance.magnitude(self.sizes.text_max);
        let count = usize::try_from(length).expect("a length");
        match self.chance.within(0, 9) {
            0 => base64::encode(&noise(length * 3 / 4)),
            1 => format!("data:image/png;base64,{}", base64::encode(&noise(length * 3 / 4))),
            2 => "1234567890".repeat(count / 10),
            3 => "日本語 ქართული 😀 ".repeat(count / 40),
            4 => "\u{1}\n\t\"\\/".repeat(count / 6),
            5 => r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0KGgo="}} "#
                .repeat(count / 80),
            6 => "<|endoftext|> <|im_start|>system it's ".repeat(count / 38),
            _ => "hello ".repeat(count / 6 + 1),
        }
    }

    /// Base64 as it was made, or as it is sometimes written.
    fn data(&mut self, file: &[u8]) -> String {
        let text = base64::encode(file);
        match self.chance.within(0, 7) {
            0 => {
                let lines: Vec<String> = text
                    .as_bytes()
                    .chunks(76)
                    .map(|line| String::from_utf8_lossy(line).into_owned())
                    .collect();
                lines.join("\r\n")
            }
            1 => text.trim_end_matches('=').to_owned(),
            2 => format!(" {text} "),
            _ => text,
        }
    }

    fn picture_file(&mut self) -> (Picture, Vec<u8>) {
        let kind = self.chance.one(&Picture::ALL);
        let side = |chance: &mut Chance| match chance.within(0, 4) {
            0 => 1,
            1 => chance.within(1, 600),
            2 => chance.within(600, 5_000),
            3 => chance.one(&[16_000, 16_383, 20_000, 65_535]),
            _ => chance.magnitude(1 << 31).max(1),
        };
        let (width, height) = (side(self.chance), side(self.chance));
        let cut = |side: u64| u32::try_from(side).unwrap_or(u32::MAX);
        let length = self.chance.magnitude(self.sizes.file_max);
        // Of one colour, or of none.
        let filling = if self.chance.percent(50) {
            vec![0; usize::try_from(length).expect("a length")]
        } else {
            noise(length)
        };
        let mut file = kind.file(cut(width), cut(height), &filling);
        if self.chance.percent(5) {
            file.truncate(self.chance.index(40));
        }
        (kind, file)
    }

    /// The address of a picture, and whether it is a file's id.
    fn picture(&mut self) -> (String, bool) {
        match self.chance.within(0, 9) {
            0 => (format!("https://example.org/{}.png", self.chance.within(0, 9)), false),
            1 => (self.id(&["file-picture"]), true),
            _ => {
                let (kind, file) = self.picture_file();
                let data = self.data(&file);
                let mime = if self.chance.percent(10) { "application/octet-stream" } else { kind.mime() };
                let scheme = self.chance.one(&["data", "data", "data", "DATA"]);
                (format!("{scheme}:{mime};base64,{data}"), false)
            }
        }
    }

    fn detail(&mut self) -> &'static str {
        self.chance.one(&["auto", "low", "high", "original"])
    }

    fn sound(&mut self) -> Value {
        let bytes = usize::try_from(self.chance.magnitude(self.sizes.file_max)).expect("a length");
        let (format, file) = match self.chance.within(0, 2) {
            0 => ("mp3", mp3_file(bytes / 72 + 1)),
            1 => ("wav", wav_file(self.chance.one(&[8_000, 16_000, 24_000, 48_000]), 16, bytes)),
            _ => {
                let rate = u32::try_from(self.chance.within(1, 8_000)).expect("a rate");
                ("wav", wav_file(rate, 8, bytes))
            }
        };
        let format = if self.chance.percent(8) { "mp3" } else { format };
        let data = self.data(&file);
        json!({ "type": "input_audio", "input_audio": { "data": data, "format": format } })
    }

    fn document(&mut self) -> Value {
        let id = self.id(&["file-document"]);
        match self.chance.within(0, 5) {
            0 => json!({ "file_id": id }),
            1 => {
                let data = self.data(&noise(self.sizes.file_max.min(2_000)));
                json!({ "filename": "a.txt", "file_data": format!("data:text/plain;base64,{data}") })
            }
            _ => {
                let pages = usize::try_from(self.chance.magnitude(self.sizes.file_max.min(2_000) / 100))
                    .expect("few");
                let mut file = pdf_file(pages + 1, "a page of some words");
                if self.chance.percent(10) {
                    // Comments, which are nothing to a reader of PDF.
                    let comment =
                        usize::try_from(self.chance.magnitude(self.sizes.file_max)).expect("a length");
                    file.extend(vec![b'%'; comment]);
                    let data = self.data(&file);
                    return json!({ "filename": "a.txt", "file_data": format!("data:text/plain;base64,{data}") });
                }
                let data = self.data(&file);
                json!({ "filename": "a.pdf", "file_data": format!("data:application/pdf;base64,{data}") })
            }
        }
    }

    /// A content part of a chat message.
    pub(super) fn chat_part(&mut self) -> Value {
        let part = self.unmarked_chat_part();
        self.marked(part)
    }

    /// A part, which may end a prefix that is to be cached.
    fn marked(&mut self, mut part: Value) -> Value {
        if self.chance.percent(8) {
            part["prompt_cache_breakpoint"] = json!({ "mode": "explicit" });
            if self.chance.percent(70) {
                part["prompt_cache_breakpoint"]["ttl"] = json!(self.chance.one(&["30m", "12h"]));
            }
        }
        part
    }

    fn unmarked_chat_part(&mut self) -> Value {
        match self.chance.within(0, 9) {
            0..=3 => json!({ "type": "text", "text": self.text() }),
            4..=7 => {
                let (url, _) = self.picture();
                let mut part = json!({ "type": "image_url", "image_url": { "url": url } });
                if self.chance.percent(60) {
                    part["image_url"]["detail"] = json!(self.detail());
                }
                part
            }
            8 => self.sound(),
            _ => json!({ "type": "file", "file": self.document() }),
        }
    }

    /// A content part of a response's input.
    pub(super) fn input_part(&mut self) -> Value {
        let part = self.unmarked_input_part();
        self.marked(part)
    }

    fn unmarked_input_part(&mut self) -> Value {
        match self.chance.within(0, 9) {
            0..=3 => json!({ "type": "input_text", "text": self.text() }),
            4..=7 => {
                let (address, is_id) = self.picture();
                let mut part = json!({ "type": "input_image" });
                part[if is_id { "file_id" } else { "image_url" }] = json!(address);
                if self.chance.percent(5) {
                    let (other, is_id) = self.picture();
                    part[if is_id { "file_id" } else { "image_url" }] = json!(other);
                }
                if self.chance.percent(60) {
                    part["detail"] = json!(self.detail());
                }
                part
            }
            _ => {
                let mut part = self.document();
                part["type"] = json!("input_file");
                if self.chance.percent(10) {
                    part = json!({ "type": "input_file", "file_url": "https://example.org/a.pdf" });
                }
                part
            }
        }
    }

    /// An item of a response's input.
    pub(super) fn item(&mut self) -> Value {
        match self.chance.within(0, 11) {
            0 => json!({ "type": "item_reference", "id": self.id(&["msg_small", "rs_large"]) }),
            1 => {
                let parts = [self.input_part(), self.input_part()];
                json!({ "type": "function_call_output", "call_id": "c1", "output": parts })
            }
            2 => {
                let (kind, file) = self.picture_file();
                let url = format!("data:{};base64,{}", kind.mime(), self.data(&file));
                let output = json!({ "type": "computer_screenshot", "image_url": url });
                json!({ "type": "computer_call_output", "call_id": "c2", "output": output })
            }
            3 => {
                let (_, file) = self.picture_file();
                json!({ "type": "image_generation_call", "id": "ig_1", "result": self.data(&file) })
            }
            4 => json!({ "type": "reasoning", "summary": [], "encrypted_content": self.text() }),
            5 => json!({ "type": "additional_tools", "tools": self.tools() }),
            6 | 7 => json!({ "role": "user", "content": self.text() }),
            _ => {
                let count = self.chance.within(1, 4);
                let parts: Vec<Value> = (0..count).map(|_| self.input_part()).collect();
                json!({ "type": "message", "role": "user", "content": parts })
            }
        }
    }
}
