//! Counts the text of a content stream without drawing it.

use std::collections::HashMap;

use crate::media::pdf::PdfProblem;
use crate::media::pdf::object::{Lexer, Object, is_blank};

/// Text and invocations of one content stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    /// Bytes of all strings: what is shown, and texts that stand for it.
    pub(super) string_bytes: u64,
    /// Strings; between two of them a line may end.
    pub(super) strings: u64,
    /// Marked sequences; each may have a text that stands for it elsewhere.
    pub(super) marked: u64,
    /// External objects drawn, by name.
    pub(super) drawn: HashMap<Vec<u8>, u64>,
}

impl Content {
    /// Reads a content stream.
    ///
    /// Where it has images within (`BI … ID … EI`), decoders differ in where these
    /// end, so all bytes count as shown and names are looked for everywhere.
    pub(super) fn of(bytes: &[u8]) -> Result<Self, PdfProblem> {
        let mut content = Self::default();
        let mut lexer = Lexer::new(bytes, 0);
        let mut last = None;
        while let Some(object) = lexer.next() {
            object.each(&mut |object| {
                if let Object::Text { bytes, .. } = object {
                    content.string_bytes += bytes;
                    content.strings += 1;
                }
            });
            if let Object::Keyword(word) = &object {
                match (word.as_slice(), last) {
                    (b"BI" | b"ID", _) => return Self::with_images(bytes),
                    (b"BDC", _) => content.marked += 1,
                    (b"Do", Some(Object::Name(name))) => *content.drawn.entry(name).or_default() += 1,
                    (b"Do", _) => return Err(PdfProblem::Unsupported),
                    _ => {}
                }
            }
            last = Some(object);
        }
        if lexer.is_cut() { Err(PdfProblem::Broken) } else { Ok(content) }
    }

    fn with_images(bytes: &[u8]) -> Result<Self, PdfProblem> {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        // Every string takes two bytes at least, every marked sequence three.
        let mut content =
            Self { string_bytes: length, strings: length / 2, marked: length / 3, ..Self::default() };
        if memchr::memmem::find(bytes, b"BDC").is_none() {
            content.marked = 0;
        }
        for at in words(bytes, b"Do") {
            let before = bytes[..at].iter().rposition(|byte| !is_blank(*byte)).map_or(0, |last| last + 1);
            let from = before.saturating_sub(256);
            let slash = memchr::memrchr(b'/', &bytes[from..before]).ok_or(PdfProblem::Unsupported)?;
            let mut lexer = Lexer::new(&bytes[..before], from + slash);
            match (lexer.next(), lexer.next()) {
                (Some(Object::Name(name)), None) => *content.drawn.entry(name).or_default() += 1,
                _ => return Err(PdfProblem::Unsupported),
            }
        }
        Ok(content)
    }
}

/// Whether bytes of a glyph's description may show text or draw something else.
pub(super) fn may_show(bytes: &[u8]) -> bool {
    [&b"Tj"[..], b"TJ", b"Do"].into_iter().any(|word| words(bytes, word).next().is_some())
}

/// Where a word stands by itself.
fn words<'a>(bytes: &'a [u8], word: &'a [u8]) -> impl Iterator<Item = usize> {
    let ends = |byte: Option<&u8>| byte.is_none_or(|byte| is_blank(*byte) || b"()<>[]/%".contains(byte));
    memchr::memmem::find_iter(bytes, word).filter(move |at| {
        ends(bytes.get(at + word.len())) && ends(at.checked_sub(1).and_then(|before| bytes.get(before)))
    })
}
