//! The form of a file that is uploaded: its purpose, and its lines if they can make a batch.

use crate::guard::Guard;
use crate::protocol::multipart::{FormError, FormEvent, FormReader};
use crate::proxy::batches::{BatchFile, ScannedLines};
use crate::proxy::refuse::Refusal;

/// The purpose of files that batches are made of.
const BATCH: &[u8] = b"batch";

/// A form whose bytes are seen as they pass.
#[derive(Debug)]
pub(super) struct FileForm {
    reader: FormReader,
    fields: Fields,
}

/// What has been read of the form.
#[derive(Debug)]
struct Fields {
    place: Place,
    /// The first bytes of the purpose; `None` until it has come.
    purpose: Option<Vec<u8>>,
    has_file: bool,
    /// Until it is known that the file makes no batch.
    lines: Option<ScannedLines>,
    /// A field that stands twice.
    twice: Option<&'static str>,
}

/// The part of the form that is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Purpose,
    File,
    Other,
}

impl FileForm {
    /// A form of which nothing was read yet.
    pub(super) fn new(boundary: &str, lines: ScannedLines) -> Self {
        let fields =
            Fields { place: Place::Other, purpose: None, has_file: false, lines: Some(lines), twice: None };
        Self { reader: FormReader::new(boundary), fields }
    }

    /// Takes the next bytes.
    pub(super) async fn feed(&mut self, guard: &Guard, bytes: &[u8]) -> Result<(), Refusal> {
        let Self { reader, fields } = self;
        reader.feed(bytes, |event| fields.take(event)).map_err(malformed)?;
        if let Some(name) = fields.twice {
            let message = format!("The form has the field '{name}' twice.");
            return Err(Refusal::Invalid(message, Some(name)));
        }
        match &mut fields.lines {
            Some(lines) => lines.catch_up(guard).await,
            None => Ok(()),
        }
    }

    /// Notes that the body has ended.
    pub(super) fn end(&self) -> Result<(), Refusal> {
        self.reader.finish().map_err(malformed)
    }

    /// What is known of the file; `None` if no batch can be made of it.
    pub(super) fn finish(self) -> Option<BatchFile> {
        self.reader.finish().ok()?;
        self.fields.lines.map(ScannedLines::finish)
    }
}

impl Fields {
    fn take(&mut self, event: FormEvent<'_>) {
        match event {
            FormEvent::Part { name, .. } => {
                self.end_part();
                self.begin_part(name);
            }
            FormEvent::Data(bytes) => match self.place {
                Place::Purpose => {
                    if let Some(purpose) = self.purpose.as_mut().filter(|known| known.len() <= BATCH.len()) {
                        purpose.extend_from_slice(&bytes[..bytes.len().min(BATCH.len() + 1)]);
                    }
                }
                Place::File => {
                    if let Some(lines) = &mut self.lines {
                        lines.take(bytes);
                    }
                }
                Place::Other => {}
            },
            FormEvent::End => self.end_part(),
        }
    }

    fn begin_part(&mut self, name: &str) {
        self.place = match name {
            "purpose" => Place::Purpose,
            "file" => Place::File,
            _ => Place::Other,
        };
        match self.place {
            Place::Purpose if self.purpose.replace(Vec::new()).is_some() => self.twice = Some("purpose"),
            Place::File if std::mem::replace(&mut self.has_file, true) => self.twice = Some("file"),
            Place::Purpose | Place::File | Place::Other => {}
        }
    }

    fn end_part(&mut self) {
        match self.place {
            Place::Purpose if self.purpose.as_deref() != Some(BATCH) => self.lines = None,
            Place::File => {
                if let Some(lines) = &mut self.lines {
                    lines.end();
                }
            }
            Place::Purpose | Place::Other => {}
        }
        self.place = Place::Other;
    }
}

fn malformed(error: FormError) -> Refusal {
    let message = format!("We could not read the form in the body of your request: {error}.");
    Refusal::Invalid(message, None)
}
