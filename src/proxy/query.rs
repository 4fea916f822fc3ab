//! Selects the parameters of a query that are forwarded to upstream.
//!
//! Those that OpenAI's API and its official packages know, as they are written; any
//! other is dropped. A client may have put its key there, and versions of other
//! services' APIs (`api-version`) mean nothing to OpenAI.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::proxy::headers::holds_key;

/// The kind of path that a query belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A metered one, whose cost depends on its body only.
    Metered,
    /// One of a `WebSocket`, which may name the model or the purpose of its session.
    Socket,
    /// A free one.
    Free,
    /// One that the operator forwards unmetered: all parameters except keys are forwarded.
    Allowed,
}

/// The query that upstream gets, if any parameter is forwarded.
pub fn to_upstream(query: &str, kind: Kind, secret: &str) -> Option<String> {
    let mut kept = String::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decoded(name), decoded(value));
        let is_known = match kind {
            Kind::Metered => &*name == "beta",
            Kind::Socket => matches!(&*name, "beta" | "model" | "intent"),
            Kind::Free => is_known(&name),
            Kind::Allowed => true,
        };
        if !is_known || holds_key(name.as_bytes(), secret) || holds_key(value.as_bytes(), secret) {
            continue;
        }
        if !kept.is_empty() {
            kept.push('&');
        }
        kept.push_str(pair);
    }
    (!kept.is_empty()).then_some(kept)
}

/// Whether a parameter is one of OpenAI's: of lists, of a stream that is read again,
/// of contents.
fn is_known(name: &str) -> bool {
    // `include[]` and `metadata[team]` are written by the packages.
    let base = name.split_once('[').map_or(name, |(base, _)| base);
    let of_lists = ["after", "before", "limit", "order", "order_by", "page"];
    let of_streams = ["beta", "include", "include_obfuscation", "starting_after", "stream"];
    let others = ["filter", "metadata", "model", "name", "path", "purpose", "status", "variant"];
    of_lists.contains(&base) || of_streams.contains(&base) || others.contains(&base)
}

fn decoded(text: &str) -> Cow<'_, str> {
    if text.contains(['%', '+']) {
        let spaced = text.replace('+', " ");
        return Cow::Owned(percent_decode_str(&spaced).decode_utf8_lossy().into_owned());
    }
    Cow::Borrowed(text)
}

/// An id, encoded for a query or for a step of a path.
pub fn encoded(id: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    id.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "My API Key";

    fn free(query: &str) -> String {
        to_upstream(query, Kind::Free, SECRET).unwrap_or_default()
    }

    #[test]
    fn parameters_of_the_api_go_on_as_they_are_written() {
        for query in [
            "limit=20&after=resp_1&order=asc",
            "include%5B%5D=file_search_call.results&include[]=x&stream=true&starting_after=4",
            "metadata%5Bteam%5D=search&model=gpt-5&purpose=batch",
            "include_obfuscation=false&beta=true",
        ] {
            assert_eq!(free(query), query);
        }
    }

    #[test]
    fn others_and_keys_stay_behind() {
        assert_eq!(free("api-version=2024-10-21&limit=2&api_key=x&key=y&&"), "limit=2");
        for key in ["My%20API%20Key", "My+API+Key", "sk-guard-1", "%73k-guard-1", "a%26sk-guard-1"] {
            assert_eq!(free(&format!("after={key}&limit=2")), "limit=2", "{key}");
        }
        assert_eq!(free("sk-guard-1"), "");
        let allowed = to_upstream("filter=a&token=sk-guard-1&x=1", Kind::Allowed, SECRET);
        assert_eq!(allowed.as_deref(), Some("filter=a&x=1"));
    }

    #[test]
    fn a_metered_request_has_no_parameters_but_beta() {
        assert_eq!(
            to_upstream("beta=true&stream=true&limit=2", Kind::Metered, SECRET).as_deref(),
            Some("beta=true")
        );
        assert_eq!(to_upstream("background=true", Kind::Metered, SECRET), None);
    }
}
