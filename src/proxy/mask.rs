//! Masking the names of accounts and keys in texts, whole or in parts.

use std::fmt;

use bytes::Bytes;
use memchr::memmem;

use crate::protocol::openai::account;

/// The prefixes of names of accounts and keys.
const BEGINNINGS: [&[u8]; 4] = [b"org-", b"proj_", b"sk-", b"sess-"];
/// Replaces the rest of a masked name.
const MASK: &[u8] = b"***";
/// The longest name that is waited for when it is cut in two by the end of a part.
const NAME_BYTES_MAX: usize = 512;

/// A whole answer, with the account masked.
pub(super) fn masked_within(answer: Bytes, upstream_key: &str) -> Bytes {
    let texts = account::texts(&answer);
    if texts.is_empty() {
        return answer;
    }
    let mut out = Vec::with_capacity(answer.len());
    let mut from = 0;
    for text in texts {
        out.extend_from_slice(&answer[from..text.start]);
        mask(&answer[text.clone()], upstream_key, &mut out);
        from = text.end;
    }
    out.extend_from_slice(&answer[from..]);
    out.into()
}

/// A text in which names of accounts and keys are masked.
pub(super) fn masked(text: &[u8], upstream_key: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    mask(text, upstream_key, &mut out);
    out
}

fn mask(text: &[u8], upstream_key: &str, out: &mut Vec<u8>) {
    let mut rest = text;
    let key = upstream_key.as_bytes();
    while let Some(at) = memmem::find(rest, key).filter(|_| !key.is_empty()) {
        mask_names(&rest[..at], out);
        out.extend_from_slice(MASK);
        rest = &rest[at + key.len()..];
    }
    mask_names(rest, out);
}

fn mask_names(text: &[u8], out: &mut Vec<u8>) {
    let mut at = 0;
    while at < text.len() {
        let is_start = at == 0 || !is_of_name(text[at - 1]) || ends_with_escape(&text[..at]);
        let beginning = BEGINNINGS.iter().find(|beginning| is_start && text[at..].starts_with(beginning));
        let Some(beginning) = beginning else {
            out.push(text[at]);
            at += 1;
            continue;
        };
        let rest = &text[at + beginning.len()..];
        let name = rest.iter().take_while(|byte| is_of_name(**byte)).count();
        out.extend_from_slice(beginning);
        if name > 0 {
            out.extend_from_slice(MASK);
        }
        at += beginning.len() + name;
    }
}

/// Whether a text ends with a line's end or another control character as JSON writes it.
fn ends_with_escape(text: &[u8]) -> bool {
    matches!(text, [.., b'\\', b'b' | b'f' | b'n' | b'r' | b't'])
}

/// OpenAI itself masks keys in errors, except for their ends.
fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_*.".contains(&byte)
}

/// Masks an answer that comes in parts.
pub(super) struct Masker {
    texts: account::Texts,
    key: Box<str>,
    /// The start of a name whose end has not come.
    kept: Vec<u8>,
}

impl fmt::Debug for Masker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Masker").field("texts", &self.texts).finish_non_exhaustive()
    }
}

impl Masker {
    /// A masker of the texts that `texts` finds.
    pub(super) fn new(texts: account::Texts, upstream_key: &str) -> Self {
        Self { texts, key: upstream_key.into(), kept: Vec::new() }
    }

    /// Takes a part; returns the bytes that may be sent to the client now.
    pub(super) fn feed(&mut self, part: Bytes) -> Bytes {
        let texts = self.texts.find(&part);
        if texts.is_empty() && self.kept.is_empty() {
            return part;
        }
        let mut out = Vec::with_capacity(self.kept.len() + part.len());
        if texts.first().is_none_or(|text| text.start > 0) {
            out.append(&mut self.finish());
        }
        let mut from = 0;
        for span in texts {
            out.extend_from_slice(&part[from..span.start]);
            from = span.end;
            let mut text = std::mem::take(&mut self.kept);
            text.extend_from_slice(&part[span]);
            if from == part.len() && self.texts.is_within() {
                self.kept = text.split_off(text.len() - unfinished(&text));
            }
            mask(&text, &self.key, &mut out);
        }
        out.extend_from_slice(&part[from..]);
        out.into()
    }

    /// Returns the bytes that were held back, masked.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        masked(&std::mem::take(&mut self.kept), &self.key)
    }
}

