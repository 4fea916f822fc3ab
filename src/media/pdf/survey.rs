//! A pass over all objects of a PDF: finds what multiplies text, and the pages.

use std::collections::BTreeSet;

use crate::media::pdf::content::may_show;
use crate::media::pdf::file::Location;
use crate::media::pdf::object::{Lexer, Object};
use crate::media::pdf::{CHARACTER_BYTES, Document, PdfProblem};

/// The findings of a pass over all objects.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// The roots of page trees.
    pub(super) roots: Vec<Object>,
    /// The numbers of all pages, in a tree or not.
    pub(super) pages: BTreeSet<u32>,
    /// Streams whose text would be multiplied: tiles of patterns, masks.
    repeated: Vec<Location>,
    /// Descriptions of glyphs.
    glyphs: Vec<Object>,
}

impl Document {
    /// Examines all objects.
    pub(super) fn survey(&mut self) -> Result<Survey, PdfProblem> {
        let mut survey = Survey::default();
        self.expansion = CHARACTER_BYTES;
        for (number, at) in self.file.locations() {
            let object = self.file.object(at)?;
            if object.is_named(b"Type", b"Page") {
                survey.pages.insert(number);
            }
            let mut dicts = Vec::new();
            object.each(&mut |object| {
                if matches!(object, Object::Dict(_)) {
                    dicts.push(object.clone());
                }
            });
            for dict in dicts {
                self.survey_dict(&dict, at, &mut survey)?;
            }
        }
        Ok(survey)
    }

    fn survey_dict(&mut self, dict: &Object, at: Location, survey: &mut Survey) -> Result<(), PdfProblem> {
        survey.roots.extend(dict.values(b"Pages").cloned());
        if dict.has(b"PatternType") && self.file.is_stream(at)? {
            survey.repeated.push(at);
        }
        if dict.is_named(b"S", b"Luminosity") || dict.is_named(b"S", b"Alpha") {
            for group in dict.values(b"G") {
                if let Object::Reference(number) = group {
                    survey.repeated.extend(self.file.versions(*number));
                }
            }
        }
        survey.glyphs.extend(dict.values(b"CharProcs").cloned());
        for key in [&b"ToUnicode"[..], b"UseCMap"] {
            for map in dict.values(key) {
                self.survey_characters(map)?;
            }
        }
        for key in [&b"Title"[..], b"Author", b"Subject", b"Keywords"] {
            for title in dict.values(key) {
                self.titles = self.titles.saturating_add(self.strings(title)?);
            }
        }
        for key in [&b"ActualText"[..], b"E"] {
            for text in dict.values(key) {
                self.replacement = self.replacement.max(self.strings(text)?);
            }
        }
        for differences in dict.values(b"Differences") {
            for names in self.file.resolve(differences)? {
                names.each(&mut |name| {
                    if let Object::Name(name) = name {
                        self.expansion = self.expansion.max(glyph_bytes(name));
                    }
                });
            }
        }
        for objects in dict.values(b"XObject") {
            for objects in self.file.resolve(objects)? {
                let Object::Dict(entries) = objects else { continue };
                for (name, value) in entries {
                    if let Object::Reference(number) = value {
                        self.drawable.entry(name).or_default().insert(number);
                    }
                }
            }
        }
        Ok(())
    }

    /// The longest text of a character in a map to Unicode.
    fn survey_characters(&mut self, map: &Object) -> Result<(), PdfProblem> {
        let Object::Reference(number) = map else { return Ok(()) };
        for at in self.file.versions(*number) {
            let Some(data) = self.file.data(*at)? else { continue };
            let mut lexer = Lexer::new(&data, 0);
            let mut is_mapping = false;
            while let Some(object) = lexer.next() {
                let word = if let Object::Keyword(word) = &object { word.as_slice() } else { b"" };
                if word.starts_with(b"beginbf") || word.starts_with(b"endbf") {
                    is_mapping = word.starts_with(b"beginbf");
                } else if is_mapping {
                    object.each(&mut |text| self.expansion = self.expansion.max(unicode_bytes(text)));
                }
            }
        }
        Ok(())
    }

    /// Refuses text that would be drawn more often than it is referenced.
    pub(super) fn refuse_hidden_text(&mut self, survey: &Survey) -> Result<(), PdfProblem> {
        for at in &survey.repeated {
            let dict = self.file.object(*at)?;
            if self.stream_text(*at, &dict, 0)? > 0 {
                return Err(PdfProblem::Unsupported);
            }
        }
        for glyphs in &survey.glyphs {
            for glyphs in self.file.resolve(glyphs)? {
                let Object::Dict(entries) = glyphs else { return Err(PdfProblem::Unsupported) };
                for (_, glyph) in entries {
                    let Object::Reference(number) = glyph else { continue };
                    for at in self.file.versions(number) {
                        if self.file.data(*at)?.is_some_and(|data| may_show(&data)) {
                            return Err(PdfProblem::Unsupported);
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// The bytes of UTF-8 that a string of UTF-16 is.
fn unicode_bytes(text: &Object) -> u64 {
    let Object::Text { bytes, hex } = text else { return 0 };
    let Some(hex) = hex else { return bytes.saturating_mul(CHARACTER_BYTES) };
    let units = hex.chunks(2).map(|pair| u16::from(pair[0]) << 8 | u16::from(*pair.get(1).unwrap_or(&0)));
    let character = |unit: Result<char, _>| unit.unwrap_or(char::REPLACEMENT_CHARACTER).len_utf8();
    let bytes: usize = char::decode_utf16(units).map(character).sum();
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// The bytes of UTF-8 that a glyph's name can stand for (Adobe's glyph list):
/// `f_f_i` is three characters, `uni00410042` two.
fn glyph_bytes(name: &[u8]) -> u64 {
    let component = |part: &[u8]| match part {
        [b'u', b'n', b'i', digits @ ..] => u64::try_from(digits.len() / 4).unwrap_or(u64::MAX).max(1),
        _ => 1,
    };
    let characters: u64 = name.split(|byte| *byte == b'_').map(component).sum();
    characters.saturating_mul(CHARACTER_BYTES)
}
