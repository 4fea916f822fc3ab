//! The most text of a page: of its contents, forms and annotations.

use std::collections::HashMap;

use crate::media::pdf::content::Content;
use crate::media::pdf::file::Location;
use crate::media::pdf::object::Object;
use crate::media::pdf::{CHARACTER_BYTES, DEPTH_MAX, Document, Measurement, PdfProblem};

/// External objects by name, as a page or form may draw them.
pub(super) type Names = HashMap<Vec<u8>, Vec<u32>>;

/// The most objects that one name may stand for.
const MEANINGS_MAX: usize = 1_000;

impl Document {
    /// The external objects in the resources of a page or form.
    pub(super) fn names(&self, owner: &Object) -> Result<Names, PdfProblem> {
        let mut names = Names::new();
        for resources in owner.values(b"Resources") {
            for resources in self.file.resolve(resources)? {
                for objects in resources.values(b"XObject") {
                    for objects in self.file.resolve(objects)? {
                        let Object::Dict(entries) = objects else { continue };
                        for (name, object) in entries {
                            if let Object::Reference(number) = object {
                                names.entry(name).or_default().push(number);
                            }
                        }
                    }
                }
            }
        }
        Ok(names)
    }

    pub(super) fn page_text(&mut self, page: &Object, names: &Names) -> Result<u64, PdfProblem> {
        let mut parts = Vec::new();
        for contents in page.values(b"Contents") {
            let mut references = vec![contents.clone()];
            // A reference to an array of streams, or to a stream.
            for contents in self.file.resolve(contents)? {
                if let Object::Array(items) = contents {
                    references.extend(items);
                }
            }
            parts.extend(
                references.into_iter().filter_map(|part| {
                    if let Object::Reference(number) = part { Some(number) } else { None }
                }),
            );
        }
        let mut text = self.text(&parts, names, 0)?;
        for annotations in page.values(b"Annots") {
            for annotations in self.file.resolve(annotations)? {
                let Object::Array(annotations) = annotations else { continue };
                for annotation in &annotations {
                    text = text.saturating_add(self.annotation_text(annotation)?);
                }
            }
        }
        Ok(text)
    }

    /// The text of content streams that are read one after the other.
    fn text(&mut self, parts: &[u32], names: &Names, depth: usize) -> Result<u64, PdfProblem> {
        let mut whole = Vec::new();
        let mut contents = Vec::new();
        for number in parts {
            let versions = self.file.versions(*number).to_vec();
            for at in &versions {
                let Some(data) = self.file.data(*at)? else { continue };
                if versions.len() > 1 {
                    // Only one of them is read: each must be whole by itself.
                    contents.push(Content::of(&data)?);
                } else {
                    whole.extend(data);
                    whole.push(b'\n');
                }
            }
        }
        contents.push(Content::of(&whole)?);
        let mut text = 0_u64;
        for content in contents {
            text = text.saturating_add(self.content_text(&content, names, depth)?);
        }
        Ok(text)
    }

    fn content_text(&mut self, content: &Content, names: &Names, depth: usize) -> Result<u64, PdfProblem> {
        // Between characters there may be a space, after strings the end of a line
        // and of a block.
        let shown = content.string_bytes.saturating_mul(self.expansion + 1);
        let marked = content.marked.saturating_mul(self.replacement);
        let mut text = shown.saturating_add(marked).saturating_add(content.strings.saturating_mul(2));
        for (name, times) in &content.drawn {
            let mut largest = 0;
            for number in self.drawn(name, names)? {
                largest = largest.max(self.form_text(number, depth + 1)?);
            }
            text = text.saturating_add(largest.saturating_mul(*times));
        }
        Ok(text)
    }

