//! Finds the parts of an answer that name upstream's account.
//!
//! Upstream names its account in the texts of errors and in `organization_id`. Everything
//! else is the client's or the model's, and may have fields of the same names: schemas of
//! functions, arguments, items. So the place of a value decides, not its name alone: a
//! member of the answer itself, of the `response` in it, or of an object in its list.
//!
//! An answer may come in parts that are cut anywhere. The state between parts is small
//! and doesn't grow with the answer, so that no part is too large to be looked into.

use std::ops::Range;
use std::sync::LazyLock;

use memchr::{memchr2, memmem, memrchr2_iter};

/// Members in which upstream names its account.
const MEMBERS: [&[u8]; 4] = [b"error", b"errors", b"last_error", b"organization_id"];
/// The member that holds an error's text where a whole event is the error.
const MESSAGE: &[u8] = b"message";
/// The longest of these names, those on the way to them included, and a byte more.
const NAME_BYTES_MAX: usize = 16;
/// The levels of an answer that have such members: the answer, its list, an object there.
const LEVELS: usize = 3;
/// The word that every event with an error has in it.
static ERROR: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(b"error"));
static ORGANIZATION: LazyLock<memmem::Finder<'static>> =
    LazyLock::new(|| memmem::Finder::new(b"organization_id"));

/// Where a whole JSON answer names the account, in ascending order.
///
/// ```
/// use spendguard::protocol::openai::account;
/// let answer = br#"{"error":{"message":"in organization org-1"},"tools":[{"error":"org-chart"}]}"#;
/// assert_eq!(account::texts(answer), [9..44]);
/// ```
pub fn texts(answer: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    if ERROR.find(answer).is_some() || ORGANIZATION.find(answer).is_some() {
        Document::default().read(answer, 0..answer.len(), &mut found);
    }
    found
}

/// Finds the texts that name the account in an answer that comes in parts.
#[derive(Debug)]
pub struct Texts(Form);

#[derive(Debug)]
enum Form {
    /// Not known yet.
    Unknown,
    Json(Document),
    Events(Events),
}

impl Texts {
    /// For an event stream.
    pub fn of_events() -> Self {
        Self(Form::Events(Events::new()))
    }

    /// For an answer that is either JSON or an event stream, by its first byte.
    pub fn of_any() -> Self {
        Self(Form::Unknown)
    }

    /// Where the next part of the answer names the account, in ascending order.
    pub fn find(&mut self, part: &[u8]) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        if matches!(self.0, Form::Unknown) {
            match part.iter().find(|byte| !byte.is_ascii_whitespace()) {
                None => return found,
                Some(b'{' | b'[') => self.0 = Form::Json(Document::default()),
                Some(_) => self.0 = Form::Events(Events::new()),
            }
        }
        match &mut self.0 {
            Form::Unknown => {}
            Form::Json(document) => document.read(part, 0..part.len(), &mut found),
            Form::Events(events) => events.read(part, &mut found),
        }
        found
    }

    /// Whether the last part ended within such a text.
    pub fn is_within(&self) -> bool {
        match &self.0 {
            Form::Unknown => false,
            Form::Json(document) => document.text_at.is_some(),
            Form::Events(events) => events.is_within(),
        }
    }
}

/// The start of a name, as long as any that matters.
#[derive(Debug, Default)]
struct Name {
    bytes: [u8; NAME_BYTES_MAX],
    length: usize,
}

impl Name {
    fn clear(&mut self) {
        self.length = 0;
    }

    fn push(&mut self, part: &[u8]) {
        let taken = part.len().min(NAME_BYTES_MAX - self.length);
        self.bytes[self.length..self.length + taken].copy_from_slice(&part[..taken]);
        self.length += taken;
    }

    fn get(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// The kind of a level of a document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Level {
    /// Nothing that has members of upstream's own.
    #[default]
    Other,
    /// The answer, an event, a response in one, or an object of a list.
    Object,
    /// A list of objects.
    List,
}

/// Walks through one JSON document.
#[derive(Debug, Default)]
struct Document {
    /// Whether it is the data of an event.
    is_event: bool,
    levels: [Level; LEVELS],
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    /// Whether the next string is a name, or this one is.
    at_name: bool,
    name: Name,
    /// The level of the member whose value names the account.
    text_at: Option<usize>,
}

impl Document {
    fn of_event() -> Self {
        Self { is_event: true, ..Self::default() }
    }

    /// Reads on; adds the places where the span names the account.
    fn read(&mut self, bytes: &[u8], span: Range<usize>, found: &mut Vec<Range<usize>>) {
        let mut from = span.start;
        let mut at = span.start;
        while at < span.end {
            if self.in_string {
                at = self.string(bytes, at..span.end);
                continue;
            }
            let was_within = self.text_at.is_some();
            self.token(bytes[at]);
            match (was_within, self.text_at.is_some()) {
                (false, true) => from = at + 1,
                (true, false) => found.push(from..at),
                _ => {}
            }
            at += 1;
        }
        if self.text_at.is_some() && from < span.end {
            found.push(from..span.end);
        }
    }

    fn token(&mut self, byte: u8) {
        match byte {
            b'"' => {
                self.in_string = true;
                if self.at_name {
                    self.name.clear();
                }
            }
            b'{' | b'[' => self.open(byte),
            b'}' | b']' => {
                self.end_member();
                self.depth = self.depth.saturating_sub(1);
                self.at_name = false;
            }
            b':' if self.at_name => {
                self.at_name = false;
                if self.text_at.is_none() && self.speaks_of_account() {
                    self.text_at = Some(self.depth);
                }
            }
            b',' => {
                self.end_member();
                self.at_name = self.level() == Level::Object;
            }
            _ => {}
        }
    }

