//! The ways in which a client may encode media in a JSON body.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

/// How one JSON string of base64 is spelled.
#[derive(Clone, Debug)]
pub(super) struct Spelling {
    /// The prefix of the base64, as written in the body.
    pub(super) head: &'static str,
    /// The base64url alphabet.
    pub(super) url_alphabet: bool,
    /// `=` at the end.
    pub(super) padding: bool,
    /// A break after so many characters.
    pub(super) line: Option<usize>,
    /// The break.
    pub(super) line_break: &'static str,
    /// Which characters are escaped: 0 none, 1 slashes, else every so many.
    pub(super) escape_every: usize,
}

impl Spelling {
    /// As the official SDKs write it.
    pub(super) fn plain() -> Self {
        Self {
            head: "data:image/png;base64,",
            url_alphabet: false,
            padding: true,
            line: None,
            line_break: "\\n",
            escape_every: 0,
        }
    }

    /// Any spelling there is.
    pub(super) fn any() -> impl Strategy<Value = Self> {
        let heads = [
            "",
            "data:image/png;base64,",
            "data:image\\/jpeg;base64,",
            "DATA:;BASE64,",
            "\\u0064ata:text/plain;charset=utf-8;base64,",
            "data:audio/wav;base64\\u002c",
        ];
        let breaks = ["\\n", "\\r\\n", " ", "\\t", "\\u000a", "\\u000d\\u000A"];
        (
            prop::sample::select(heads.to_vec()),
            any::<(bool, bool)>(),
            prop::option::of(1_usize..200),
            prop::sample::select(breaks.to_vec()),
            prop_oneof![Just(0), Just(1), 2_usize..100],
        )
            .prop_map(|(head, (url_alphabet, padding), line, line_break, escape_every)| Self {
                head,
                url_alphabet,
                padding,
                line,
                line_break,
                escape_every,
            })
    }

    /// The JSON string token of some bytes.
    pub(super) fn token(&self, bytes: &[u8]) -> String {
        let mut token = format!("\"{}", self.head);
        for (at, character) in STANDARD.encode(bytes).chars().enumerate() {
            if character == '=' && !self.padding {
                break;
            }
            let character = match character {
                '+' if self.url_alphabet => '-',
                '/' if self.url_alphabet => '_',
                other => other,
            };
            match self.escape_every {
                1 if character == '/' => token.push_str("\\/"),
                every if every > 1 && at % every == 0 => {
                    write!(token, "\\u{:04x}", u32::from(character)).unwrap();
                }
                _ => token.push(character),
            }
            if self.line.is_some_and(|line| at % line == line - 1) {
                token.push_str(self.line_break);
            }
        }
        token.push('"');
        token
    }
}