    /// The objects that a name of an external object can stand for.
    fn drawn(&self, name: &[u8], names: &Names) -> Result<Vec<u32>, PdfProblem> {
        let own = names.get(name).cloned();
        let anywhere = || self.drawable.get(name).into_iter().flatten().copied().collect();
        let numbers: Vec<u32> = own.unwrap_or_else(anywhere);
        if numbers.len() > MEANINGS_MAX { Err(PdfProblem::Unsupported) } else { Ok(numbers) }
    }

    /// The text of a form; an image has none.
    fn form_text(&mut self, number: u32, depth: usize) -> Result<u64, PdfProblem> {
        match self.forms.get(&number) {
            Some(Measurement::InProgress) => return Err(PdfProblem::Unsupported),
            Some(Measurement::Done(text)) => return Ok(*text),
            None if depth >= DEPTH_MAX => return Err(PdfProblem::Unsupported),
            None => {}
        }
        self.forms.insert(number, Measurement::InProgress);
        let mut largest = 0;
        for at in self.file.versions(number).to_vec() {
            let dict = self.file.object(at)?;
            if dict.is_named(b"Subtype", b"Image") && !dict.is_named(b"Subtype", b"Form") {
                continue;
            }
            largest = largest.max(self.stream_text(at, &dict, depth)?);
        }
        self.forms.insert(number, Measurement::Done(largest));
        Ok(largest)
    }

    pub(super) fn stream_text(
        &mut self,
        at: Location,
        dict: &Object,
        depth: usize,
    ) -> Result<u64, PdfProblem> {
        let Some(data) = self.file.data(at)? else { return Ok(0) };
        let names = self.names(dict)?;
        self.content_text(&Content::of(&data)?, &names, depth)
    }

    /// The text of an annotation: its own, of the field it shows, and of its
    /// appearances.
    fn annotation_text(&mut self, annotation: &Object) -> Result<u64, PdfProblem> {
        let mut text = 0_u64;
        for version in self.file.resolve(annotation)? {
            text = text.saturating_add(self.strings(&version)?);
            for key in [&b"Contents"[..], b"RC", b"V", b"DV"] {
                for value in version.values(key) {
                    text = text.saturating_add(self.strings(value)?);
                }
            }
            let mut parents: Vec<Object> = version.values(b"Parent").cloned().collect();
            for _ in 0..DEPTH_MAX {
                let Some(parent) = parents.pop() else { break };
                for parent in self.file.resolve(&parent)? {
                    for value in parent.values(b"V").chain(parent.values(b"DV")) {
                        text = text.saturating_add(self.strings(value)?);
                    }
                    parents.extend(parent.values(b"Parent").cloned());
                }
            }
            for appearance in version.values(b"AP") {
                text = text.saturating_add(self.appearance_text(appearance, 0)?);
            }
        }
        Ok(text)
    }

    /// The text of all forms in a dictionary of appearances.
    fn appearance_text(&mut self, appearance: &Object, depth: usize) -> Result<u64, PdfProblem> {
        if depth > 3 {
            return Err(PdfProblem::Unsupported);
        }
        let mut text = 0_u64;
        if let Object::Reference(number) = appearance {
            text = self.form_text(*number, 0)?;
        }
        for version in self.file.resolve(appearance)? {
            let Object::Dict(entries) = version else { continue };
            // The keys of a form are none of appearances.
            let is_form = entries.iter().any(|(key, _)| key == b"BBox" || key == b"Length");
            for (_, value) in entries.iter().filter(|_| !is_form) {
                text = text.saturating_add(self.appearance_text(value, depth + 1)?);
            }
        }
        Ok(text)
    }

    /// The bytes of text that the strings of an object can be.
    pub(super) fn strings(&self, object: &Object) -> Result<u64, PdfProblem> {
        let mut bytes = 0_u64;
        for version in self.file.resolve(object)? {
            version.each(&mut |text| {
                if let Object::Text { bytes: own, .. } = text {
                    bytes = bytes.saturating_add(own.saturating_mul(CHARACTER_BYTES));
                }
            });
        }
        Ok(bytes)
    }
}
