//! Reads `multipart/form-data` (RFC 7578), strictly.
//!
//! The form that is read and the one that upstream reads must be the same, and readers of
//! forms differ: in what may stand before the first part, in line ends, in how quotes are
//! escaped, in which of two parts of one name counts. So a form is refused where another
//! reader might find other parts in it. The bytes of a body are never changed.

mod stream;

use memchr::memmem;

pub use self::stream::{FormEvent, FormReader};

/// The most parts of a form; OpenAI's largest has 16 images and some 20 fields.
const PARTS_MAX: usize = 256;
/// The longest head of a part, in bytes.
const HEAD_BYTES_MAX: usize = 4 << 10;
/// The longest boundary (RFC 2046, 5.1.1).
const BOUNDARY_BYTES_MAX: usize = 70;

/// One part of a form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// The name of the field.
    pub name: &'a str,
    /// The name of the file, if it has one.
    pub file_name: Option<&'a str>,
    /// The content.
    pub data: &'a [u8],
}

/// Why a form can't be read, or could be read in two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// The header `Content-Type` names no usable boundary.
    #[error(
        "its Content-Type needs one boundary, of 1 to 70 letters, digits and the characters '()+_,-./:=?"
    )]
    Boundary,
    /// The body does not begin with its boundary.
    #[error("it does not begin with the boundary that its Content-Type names")]
    Start,
    /// The boundary stands where no part begins or ends.
    #[error("the boundary stands within a part, or its line is not well formed")]
    InsidePart,
    /// The last boundary is missing, or something follows it.
    #[error("its last boundary is missing, or something follows it")]
    End,
    /// The head of a part is not well formed.
    #[error(
        "the head of a part is not well formed: it needs a Content-Disposition of form-data with one plain name"
    )]
    Head,
    /// A part holds further parts, or is encoded.
    #[error("a part that holds further parts, or has a Content-Transfer-Encoding, is not taken")]
    Nested,
    /// There are too many parts.
    #[error("it has more than 256 parts")]
    TooManyParts,
}

/// The boundary of a form, by its content type; `None` if it isn't that of a form.
///
/// ```
/// use spendguard::protocol::multipart::boundary;
/// assert_eq!(boundary("multipart/form-data; boundary=x7"), Some(Ok("x7")));
/// assert_eq!(boundary("application/json"), None);
/// assert!(boundary("multipart/form-data").is_some_and(|found| found.is_err()));
/// ```
pub fn boundary(content_type: &str) -> Option<Result<&str, FormError>> {
    let (kind, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
    let is_form = kind.trim().eq_ignore_ascii_case("multipart/form-data");
    is_form.then(|| {
        // A second parameter might be another boundary to another reader.
        let (name, value) = parameters.trim().split_once('=').ok_or(FormError::Boundary)?;
        let value = value.strip_prefix('"').map_or(Some(value), |rest| rest.strip_suffix('"'));
        // Of the characters that RFC 2046 allows, some end a boundary to some readers.
        let is_written = |byte: u8| byte.is_ascii_alphanumeric() || b"'+_-.".contains(&byte);
        let fits =
            |value: &&str| (1..=BOUNDARY_BYTES_MAX).contains(&value.len()) && value.bytes().all(is_written);
        value.filter(|_| name.eq_ignore_ascii_case("boundary")).filter(fits).ok_or(FormError::Boundary)
    })
}

/// The parts of a form, in their order.
pub fn parts<'a>(body: &'a [u8], boundary: &str) -> Result<Vec<Part<'a>>, FormError> {
    let dashed = format!("--{boundary}");
    let mut rest = body.strip_prefix(dashed.as_bytes()).ok_or(FormError::Start)?;
    let mut parts = Vec::new();
    let finder = memmem::Finder::new(&dashed);
    loop {
        if let Some(end) = rest.strip_prefix(b"--") {
            return if matches!(end, b"" | b"\r\n") { Ok(parts) } else { Err(FormError::End) };
        }
        if parts.len() == PARTS_MAX {
            return Err(FormError::TooManyParts);
        }
        let part = rest.strip_prefix(b"\r\n").ok_or(FormError::InsidePart)?;
        // Wherever the boundary stands, some reader may end the part there.
        let end = finder.find(part).ok_or(FormError::End)?;
        let whole = part[..end].strip_suffix(b"\r\n").ok_or(FormError::InsidePart)?;
        parts.push(part_of(whole)?);
        rest = &part[end + dashed.len()..];
    }
}

/// A part by its bytes, head and content.
fn part_of(bytes: &[u8]) -> Result<Part<'_>, FormError> {
    let end = memmem::find(bytes, b"\r\n\r\n").filter(|end| *end <= HEAD_BYTES_MAX);
    let end = end.ok_or(FormError::Head)?;
    let (head, data) = (&bytes[..end], &bytes[end + 4..]);
    let head = std::str::from_utf8(head).map_err(|_| FormError::Head)?;
    let (name, file_name) = named(head)?;
    Ok(Part { name, file_name, data })
}

