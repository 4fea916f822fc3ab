//! Any form: a form that the guard takes is the same to a lenient reader.
//!
//! That reader, written apart, takes what readers of forms are known to take: line ends of one
//! byte, text before the first part, names in any case and without quotes, the last of two
//! parts of one name. Where the guard has accepted a form, both find the same fields.
//! The guard's reader of forms that pass finds the same parts, or none, however they are cut.

#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use spendguard::protocol::multipart::{self, FormError, FormEvent, FormReader};
use spendguard::protocol::openai::{Edit, IMAGE_EDITS};

const BOUNDARY: &str = "b";

/// The fields that a lenient reader finds, the last of each name, and how many files.
fn leniently(body: &[u8]) -> (BTreeMap<String, Vec<u8>>, usize) {
    let (mut fields, mut files) = (BTreeMap::new(), 0);
    let text = String::from_utf8_lossy(body).into_owned();
    // A delimiter is at the start of a line, whatever ends the line before.
    let lined = text.replace("\r\n", "\n").replace('\r', "\n");
    let marked = format!("\n{lined}");
    for part in marked.split("\n--b").skip(1) {
        if part.starts_with("--") {
            break;
        }
        let part = part.split_once('\n').map_or("", |(_, rest)| rest);
        let (head, data) = part.split_once("\n\n").unwrap_or((part, ""));
        let Some(disposition) =
            head.lines().rfind(|line| line.to_ascii_lowercase().starts_with("content-disposition"))
        else {
            continue;
        };
        let value = |key: &str| {
            let lower = disposition.to_ascii_lowercase();
            let start =
                lower.find(&format!(" {key}=")).or_else(|| lower.find(&format!(";{key}=")))? + key.len() + 2;
            let rest = &disposition[start..];
            let quoted = rest.strip_prefix('"').and_then(|rest| rest.split('"').next());
            Some(quoted.unwrap_or_else(|| rest.split(';').next().unwrap_or_default()).to_owned())
        };
        let Some(name) = value("name") else { continue };
        if value("filename").is_some() {
            files += 1;
        } else {
            fields.insert(name, data.as_bytes().to_vec());
        }
    }
    (fields, files)
}

/// The names of the parts and their content, where the form comes in pieces of `size` bytes.
fn in_pieces(body: &[u8], size: usize) -> Result<Vec<(String, bool, Vec<u8>)>, FormError> {
    let (mut parts, mut reader) = (Vec::new(), FormReader::new(BOUNDARY));
    for piece in body.chunks(size) {
        reader.feed(piece, |event| match event {
            FormEvent::Part { name, file_name } => {
                parts.push((name.to_owned(), file_name.is_some(), Vec::new()));
            }
            FormEvent::Data(data) => parts.last_mut().expect("a part has begun").2.extend_from_slice(data),
            FormEvent::End => {}
        })?;
    }
    reader.finish()?;
    Ok(parts)
}

/// The same of the whole form.
fn in_whole(body: &[u8]) -> Result<Vec<(String, bool, Vec<u8>)>, FormError> {
    let parts = multipart::parts(body, BOUNDARY)?;
    Ok(parts
        .iter()
        .map(|part| (part.name.to_owned(), part.file_name.is_some(), part.data.to_vec()))
        .collect())
}

fuzz_target!(|body: &[u8]| {
    let whole = in_whole(body);
    for size in [1, 2 + body.len() % 61, body.len().max(1)] {
        let pieces = in_pieces(body, size);
        // A head is judged as soon as it is read, and in a whole form once its part has ended.
        assert!(pieces == whole || pieces.is_err() && whole.is_err(), "{pieces:?} and {whole:?}");
    }
    let Some(Ok(request)) = IMAGE_EDITS.read_form(body, BOUNDARY) else { return };
    // It passes as it came, whatever is in it.
    assert_eq!(request.rewrite(body, &Edit { output_max: Some(1), ..Edit::default() }), None);
    let demand = request.demand;
    let parts = multipart::parts(body, BOUNDARY).expect("it was read");
    let (fields, files) = leniently(body);
    let found = |name: &str| fields.get(name).map(|data| String::from_utf8_lossy(data).into_owned());
    // Lines end in one way to that reader.
    let model = demand.model.replace("\r\n", "\n").replace('\r', "\n");
    assert_eq!(found("model").as_deref(), Some(&*model));
    assert_eq!(found("n").map_or(Ok(1), |n| n.parse()), Ok(demand.choices));
    assert_eq!(found("stream").as_deref() == Some("true"), demand.stream);
    assert_eq!(found("svg[model]").is_some(), demand.svg_model.is_some());
    assert_eq!(files, parts.iter().filter(|part| part.file_name.is_some()).count());
    assert!(demand.media.images.len() >= files);
});
