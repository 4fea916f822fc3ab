//! The declared kind of a file in the body, by its name and its media type.
//!
//! It is not documented whether the name, the type or the bytes decide how upstream
//! reads a file. So a file is measured as its declared kind only if nothing
//! contradicts that.

use crate::domain::demand::DocumentKind;
use crate::media;
use crate::protocol::openai::json::Raw;

/// The longest head of a data URL that is read, in bytes.
const HEAD_BYTES_MAX: usize = 256;

/// The kind of a file: `data` is its string as it stands in the body.
pub(super) fn kind(data: &str, filename: Raw<'_>) -> DocumentKind {
    match (by_name(filename), by_type(data)) {
        (None, None) => DocumentKind::Pdf,
        (Some(kind), None) | (None, Some(kind)) => kind,
        (Some(named), Some(typed)) if named == typed => named,
        (Some(_), Some(_)) => DocumentKind::Other,
    }
}

fn by_name(filename: Raw<'_>) -> Option<DocumentKind> {
    let name = filename.value().map(|_| filename.string().unwrap_or_default().to_ascii_lowercase())?;
    let (_, extension) = name.rsplit_once('.')?;
    Some(match extension {
        "pdf" => DocumentKind::Pdf,
        "txt" | "text" | "md" | "markdown" | "json" | "xml" | "html" | "htm" | "log" | "yaml" | "yml" => {
            DocumentKind::Text
        }
        _ => DocumentKind::Other,
    })
}

fn by_type(data: &str) -> Option<DocumentKind> {
    if !media::is_data_url(data) {
        return None;
    }
    let head = data.split_once(',').map(|(head, _)| head).filter(|head| head.len() <= HEAD_BYTES_MAX);
    let Some(head) = head.and_then(|head| serde_json::from_str::<String>(&format!("{head}\"")).ok()) else {
        return Some(DocumentKind::Other);
    };
    let head = head.to_ascii_lowercase();
    let named = head.trim_start_matches("data:").split(';').next().unwrap_or_default().trim();
    match named {
        // These name no kind.
        "" | "application/octet-stream" => None,
        "application/pdf" => Some(DocumentKind::Pdf),
        "application/json" | "application/xml" => Some(DocumentKind::Text),
        // OpenAI adds text of its own to a table.
        "text/csv" | "text/tsv" | "text/tab-separated-values" => Some(DocumentKind::Other),
        text if text.starts_with("text/") => Some(DocumentKind::Text),
        _ => Some(DocumentKind::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_what_its_name_and_its_type_agree_on() {
        use DocumentKind::{Other, Pdf, Text};
        for (filename, data, expected) in [
            ("null", r#""JVBE""#, Pdf),
            (r#""a.PDF""#, r#""data:application/pdf;base64,JVBE""#, Pdf),
            (r#""a""#, r#""data:application\/pdf;base64,JVBE""#, Pdf),
            (r#""a.pdf""#, r#""data:application/octet-stream;base64,JVBE""#, Pdf),
            (r#""a.txt""#, r#""JVBE""#, Text),
            (r#""a.txt""#, r#""DATA:Text/Plain; charset=utf-8;base64,JVBE""#, Text),
            (r#""a.csv""#, r#""data:text/csv;base64,JVBE""#, Other),
            (r#""a.txt""#, r#""data:application/pdf;base64,JVBE""#, Other),
            (r#""a.pdf""#, r#""data:text/plain;base64,JVBE""#, Other),
            (r#""a.docx""#, r#""JVBE""#, Other),
            ("null", r#""data:application/msword;base64,JVBE""#, Other),
            ("null", r#""data:no comma""#, Other),
            ("7", r#""JVBE""#, Pdf),
        ] {
            let filename = serde_json::from_str(filename).unwrap();
            assert_eq!(kind(data, filename), expected, "{data}");
        }
    }
}