/// The names of the field and of the file in the head of a part.
fn named(head: &str) -> Result<(&str, Option<&str>), FormError> {
    let mut disposition = None;
    for line in head.split("\r\n") {
        // Neither a lone line end nor a line that goes on with the next one.
        if line.contains(['\r', '\n', '\0']) || line.starts_with([' ', '\t']) {
            return Err(FormError::Head);
        }
        let (name, value) = line.split_once(':').ok_or(FormError::Head)?;
        let value = value.trim_matches([' ', '\t']);
        match name.to_ascii_lowercase().as_str() {
            "content-disposition" if disposition.is_none() => disposition = Some(value),
            "content-disposition" => return Err(FormError::Head),
            "content-transfer-encoding" => return Err(FormError::Nested),
            "content-type" if value.to_ascii_lowercase().starts_with("multipart/") => {
                return Err(FormError::Nested);
            }
            name if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') => {}
            _ => return Err(FormError::Head),
        }
    }
    disposition.and_then(parameters).ok_or(FormError::Head)
}

/// The parameters `name` and `filename` of `form-data`; `None` where a reader could find
/// others.
fn parameters(disposition: &str) -> Option<(&str, Option<&str>)> {
    let mut rest = disposition.strip_prefix("form-data")?;
    let (mut field, mut file) = (None, None);
    while !rest.is_empty() {
        rest = rest.strip_prefix(';')?.trim_start_matches([' ', '\t']);
        let (name, value) = rest.split_once('=')?;
        let (text, after) = if let Some(quoted) = value.strip_prefix('"') {
            // A quote that is escaped ends the text for one reader and not for another.
            quoted.split_once('"').filter(|(text, _)| !text.contains('\\'))?
        } else {
            let (text, after) = value.split_at(value.find(';').unwrap_or(value.len()));
            (Some(text).filter(|text| text.bytes().all(is_token))?, after)
        };
        match name {
            "name" if field.is_none() && is_plain(text) => field = Some(text),
            "filename" if file.is_none() => file = Some(text),
            // The same name once more, in another encoding: only beside the first.
            "filename*" if file.is_some() => {}
            _ => return None,
        }
        rest = after;
    }
    Some((field?, file))
}

/// Whether a byte may stand in a value without quotes, to every reader.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'+' | b'\'' | b'%' | b'[' | b']')
}

