//! Ways to write the same JSON: escapes, white space, the order of members.

use serde_json::Value;

use crate::chance::Chance;

/// How strangely a text is spelled.
#[derive(Clone, Copy)]
struct Spelling {
    /// Characters in a hundred that are escaped though they need not be.
    escaped_percent: u64,
    /// Whether slashes are escaped, as PHP does.
    slashes: bool,
    /// Whether there is white space.
    spaces: bool,
}

/// Writes a value as one of its many spellings.
pub fn spell(chance: &mut Chance, value: &Value) -> String {
    let spelling = Spelling {
        escaped_percent: chance.one(&[0, 0, 0, 0, 1, 100]),
        slashes: chance.percent(15),
        spaces: chance.percent(15),
    };
    let mut text = String::new();
    write(chance, spelling, value, &mut text);
    text
}

fn write(chance: &mut Chance, spelling: Spelling, value: &Value, text: &mut String) {
    let space = |text: &mut String| text.push_str(if spelling.spaces { "\n\t " } else { "" });
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => text.push_str(&value.to_string()),
        Value::String(string) => quote(chance, spelling, string, text),
        Value::Array(items) => {
            text.push('[');
            for (at, item) in items.iter().enumerate() {
                text.push_str(if at > 0 { "," } else { "" });
                space(text);
                write(chance, spelling, item, text);
            }
            text.push(']');
        }
        Value::Object(members) => {
            text.push('{');
            let mut members: Vec<_> = members.iter().collect();
            if members.len() > 1 {
                let turn = chance.index(members.len());
                members.rotate_left(turn);
            }
            for (at, (key, member)) in members.into_iter().enumerate() {
                text.push_str(if at > 0 { "," } else { "" });
                space(text);
                quote(chance, spelling, key, text);
                text.push(':');
                space(text);
                write(chance, spelling, member, text);
            }
            text.push('}');
        }
    }
}

fn quote(chance: &mut Chance, spelling: Spelling, string: &str, text: &mut String) {
    // What is long is escaped at its beginning only: a file's bytes need not all be sixfold.
    let mut escapes_left = 4_000;
    text.push('"');
    for character in string.chars() {
        let is_escaped = escapes_left > 0
            && spelling.escaped_percent > 0
            && (spelling.escaped_percent == 100 || chance.percent(spelling.escaped_percent));
        match character {
            _ if is_escaped || character < ' ' => {
                escapes_left -= 1;
                let mut units = [0; 2];
                for unit in character.encode_utf16(&mut units) {
                    text.push_str(&format!("\\u{unit:04x}"));
                }
            }
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '/' if spelling.slashes => text.push_str("\\/"),
            other => text.push(other),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_spelling_reads_the_same() {
        let value = json!({ "a\"\\/": ["é😀\n", 1, null, { "b": true }], "c": "data:image/png;base64,AA/+" });
        for seed in 0..200 {
            let text = spell(&mut Chance::of_seed(seed), &value);
            assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), value, "{text}");
        }
    }
}
