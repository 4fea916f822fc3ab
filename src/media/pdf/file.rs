//! The objects of a PDF, found without its own table of them.
//!
//! A table can be wrong, doubled or hidden, and decoders repair it in different
//! ways. So every place that can be an object is taken for one: all `N G obj` of
//! the file, wherever they stand, and all objects of object streams. An object
//! that was replaced by a later version has both here.

use std::cell::Cell;
use std::collections::HashMap;

use crate::media::pdf::PdfProblem;
use crate::media::pdf::filter::{FILTERS_MAX, decode};
use crate::media::pdf::object::{Lexer, Object, is_blank};

/// Decoded bytes of all streams that are looked at.
const DECODED_BYTES_MAX: usize = 64 << 20;
/// Bytes that objects are read from, all readings together.
const READ_BYTES_MAX: usize = 128 << 20;
/// Objects of a file. A page of a large document has some ten.
const OBJECTS_MAX: usize = 500_000;
/// Versions of one object.
const VERSIONS_MAX: usize = 100;
/// The bytes that the shortest object counts as.
const READING_BYTES_MIN: usize = 64;
/// References that lead to references.
const HOPS_MAX: usize = 8;

/// Where an object begins: a source (the file or an object stream) and a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Location {
    source: usize,
    at: usize,
}

/// A file with the places of its objects.
#[derive(Debug, Default)]
pub(super) struct File {
    /// The file, then its object streams.
    sources: Vec<Vec<u8>>,
    /// By number; all versions.
    index: HashMap<u32, Vec<Location>>,
    decoded: Cell<usize>,
    read: Cell<usize>,
}

impl File {
    pub(super) fn open(bytes: Vec<u8>) -> Result<Self, PdfProblem> {
        let head = &bytes[..bytes.len().min(1_024)];
        if memchr::memmem::find(head, b"%PDF-").is_none() {
            return Err(PdfProblem::NotPdf);
        }
        let mut file =
            Self { sources: vec![bytes], index: HashMap::new(), decoded: Cell::new(0), read: Cell::new(0) };
        file.find_objects()?;
        file.open_object_streams()?;
        file.refuse_encryption()?;
        Ok(file)
    }

    /// All objects, each with its place.
    pub(super) fn locations(&self) -> Vec<(u32, Location)> {
        let versions = |(number, at): (&u32, &Vec<Location>)| {
            let number = *number;
            at.clone().into_iter().map(move |at| (number, at))
        };
        self.index.iter().flat_map(versions).collect()
    }

    /// The object at a place.
    pub(super) fn object(&self, at: Location) -> Result<Object, PdfProblem> {
        self.parse(at).map(|(object, _)| object)
    }

    /// All versions of an object, or of the object that it refers to.
    pub(super) fn resolve(&self, object: &Object) -> Result<Vec<Object>, PdfProblem> {
        let mut resolved = vec![object.clone()];
        for _ in 0..HOPS_MAX {
            if !resolved.iter().any(|object| matches!(object, Object::Reference(_))) {
                return Ok(resolved);
            }
            let mut next = Vec::new();
            for object in resolved {
                if let Object::Reference(number) = object {
                    for at in self.versions(number) {
                        next.push(self.object(*at)?);
                    }
                } else {
                    next.push(object);
                }
            }
            resolved = next;
        }
        Err(PdfProblem::Unsupported)
    }

    /// The places of all versions of an object.
    pub(super) fn versions(&self, number: u32) -> &[Location] {
        self.index.get(&number).map_or(&[], Vec::as_slice)
    }

    /// Whether the object at a place is a stream.
    pub(super) fn is_stream(&self, at: Location) -> Result<bool, PdfProblem> {
        Ok(self.data_start(at)?.is_some())
    }

