//! Transcribes a form into JSON, so that one reader serves both forms of a body.
//!
//! A field that stands twice, or under a name that upstream could take for another one,
//! is refused, and so is a file where a text belongs: another reader might find another
//! value.

use serde_json::{Map, Value};

use super::{Invalid, InvalidKind};
use crate::protocol::multipart::{self, Part};

/// The most bytes of all texts of a form. A prompt has 32,000 characters at the most, and four
/// voices of ten seconds, as data URLs, are some 3 MiB.
const TEXT_BYTES_MAX: usize = 4 << 20;

/// The fields of a form that are not text.
pub(in crate::protocol::openai) struct FormRules {
    /// Those that hold numbers.
    pub(in crate::protocol::openai) numbers: &'static [&'static str],
    /// Those that hold true or false.
    pub(in crate::protocol::openai) flags: &'static [&'static str],
    /// Those that hold a file, or several.
    pub(in crate::protocol::openai) files: &'static [&'static str],
}

/// A form, its texts as a JSON object.
pub(in crate::protocol::openai) struct Form<'a> {
    /// The object: `a[]` are the elements of a list `a`, `a[b]` the member `b` of `a`.
    pub(in crate::protocol::openai) json: String,
    /// The files, each with the name of its field, without `[]`.
    pub(in crate::protocol::openai) files: Vec<(&'a str, &'a [u8])>,
}

/// Reads a form.
pub(in crate::protocol::openai) fn read<'a>(
    rules: &FormRules,
    body: &'a [u8],
    boundary: &str,
) -> Result<Form<'a>, Invalid> {
    let parts = multipart::parts(body, boundary).map_err(|error| Invalid::form(&error.to_string()))?;
    let texts = parts.iter().filter(|part| part.file_name.is_none()).map(|part| part.data.len());
    if texts.sum::<usize>() > TEXT_BYTES_MAX {
        return Err(Invalid::form("its text fields have more than 4 MiB"));
    }
    let (mut object, mut files) = (Map::new(), Vec::new());
    for part in parts {
        let (field, place) =
            place(part.name).ok_or_else(|| Invalid::form_field(part.name, "it has no such name"))?;
        if part.file_name.is_some() {
            if !rules.files.contains(&field) || matches!(place, Place::Member(_)) {
                return Err(Invalid::form_field(part.name, "it is not taken as a file"));
            }
            files.push((field, part.data));
            continue;
        }
        let value = rules.value(field, part)?;
        let is_new = match place {
            Place::Whole => object.insert(field.to_owned(), value).is_none(),
            Place::Element => {
                let list = object.entry(field).or_insert_with(|| Value::Array(Vec::new()));
                list.as_array_mut().map(|list| list.push(value)).is_some()
            }
            Place::Member(_) if rules.files.contains(&field) => {
                return Err(Invalid::form_field(part.name, "it has no members"));
            }
            Place::Member(member) => {
                let members = object.entry(field).or_insert_with(|| Value::Object(Map::new()));
                members
                    .as_object_mut()
                    .is_some_and(|members| members.insert(member.to_owned(), value).is_none())
            }
        };
        if !is_new {
            return Err(Invalid::form_field(part.name, "it stands more than once"));
        }
    }
    Ok(Form { json: Value::Object(object).to_string(), files })
}

/// What the name of a part says of its value.
enum Place<'a> {
    /// It is the field's.
    Whole,
    /// It is one of a list.
    Element,
    /// It is that of a member.
    Member(&'a str),
}

/// The field of a name, and the place of the value in it; `None` for any other use of brackets.
fn place(name: &str) -> Option<(&str, Place<'_>)> {
    let Some((field, rest)) = name.split_once('[') else {
        return (!name.contains(']')).then_some((name, Place::Whole));
    };
    let inside = rest.strip_suffix(']').filter(|inside| !inside.contains(['[', ']']))?;
    Some((field, if inside.is_empty() { Place::Element } else { Place::Member(inside) }))
}