    /// Reads a string on; returns where it ends.
    fn string(&mut self, bytes: &[u8], span: Range<usize>) -> usize {
        if std::mem::take(&mut self.is_escaped) {
            self.note(&bytes[span.start..=span.start]);
            return span.start + 1;
        }
        let inside = &bytes[span.clone()];
        let Some(length) = memchr2(b'"', b'\\', inside) else {
            self.note(inside);
            return span.end;
        };
        self.note(&inside[..length]);
        if inside[length] == b'"' {
            self.in_string = false;
        } else {
            self.is_escaped = true;
            self.note(b"\\");
        }
        span.start + length + 1
    }

    fn note(&mut self, part: &[u8]) {
        if self.at_name {
            self.name.push(part);
        }
    }

    fn open(&mut self, byte: u8) {
        let is_object = byte == b'{';
        let below = match (self.level(), self.depth) {
            _ if self.text_at.is_some() => Level::Other,
            (Level::Object, 1) if is_object && self.name.get() == b"response" => Level::Object,
            (Level::Object, 1) if !is_object && self.name.get() == b"data" => Level::List,
            (_, 0) | (Level::List, _) if is_object => Level::Object,
            _ => Level::Other,
        };
        if let Some(level) = self.levels.get_mut(self.depth) {
            *level = below;
        }
        self.depth = self.depth.saturating_add(1);
        self.at_name = self.level() == Level::Object;
    }

    /// The level that is open now.
    fn level(&self) -> Level {
        let at = self.depth.checked_sub(1);
        at.and_then(|at| self.levels.get(at)).copied().unwrap_or_default()
    }

    fn end_member(&mut self) {
        if self.text_at == Some(self.depth) {
            self.text_at = None;
        }
    }

    fn speaks_of_account(&self) -> bool {
        let name = self.name.get();
        MEMBERS.contains(&name) || (self.is_event && self.depth == 1 && name == MESSAGE)
    }
}

/// The part of a line of an event stream that is being read.
#[derive(Debug)]
enum Line {
    Field,
    EventName,
    Data,
    Other,
}

/// Walks through an event stream.
#[derive(Debug)]
struct Events {
    line: Line,
    /// The field's name, or the event's.
    name: Name,
    has_bytes: bool,
    /// Whether the current event has a line.
    has_begun: bool,
    after_cr: bool,
    /// Whether the event is named as an error, so that all of its data is one.
    is_error: bool,
    data: Document,
}

impl Events {
    fn new() -> Self {
        Self {
            line: Line::Field,
            name: Name::default(),
            has_bytes: false,
            has_begun: false,
            after_cr: false,
            is_error: false,
            data: Document::of_event(),
        }
    }

    fn is_within(&self) -> bool {
        matches!(self.line, Line::Data) && (self.is_error || self.data.text_at.is_some())
    }

    fn read(&mut self, part: &[u8], found: &mut Vec<Range<usize>>) {
        // An event without the word is passed over whole.
        let is_between = !self.has_begun && !self.has_bytes;
        let mut at = if is_between && ERROR.find(part).is_none() { last_event(part) } else { 0 };
        while at < part.len() {
            if std::mem::take(&mut self.after_cr) && part[at] == b'\n' {
                at += 1;
                continue;
            }
            let end = memchr2(b'\n', b'\r', &part[at..]).map(|length| at + length);
            self.line(part, at..end.unwrap_or(part.len()), found);
            let Some(end) = end else { return };
            self.end_line();
            self.after_cr = part[end] == b'\r';
            at = end + 1;
        }
    }

    fn line(&mut self, part: &[u8], span: Range<usize>, found: &mut Vec<Range<usize>>) {
        self.has_bytes |= !span.is_empty();
        let mut from = span.start;
        if matches!(self.line, Line::Field) {
            let field = &part[span.clone()];
            let length = field.iter().position(|byte| *byte == b':');
            self.name.push(&field[..length.unwrap_or(field.len())]);
            let Some(length) = length else { return };
            from += length + 1;
            self.line = match self.name.get() {
                b"event" => Line::EventName,
                b"data" => Line::Data,
                _ => Line::Other,
            };
            self.name.clear();
        }
        match self.line {
            Line::EventName => self.name.push(&part[from..span.end]),
            Line::Data if self.is_error => found.push(from..span.end),
            Line::Data => self.data.read(part, from..span.end, found),
            Line::Field | Line::Other => {}
        }
    }

    fn end_line(&mut self) {
        self.has_begun = std::mem::take(&mut self.has_bytes);
        if !self.has_begun {
            self.is_error = false;
            self.data = Document::of_event();
        } else if matches!(self.line, Line::EventName) {
            self.is_error = self.name.get().trim_ascii() == b"error";
        }
        self.line = Line::Field;
        self.name.clear();
    }
}

/// Where the event starts that a part of a stream ends in; its end if it ends with one.
fn last_event(part: &[u8]) -> usize {
    let ends_event = |end: &usize| {
        let line = part[..*end].strip_suffix(b"\n").map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let line = line.or_else(|| part[..*end].strip_suffix(b"\r"));
        line.and_then(<[u8]>::last).is_some_and(|last| matches!(last, b'\n' | b'\r'))
    };
    memrchr2_iter(b'\n', b'\r', part).map(|at| at + 1).find(ends_event).unwrap_or(0)
}

#[cfg(test)]
mod tests;