/// How many bytes at the end may be the start of a name or key that goes on.
fn unfinished(text: &[u8]) -> usize {
    let goes_on = |byte: &&u8| !byte.is_ascii_whitespace() && !b"\"'`,;".contains(byte);
    let name = text.iter().rev().take_while(goes_on).count();
    if name <= NAME_BYTES_MAX { name } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        String::from_utf8(masked(text.as_bytes(), "upstream-secret")).unwrap()
    }

    #[test]
    fn accounts_and_keys_in_errors_are_masked_and_nothing_else() {
        for (text, expected) in [
            (
                "Rate limit reached for gpt-4o in organization org-AbC123 on",
                "Rate limit reached for gpt-4o in organization org-*** on",
            ),
            ("Project `proj_X1` does not", "Project `proj_***` does not"),
            ("provided: sk-ab***********wxyz. You", "provided: sk-*** You"),
            ("sk-proj-a_b-c\"}", "sk-***\"}"),
            ("key upstream-secret was", "key *** was"),
            ("a task-list, desk-top, org- and sk-", "a task-list, desk-top, org- and sk-"),
            ("first line\\norg-AbC123", "first line\\norg-***"),
        ] {
            assert_eq!(shown(text), expected);
        }
    }

    fn through(text: &str, step: usize) -> String {
        let mut events = Masker::new(account::Texts::of_any(), "upstream-secret");
        let mut out = Vec::new();
        for part in text.as_bytes().chunks(step) {
            out.extend_from_slice(&events.feed(Bytes::copy_from_slice(part)));
        }
        out.extend_from_slice(&events.finish());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn in_a_stream_only_error_events_are_masked_however_they_are_cut() {
        let usual =
            "data: {\"choices\":[{\"delta\":{\"content\":\"org-chart sk-learn\"}}],\"error\":null}\n\n";
        for (error, shown) in [
            (
                "data: {\"error\":{\"message\":\"in organization org-secret1\"}}\n\n",
                "data: {\"error\":{\"message\":\"in organization org-***\"}}\n\n",
            ),
            (
                "event: error\ndata: {\"message\":\"proj_secret2\",\"type\":\"error\"}\n\n",
                "event: error\ndata: {\"message\":\"proj_***\",\"type\":\"error\"}\n\n",
            ),
            (
                "data: {\"type\":\"response.failed\",\"response\":{\"error\": {\"message\":\"sk-secret3\"",
                "data: {\"type\":\"response.failed\",\"response\":{\"error\": {\"message\":\"sk-***\"",
            ),
        ] {
            let text = format!("{usual}{error}");
            for step in 1..=text.len() {
                assert_eq!(through(&text, step), format!("{usual}{shown}"), "{step}");
            }
            if error.ends_with("\n\n") {
                for step in 1..=text.len() + usual.len() {
                    assert_eq!(
                        through(&format!("{error}{usual}"), step),
                        format!("{shown}{usual}"),
                        "{step}"
                    );
                }
            }
        }
    }
    /// An answer to a request with a function that has a field `error`, and its model's text.
    const ECHOED: &str = concat!(
        r#"{"id":"resp_1","error":null,"tools":[{"type":"function","name":"edit","parameters":{"type":"object","#,
        r#""properties":{"error":{"type":"string","description":"see org-mode"},"organization_id":"org-x"}}}],"#,
        r#""text":{"format":{"type":"json_schema","schema":{"error": {"title":"proj_dir sk-learn"}}}},"#,
        r#""output":[{"type":"mcp_call","error":"proj_dir"},{"type":"function_call","arguments":"edit proj_dir/x.py, "#,
        r#"then org-mode and sk-learn: {\"error\":{\"org-x\":1}}"}],"metadata":{"error":"org-mode"}}"#,
    );

    #[test]
    fn fields_of_the_same_names_that_are_not_upstreams_own_pass_as_they_came() {
        let whole = |text: &str| masked_within(Bytes::copy_from_slice(text.as_bytes()), "upstream-secret");
        assert_eq!(whole(ECHOED), ECHOED);
        let created = format!(
            "event: response.created\ndata: {{\"type\":\"response.created\",\"response\":{ECHOED}}}\n\n"
        );
        for step in [1, 7, 64, created.len()] {
            assert_eq!(through(&created, step), created, "{step}");
        }
        // The error of the same answer is upstream's own.
        let secret = r#""error":{"code":"x","message":"in org-secret1"}"#;
        let failed = ECHOED.replace(r#""error":null"#, secret);
        let shown = failed.replace("org-secret1", "org-***");
        assert_eq!(whole(&failed), shown);
        let event = |response: &str| {
            format!("data: {{\"type\":\"response.failed\",\"response\":{response}}}\r\n\r\n")
        };
        for step in [1, 2, 3, 50, 10_000] {
            assert_eq!(through(&event(&failed), step), event(&shown), "{step}");
        }
    }

    #[test]
    fn every_place_where_upstream_names_its_account_is_masked() {
        for (text, shown) in [
            (
                r#"{"id":"resp_1","error":{"message":"in org-s, sk-a"}}"#,
                r#"{"id":"resp_1","error":{"message":"in org-***, sk-***"}}"#,
            ),
            (
                r#"{"last_error": {"message":"proj_s"} , "x":"proj_dir"}"#,
                r#"{"last_error": {"message":"proj_***"} , "x":"proj_dir"}"#,
            ),
            (
                r#"{"object":"batch","errors":{"data":[{"message":"org-s"},{"message":"org-t"}]},"metadata":{"a":"org-chart"}}"#,
                r#"{"object":"batch","errors":{"data":[{"message":"org-***"},{"message":"org-***"}]},"metadata":{"a":"org-chart"}}"#,
            ),
            (
                r#"{"data":[{"organization_id":"org-s","error":{}},{"organization_id":"org-t","hyperparameters":{"organization_id":"org-x"}}]}"#,
                r#"{"data":[{"organization_id":"org-***","error":{}},{"organization_id":"org-***","hyperparameters":{"organization_id":"org-x"}}]}"#,
            ),
            (r#"{"error":"key upstream-secret"}"#, r#"{"error":"key ***"}"#),
        ] {
            let whole = masked_within(Bytes::copy_from_slice(text.as_bytes()), "upstream-secret");
            assert_eq!(whole, shown);
            for step in 1..=text.len() {
                assert_eq!(through(text, step), shown, "{step}");
            }
        }
    }
}