impl FormRules {
    /// The value of a text part. A number and a flag are written as JSON has them, so that
    /// every other spelling is refused where they are read.
    fn value(&self, field: &str, part: Part<'_>) -> Result<Value, Invalid> {
        let not_text = |_| Invalid::form_field(part.name, "it is not valid UTF-8");
        let text = std::str::from_utf8(part.data).map_err(not_text)?;
        let is_of = |known: &[&str]| known.contains(&field);
        let is_plain =
            text == "0" || (!text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit()));
        let number = text.parse::<u64>().ok().filter(|_| is_plain && is_of(self.numbers)).map(Value::from);
        let flag = text.parse::<bool>().ok().filter(|_| is_of(self.flags)).map(Value::from);
        Ok(number.or(flag).unwrap_or_else(|| Value::String(text.to_owned())))
    }
}

impl Invalid {
    pub(super) fn form(why: &str) -> Self {
        let message = format!("We could not read the form in the body of your request: {why}.");
        Self { message, param: None, kind: InvalidKind::Malformed }
    }

    fn form_field(name: &str, why: &str) -> Self {
        let name: String = name.chars().take(64).collect();
        Self::form(&format!("of the field '{name}', {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: FormRules = FormRules { numbers: &["n"], flags: &["stream"], files: &["image"] };

    /// A form of these parts; one whose name ends in `@` is a file.
    fn form(parts: &[(&str, &str)]) -> Vec<u8> {
        let part = |(name, data): &(&str, &str)| {
            let file = if name.ends_with('@') { "; filename=\"f\"" } else { "" };
            let name = name.trim_end_matches('@');
            format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n{data}\r\n")
        };
        (parts.iter().map(part).collect::<String>() + "--b--\r\n").into_bytes()
    }

    fn json(parts: &[(&str, &str)]) -> Result<String, String> {
        read(&RULES, &form(parts), "b").map(|form| form.json).map_err(|invalid| invalid.message)
    }

    #[test]
    fn texts_become_members_and_files_stay_apart() {
        let body = form(&[("model", "m"), ("image[]@", "one"), ("image[]@", "two"), ("image@", "three")]);
        let found = read(&RULES, &body, "b").unwrap();
        assert_eq!(found.json, r#"{"model":"m"}"#);
        assert_eq!(found.files, [("image", &b"one"[..]), ("image", b"two"), ("image", b"three")]);
        let texts =
            [("include[]", "a"), ("include[]", "b"), ("svg[model]", "x"), ("n", "2"), ("stream", "true")];
        let expected = r#"{"include":["a","b"],"n":2,"stream":true,"svg":{"model":"x"}}"#;
        assert_eq!(json(&texts).unwrap(), expected);
        let other_spellings = [("n", "2.0"), ("stream", "True"), ("model", "3")];
        assert_eq!(json(&other_spellings).unwrap(), r#"{"model":"3","n":"2.0","stream":"True"}"#);
    }

    #[test]
    fn a_value_that_could_be_another_one_is_refused() {
        for parts in [
            &[("model", "a"), ("model", "b")][..],
            &[("model", "a"), ("model[]", "b")],
            &[("model[]", "a"), ("model", "b")],
            &[("svg[model]", "a"), ("svg[model]", "b")],
            &[("svg", "a"), ("svg[model]", "b")],
            &[("svg[model", "a")],
            &[("svg]", "a")],
            &[("svg[a][b]", "a")],
            &[("n@", "9")],
            &[("image[0]", "https://x/1"), ("image[1]", "https://x/2")],
            &[("image[0]@", "9")],
        ] {
            assert!(json(parts).is_err(), "{parts:?}");
        }
        let body = b"--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n\xff\r\n--b--";
        assert!(read(&RULES, body, "b").is_err(), "not UTF-8");
    }
}