/// Whether all readers take a name for the same one.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'%')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FORM: &str = "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n\
                        --b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a; name=x.wav\"\r\n\
                        Content-Type: audio/wav\r\n\r\nRIFF\r\n\r\n--\r\n--b--\r\n";

    /// One part with this head, and with this content.
    fn one(head: &str, data: &str) -> Result<Vec<(String, Vec<u8>)>, FormError> {
        let body = format!("--b\r\n{head}\r\n\r\n{data}\r\n--b--");
        let found = parts(body.as_bytes(), "b")?;
        Ok(found.into_iter().map(|part| (part.name.to_owned(), part.data.to_vec())).collect())
    }

    #[test]
    fn a_form_is_read_as_its_clients_write_it() {
        let found = parts(FORM.as_bytes(), "b").unwrap();
        assert_eq!(found[0], Part { name: "model", file_name: None, data: b"whisper-1" });
        assert_eq!(
            found[1],
            Part { name: "file", file_name: Some("a; name=x.wav"), data: b"RIFF\r\n\r\n--" }
        );
        assert_eq!(found.len(), 2);
        let without_last_line_end = FORM.strip_suffix("\r\n").unwrap();
        assert_eq!(parts(without_last_line_end.as_bytes(), "b").unwrap().len(), 2);
        assert_eq!(parts(b"--b--\r\n", "b"), Ok(Vec::new()));
        let unquoted =
            one("content-disposition:form-data;name=n;filename=a;filename*=utf-8''a%20b", "").unwrap();
        assert_eq!(unquoted, [("n".to_owned(), Vec::new())]);
        let list = one("Content-Disposition: form-data; name=\"image[]\"; filename=\"ä.png\"", "x").unwrap();
        assert_eq!(list[0].0, "image[]");
    }

    #[test]
    fn what_two_readers_might_take_apart_differently_is_refused() {
        let head = "Content-Disposition: form-data; name=\"n\"";
        assert_eq!(one(head, "ok").unwrap().len(), 1);
        for (data, error) in [
            ("a\n--b\nContent-Disposition: form-data; name=\"n\"\n\n9", FormError::InsidePart),
            ("a--b", FormError::InsidePart),
            ("a\r\n--bc", FormError::InsidePart),
            ("a\r\n--b \r\nx", FormError::InsidePart),
            ("a\r\n--b--\r\nx", FormError::End),
        ] {
            assert_eq!(one(head, data), Err(error), "{data:?}");
        }
        for (head, error) in [
            ("Content-Type: text/plain", FormError::Head),
            ("Content-Disposition: attachment; name=\"n\"", FormError::Head),
            ("Content-Disposition: form-data", FormError::Head),
            ("Content-Disposition: form-data; name=\"\"", FormError::Head),
            ("Content-Disposition: form-data; name=\"n\"; name=\"m\"", FormError::Head),
            ("Content-Disposition: form-data; name*=utf-8''n", FormError::Head),
            ("Content-Disposition: form-data; name=\"n\\\"; filename=\"x\"", FormError::Head),
            ("Content-Disposition: form-data; name=\"%6eodel\"", FormError::Head),
            ("Content-Disposition: form-data; filename=\"a\\\"; name=\\\"n\"; name=\"m\"", FormError::Head),
            ("Content-Disposition: form-data; name=\"n\"; filename*=utf-8''x", FormError::Head),
            ("Content-Disposition: form-data; name=n\"", FormError::Head),
            ("Content-Disposition: form-data; filename*=a\"; name=n", FormError::Head),
            ("Content-Disposition: form-data;\r\n name=\"n\"", FormError::Head),
            (
                "Content-Disposition: form-data; name=\"n\"\r\nContent-Disposition: form-data; name=\"m\"",
                FormError::Head,
            ),
            ("Content-Disposition: form-data; name=\"n\"\nX: y", FormError::Head),
            (
                "Content-Disposition: form-data; name=\"n\"\r\nContent-Transfer-Encoding: base64",
                FormError::Nested,
            ),
            (
                "Content-Disposition: form-data; name=\"n\"\r\nContent-Type: Multipart/Mixed; boundary=c",
                FormError::Nested,
            ),
        ] {
            assert_eq!(one(head, "x"), Err(error), "{head:?}");
        }
        assert_eq!(parts(b"preamble\r\n--b--", "b"), Err(FormError::Start));
        assert_eq!(parts(b"\r\n--b--", "b"), Err(FormError::Start));
        assert_eq!(
            parts(b"--b\r\nContent-Disposition: form-data; name=\"n\"\r\n\r\nx", "b"),
            Err(FormError::End)
        );
        assert_eq!(parts(b"--b--\r\nmore", "b"), Err(FormError::End));
        assert_eq!(parts(b"--b\r\n\r\nx\r\n--b--", "b"), Err(FormError::Head));
    }

    #[test]
    fn parts_and_heads_have_a_bound() {
        let part = "--b\r\nContent-Disposition: form-data; name=\"n\"\r\n\r\n\r\n";
        let form = |count| format!("{}--b--", part.repeat(count));
        assert_eq!(parts(form(PARTS_MAX).as_bytes(), "b").unwrap().len(), PARTS_MAX);
        assert_eq!(parts(form(PARTS_MAX + 1).as_bytes(), "b"), Err(FormError::TooManyParts));
        let long =
            format!("Content-Disposition: form-data; name=\"n\"\r\nX-Y: {}", "z".repeat(HEAD_BYTES_MAX));
        assert_eq!(one(&long, "x"), Err(FormError::Head));
    }

    #[test]
    fn a_boundary_is_one_plain_parameter() {
        let read = |text| boundary(text).unwrap();
        assert_eq!(read("Multipart/Form-Data; Boundary=\"--x.1'\""), Ok("--x.1'"));
        for wrong in [
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=a; boundary=b",
            "multipart/form-data; charset=utf-8; boundary=a",
            "multipart/form-data; boundary=\"a",
            "multipart/form-data; boundary*=utf-8''a",
            "multipart/form-data; boundary=a b",
            "multipart/form-data; boundary=a,b",
            "multipart/form-data; boundary=\"a=b\"",
        ] {
            assert_eq!(read(wrong), Err(FormError::Boundary), "{wrong}");
        }
        assert_eq!(boundary("multipart/mixed; boundary=a"), None);
        let long = format!("multipart/form-data; boundary={}", "a".repeat(BOUNDARY_BYTES_MAX + 1));
        assert_eq!(read(&long), Err(FormError::Boundary));
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_is_read(fields in proptest::collection::vec(("[a-z_\\[\\]]{1,9}", "[a\r\n-]{0,20}"), 0..5)) {
            let part = |(name, data): &(String, String)| {
                format!("--bb\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{data}\r\n")
            };
            let body = fields.iter().map(part).collect::<String>() + "--bb--\r\n";
            let found = parts(body.as_bytes(), "bb").unwrap();
            let found: Vec<_> = found.iter().map(|part| (part.name.to_owned(), String::from_utf8(part.data.to_vec()).unwrap())).collect();
            prop_assert_eq!(found, fields);
        }
    }
}
