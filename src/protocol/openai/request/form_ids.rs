//! The objects that a form names by the fields that take ids, as it passes.

use super::object_ids::id_field;
use super::references::{self, ID_BYTES_MAX, References};
use super::{Invalid, ObjectReference};
use crate::domain::ObjectKind;
use crate::protocol::multipart::{FormError, FormEvent, FormReader};

/// A reader of a form whose bytes are fed to it as they come. Of the form's content it keeps an id
/// at the most.
///
/// ```
/// use spendguard::protocol::openai::request::FormIds;
/// let mut form = FormIds::new("b");
/// let found = form.feed(b"--b\r\nContent-Disposition: form-data; name=\"file_id\"\r\n\r\nfile-1\r\n--b--\r\n");
/// assert_eq!(found.expect("it is a form")[0].id, "file-1");
/// assert!(form.finish().is_ok());
/// ```
#[derive(Debug)]
pub struct FormIds {
    reader: FormReader,
    /// The id whose part has begun and not ended.
    open: Option<(ObjectKind, Vec<u8>)>,
}

impl FormIds {
    /// A reader of a form with this boundary.
    pub fn new(boundary: &str) -> Self {
        Self { reader: FormReader::new(boundary), open: None }
    }

    /// Takes the next bytes; returns the objects whose ids end in them. An id or a form that could
    /// be read in two ways is an error.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<ObjectReference>, Invalid> {
        let Self { reader, open } = self;
        let mut found = References::default();
        let mut end = |open: &mut Option<(ObjectKind, Vec<u8>)>| {
            if let Some((kind, id)) = open.take() {
                found.add_id(kind, String::from_utf8_lossy(&id));
            }
        };
        let read = reader.feed(bytes, |event| match event {
            FormEvent::Part { name, .. } => {
                end(open);
                let name = name.split_once('[').map_or(name, |(name, _)| name);
                *open = id_field(name).map(|kind| (kind, Vec::new()));
            }
            FormEvent::Data(data) => {
                if let Some((_, id)) = open {
                    // One byte more than an id has makes it one that is too long.
                    let room = (ID_BYTES_MAX + 1).saturating_sub(id.len());
                    id.extend_from_slice(&data[..data.len().min(room)]);
                }
            }
            FormEvent::End => end(open),
        });
        read.map_err(malformed)?;
        references::all([found, References::default(), References::default()])
            .map_err(|problem| Invalid::form(&problem))
    }

    /// Ends the form; one without its last boundary is an error.
    pub fn finish(&self) -> Result<(), Invalid> {
        self.reader.finish().map_err(malformed)
    }
}

fn malformed(error: FormError) -> Invalid {
    Invalid::form(&error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, content: &str) -> String {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{content}\r\n")
    }

    fn found(body: &str, size: usize) -> Result<Vec<String>, Invalid> {
        let (mut form, mut ids) = (FormIds::new("b"), Vec::new());
        for piece in body.as_bytes().chunks(size) {
            ids.extend(form.feed(piece)?.into_iter().map(|of| format!("{} {}", of.kind.name(), of.id)));
        }
        form.finish()?;
        Ok(ids)
    }

    #[test]
    fn every_id_of_a_form_is_found_however_it_is_cut() {
        let body = [
            part("file_id", "file-1"),
            part("file", "file_id"),
            part("file_ids[]", "file-2"),
            part("file_id", "file-3"),
            part("container_id", "cntr_1"),
        ];
        let body = format!("{}--b--\r\n", body.concat());
        for size in 1..=body.len() {
            let ids = found(&body, size).unwrap();
            assert_eq!(ids, ["file file-1", "file file-2", "file file-3", "container cntr_1"], "{size}");
        }
    }

    #[test]
    fn an_id_that_is_too_long_and_what_is_no_form_are_errors() {
        let long = format!("{}--b--\r\n", part("file_id", &"x".repeat(10_000)));
        assert!(found(&long, 100).is_err());
        assert!(found("file_id=file-1", 100).is_err());
        assert!(found(&part("file_id", "file-1"), 100).is_err(), "it has no end");
    }
}
