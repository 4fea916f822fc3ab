//! The pages of a PDF, and the most text that its extraction can yield.
//!
//! OpenAI reads a PDF as the text and the picture of each page. Pages come from
//! the page tree; text is bounded by the strings of all that a page draws, times
//! the longest text that a byte of them can stand for.
//!
//! The bound holds for any way in which a decoder may read the document: all
//! versions of all objects count, wherever the file's own tables lead, and anything
//! that can multiply text beyond it (cycles, text in patterns, glyphs and masks) or
//! that is not read here (encryption, other filters, predictors) is an error
//! instead. It assumes one thing: a character of a font without `ToUnicode` and
//! `Differences` is one character of text, as glyph names within font programs are
//! not read. Text in pictures does not count.

mod content;
mod file;
mod filter;
mod object;
mod survey;
mod text;

use std::collections::{BTreeSet, HashMap};
use std::io::Read as _;
use std::rc::Rc;

use self::file::File;
use self::object::Object;
use self::text::Names;
use crate::media::reader::{MediaReader, Source as _};

/// The largest file, decoded.
const FILE_BYTES_MAX: usize = 16 << 20;
/// Pages beyond which a file is not measured.
const PAGES_MAX: u64 = 100_000;
/// Page tree nodes and forms within each other.
const DEPTH_MAX: usize = 32;
/// Bytes of UTF-8 that one byte of an ordinary encoding can stand for.
const CHARACTER_BYTES: u64 = 3;

/// What a PDF holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PdfFacts {
    /// The most pages that a decoder finds.
    pub pages: u32,
    /// The most bytes of UTF-8 that text extraction yields, all pages together.
    pub text_bytes_max: u64,
}

/// Why a PDF can't be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PdfProblem {
    /// It is no base64, or no PDF, or has no page.
    NotPdf,
    /// It is larger than 16 MiB, or unpacks to more than 64 MiB, or needs more work
    /// than that takes.
    TooLarge,
    /// It is encrypted.
    Encrypted,
    /// It is damaged, so that decoders may differ in what they make of it.
    Broken,
    /// It has something whose text is not bounded here.
    Unsupported,
}

/// Measures a PDF in a JSON string of base64.
///
/// Work: a file of at most 16 MiB, of which at most 64 MiB are unpacked and 128 MiB
/// read, some hundred milliseconds and 100 MiB of memory at most: call it on a thread
/// where that delays nothing else.
pub fn pdf(json_string: &str) -> Result<PdfFacts, PdfProblem> {
    let reader = MediaReader::new(json_string).ok_or(PdfProblem::NotPdf)?;
    let most = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX);
    if reader.bytes_max() > most * 2 {
        return Err(PdfProblem::TooLarge);
    }
    let mut bytes = Vec::new();
    reader.take(most + 1).read_to_end(&mut bytes).map_err(|_| PdfProblem::NotPdf)?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(PdfProblem::TooLarge);
    }
    measure(File::open(bytes)?)
}

fn measure(file: File) -> Result<PdfFacts, PdfProblem> {
    let mut document = Document { file, ..Document::default() };
    let survey = document.survey()?;
    let mut total = Pages::default();
    let nothing = Rc::default();
    for root in &survey.roots {
        total = total.larger(document.pages(root, &nothing, 0)?);
    }
    // Decoders that find no tree take all pages there are.
    let mut all = Pages::default();
    for number in &survey.pages {
        all = all.with(document.pages(&Object::Reference(*number), &nothing, 0)?);
    }
    total = total.larger(all);
    document.refuse_hidden_text(&survey)?;
    let pages = u32::try_from(total.count).map_err(|_| PdfProblem::TooLarge)?;
    if pages == 0 {
        return Err(PdfProblem::NotPdf);
    }
    if total.count > PAGES_MAX {
        return Err(PdfProblem::TooLarge);
    }
    Ok(PdfFacts { pages, text_bytes_max: total.text_bytes.saturating_add(document.titles) })
}

/// Pages of a part of the tree, and their text.
#[derive(Clone, Copy, Debug, Default)]
struct Pages {
    count: u64,
    text_bytes: u64,
}

impl Pages {
    fn with(self, other: Self) -> Self {
        Self {
            count: self.count.saturating_add(other.count),
            text_bytes: self.text_bytes.saturating_add(other.text_bytes),
        }
    }

    fn larger(self, other: Self) -> Self {
        Self { count: self.count.max(other.count), text_bytes: self.text_bytes.max(other.text_bytes) }
    }
}

/// How far the measurement of an object has come.
#[derive(Clone, Copy, Debug)]
enum Measurement<T> {
    /// It is being measured; an object that is met again here contains itself.
    InProgress,
    Done(T),
}

#[derive(Debug, Default)]
struct Document {
    file: File,
    /// Bytes of text that one byte of a string can stand for.
    expansion: u64,
    /// Bytes of text that can stand for a marked sequence.
    replacement: u64,
    /// Bytes of titles: of the document, of its outline.
    titles: u64,
    /// All external objects by name, for names that are not where they belong.
    drawable: HashMap<Vec<u8>, BTreeSet<u32>>,
    trees: HashMap<u32, Measurement<Pages>>,
    forms: HashMap<u32, Measurement<u64>>,
}

impl Document {
    /// The pages below a node of the page tree, or that node if it is one.
    fn pages(&mut self, node: &Object, inherited: &Rc<Names>, depth: usize) -> Result<Pages, PdfProblem> {
        let number = if let Object::Reference(number) = node { Some(*number) } else { None };
        match number.and_then(|number| self.trees.get(&number)) {
            Some(Measurement::InProgress) => return Err(PdfProblem::Unsupported),
            Some(Measurement::Done(pages)) => return Ok(*pages),
            None if depth >= DEPTH_MAX => return Err(PdfProblem::Unsupported),
            None => {}
        }
        if let Some(number) = number {
            self.trees.insert(number, Measurement::InProgress);
        }
        let mut largest = Pages::default();
        for version in self.file.resolve(node)? {
            largest = largest.larger(self.pages_of_version(&version, inherited, depth)?);
        }
        if let Some(number) = number {
            self.trees.insert(number, Measurement::Done(largest));
        }
        Ok(largest)
    }

    fn pages_of_version(
        &mut self,
        node: &Object,
        inherited: &Rc<Names>,
        depth: usize,
    ) -> Result<Pages, PdfProblem> {
        if !matches!(node, Object::Dict(_)) {
            return Ok(Pages::default());
        }
        let names = if node.has(b"Resources") { Rc::new(self.names(node)?) } else { Rc::clone(inherited) };
        let mut sum = Pages::default();
        if !node.has(b"Kids") || node.has(b"Contents") {
            sum = Pages { count: 1, text_bytes: self.page_text(node, &names)? };
        }
        for kids in node.values(b"Kids") {
            for kids in self.file.resolve(kids)? {
                let Object::Array(kids) = kids else { continue };
                for kid in &kids {
                    sum = sum.with(self.pages(kid, &names, depth + 1)?);
                }
            }
        }
        Ok(sum)
    }
}

#[cfg(test)]
mod tests;
