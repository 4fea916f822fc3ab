//! Rows in the text format of PostgreSQL's `COPY`: a line for each, its values apart by tabs.

use crate::store::sql::batch::Kept;
use crate::store::sql::postgres::storable;

/// The text of rows.
pub(super) fn of(rows: &[Vec<Kept>]) -> String {
    let mut text = String::new();
    for row in rows {
        for (at, value) in row.iter().enumerate() {
            if at > 0 {
                text.push('\t');
            }
            push(&mut text, value);
        }
        text.push('\n');
    }
    text
}

fn push(text: &mut String, value: &Kept) {
    match value {
        Kept::Null => text.push_str("\\N"),
        Kept::Int(number) => text.push_str(&number.to_string()),
        Kept::Text(value) => push_escaped(text, &storable(value)),
        Kept::Blob(bytes) => {
            text.push_str("\\\\x");
            for byte in bytes {
                text.push_str(&format!("{byte:02x}"));
            }
        }
    }
}

fn push_escaped(text: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '\t' => text.push_str("\\t"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_separates_rows_and_values_is_escaped_within_a_value() {
        let text = |value: &str| Kept::Text(value.to_owned());
        let rows = [
            vec![Kept::Int(-7), Kept::Null, text("")],
            vec![text("\\N\ta\nb\r"), text("a\0b"), Kept::Blob(vec![0, 255])],
        ];
        assert_eq!(of(&rows), "-7\t\\N\t\n\\\\N\\ta\\nb\\r\ta\u{2400}b\t\\\\x00ff\n");
    }
}