    /// The decoded data of a stream; `None` if the object is none.
    pub(super) fn data(&self, at: Location) -> Result<Option<Vec<u8>>, PdfProblem> {
        let Some((dict, start)) = self.data_start(at)? else { return Ok(None) };
        let mut filters = Vec::new();
        for value in dict.values(b"Filter").chain(dict.values(b"F")) {
            for filter in self.resolve(value)? {
                if let Object::Array(items) = filter {
                    filters.extend(items);
                } else {
                    filters.push(filter);
                }
            }
        }
        for value in dict.values(b"DecodeParms").chain(dict.values(b"DP")) {
            let mut is_predicted = false;
            for parameters in self.resolve(value)? {
                parameters.each(&mut |object| {
                    is_predicted |= object.values(b"Predictor").any(|kind| *kind != Object::Number(1));
                });
            }
            if is_predicted {
                return Err(PdfProblem::Unsupported);
            }
        }
        if filters.len() > FILTERS_MAX {
            return Err(PdfProblem::Unsupported);
        }
        let raw = self.raw(&dict, at.source, start)?;
        let mut data: Option<Vec<u8>> = None;
        for filter in &filters {
            let Object::Name(name) = filter else { return Err(PdfProblem::Unsupported) };
            let decoded = decode(name, data.as_deref().unwrap_or(raw), self.decoded_left())?;
            spend(&self.decoded, decoded.len(), DECODED_BYTES_MAX)?;
            data = Some(decoded);
        }
        if data.is_none() {
            spend(&self.decoded, raw.len(), DECODED_BYTES_MAX)?;
        }
        Ok(Some(data.unwrap_or_else(|| raw.to_vec())))
    }

    /// The data of a stream as it stands: as long as its length and its end word
    /// can mean.
    fn raw(&self, dict: &Object, source: usize, start: usize) -> Result<&[u8], PdfProblem> {
        let bytes = &self.sources[source];
        let rest = &bytes[start.min(bytes.len())..];
        let mut length = memchr::memmem::find(rest, b"endstream").unwrap_or(rest.len());
        for value in dict.values(b"Length") {
            for stated in self.resolve(value)? {
                if let Object::Number(stated) = stated {
                    length = length.max(usize::try_from(stated).unwrap_or(0));
                }
            }
        }
        let raw = &rest[..length.min(rest.len())];
        spend(&self.read, raw.len(), READ_BYTES_MAX)?;
        Ok(raw)
    }

    /// A stream's dictionary and where its data begins; `None` if the object is no
    /// stream.
    fn data_start(&self, at: Location) -> Result<Option<(Object, usize)>, PdfProblem> {
        let (object, mut lexer) = self.parse(at)?;
        if !matches!(object, Object::Dict(_)) || lexer.next() != Some(Object::Keyword(b"stream".to_vec())) {
            return Ok(None);
        }
        let bytes = &self.sources[at.source];
        let start = lexer.position();
        let line_end = match bytes.get(start..).unwrap_or_default() {
            [b'\r', b'\n', ..] => 2,
            [b'\r' | b'\n', ..] => 1,
            _ => 0,
        };
        Ok(Some((object, start + line_end)))
    }

    fn parse(&self, at: Location) -> Result<(Object, Lexer<'_>), PdfProblem> {
        let mut lexer = Lexer::new(&self.sources[at.source], at.at);
        let object = lexer.next().unwrap_or(Object::Keyword(Vec::new()));
        let bytes = (lexer.position() - at.at).max(READING_BYTES_MIN);
        spend(&self.read, bytes, READ_BYTES_MAX)?;
        if matches!(object, Object::Number(_)) && is_reference(&lexer) {
            // An object that is nothing but a reference to another one.
            return Err(PdfProblem::Unsupported);
        }
        if lexer.is_cut() { Err(PdfProblem::Broken) } else { Ok((object, lexer)) }
    }

    fn decoded_left(&self) -> usize {
        DECODED_BYTES_MAX - self.decoded.get()
    }

    fn find_objects(&mut self) -> Result<(), PdfProblem> {
        let bytes = &self.sources[0];
        let mut count = 0;
        for at in memchr::memmem::find_iter(bytes, b"obj") {
            let before = &bytes[at.saturating_sub(64)..at];
            match number_before(before) {
                Some(number) => {
                    add(&mut self.index, number, Location { source: 0, at: at + 3 })?;
                    count += 1;
                }
                None if is_disguised(before) => return Err(PdfProblem::Unsupported),
                None => {}
            }
            if count > OBJECTS_MAX {
                return Err(PdfProblem::TooLarge);
            }
        }
        Ok(())
    }

    fn open_object_streams(&mut self) -> Result<(), PdfProblem> {
        let mut count = self.index.len();
        for (_, at) in self.locations() {
            let Ok(Object::Dict(entries)) = self.object(at) else { continue };
            let dict = Object::Dict(entries);
            let (Some(first), true) = (dict.values(b"First").next(), dict.has(b"N")) else { continue };
            let first = match self.resolve(first)?.as_slice() {
                [Object::Number(first)] => usize::try_from(*first).map_err(|_| PdfProblem::Broken)?,
                // An outline has both keys, too, and refers to its first item.
                _ => continue,
            };
            let Some(data) = self.data(at)? else { continue };
            let source = self.sources.len();
            let mut header = Lexer::new(&data, 0);
            let mut places = Vec::new();
            while header.position() < first {
                let (Some(Object::Number(number)), Some(Object::Number(offset))) =
                    (header.next(), header.next())
                else {
                    break;
                };
                let number = u32::try_from(number).map_err(|_| PdfProblem::Broken)?;
                let offset = usize::try_from(offset).map_err(|_| PdfProblem::Broken)?;
                places.push((number, Location { source, at: first.saturating_add(offset).min(data.len()) }));
            }
            count += places.len();
            if count > OBJECTS_MAX {
                return Err(PdfProblem::TooLarge);
            }
            self.sources.push(data);
            for (number, place) in places {
                add(&mut self.index, number, place)?;
            }
        }
        Ok(())
    }

    /// An encrypted file says so in its trailer, or in the stream that has one's
    /// place.
    fn refuse_encryption(&self) -> Result<(), PdfProblem> {
        let is_encrypted = |object: &Object| object.has(b"Encrypt");
        for at in memchr::memmem::find_iter(&self.sources[0], b"trailer") {
            let trailer = Lexer::new(&self.sources[0], at + b"trailer".len()).next();
            if trailer.is_some_and(|trailer| is_encrypted(&trailer)) {
                return Err(PdfProblem::Encrypted);
            }
        }
        for (_, at) in self.locations() {
            if is_encrypted(&self.object(at).unwrap_or(Object::Number(0))) {
                return Err(PdfProblem::Encrypted);
            }
        }
        Ok(())
    }
}

fn add(index: &mut HashMap<u32, Vec<Location>>, number: u32, at: Location) -> Result<(), PdfProblem> {
    let versions = index.entry(number).or_default();
    versions.push(at);
    if versions.len() > VERSIONS_MAX { Err(PdfProblem::TooLarge) } else { Ok(()) }
}

/// Whether a number that was read goes on as `… 0 R`.
fn is_reference(lexer: &Lexer<'_>) -> bool {
    let mut ahead = lexer.clone();
    let generation = ahead.next();
    matches!(generation, Some(Object::Number(_))) && ahead.next() == Some(Object::Keyword(b"R".to_vec()))
}

/// The number of an object from what stands before its `obj`: `12 0 `.
fn number_before(before: &[u8]) -> Option<u32> {
    let generation = before.trim_ascii_end_blank();
    let number = generation.trim_end_digits()?.trim_ascii_end_blank();
    let start = number.trim_end_digits()?.len();
    std::str::from_utf8(&number[start..]).ok()?.parse().ok()
}

/// Whether a comment may hide the numbers before an `obj`.
fn is_disguised(before: &[u8]) -> bool {
    before.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) && before.contains(&b'%')
}

/// Removes a suffix from bytes.
trait TrimEnd {
    fn trim_ascii_end_blank(&self) -> &[u8];
    fn trim_end_digits(&self) -> Option<&[u8]>;
}

impl TrimEnd for [u8] {
    fn trim_ascii_end_blank(&self) -> &[u8] {
        let length = self.iter().rposition(|byte| !is_blank(*byte)).map_or(0, |last| last + 1);
        &self[..length]
    }

    /// `None` if there is no digit.
    fn trim_end_digits(&self) -> Option<&[u8]> {
        let length = self.iter().rposition(|byte| !byte.is_ascii_digit()).map_or(0, |last| last + 1);
        (length < self.len()).then(|| &self[..length])
    }
}

/// Takes part of a budget; a file that needs more is too large.
fn spend(spent: &Cell<usize>, bytes: usize, most: usize) -> Result<(), PdfProblem> {
    spent.set(spent.get().saturating_add(bytes).min(most));
    if spent.get() < most { Ok(()) } else { Err(PdfProblem::TooLarge) }
}
