//! Paths that are not served, but look like one that is: the base URL is wrong.
//!
//! A client whose base URL has `/v1` twice, too many slashes, or a whole endpoint in
//! it asks for a path that upstream doesn't have either. Such a path must not be
//! opened by the operator: a server that is more lenient would read the metered one.

use http::Method;
use percent_encoding::percent_decode_str;

use crate::protocol::openai::endpoint::{classify, suffix};
use crate::protocol::openai::operation::OPERATIONS;

/// The ends of base URLs, correct or wrong.
const BASE_SEGMENTS: [&str; 3] = ["v1", "api", "openai"];

/// Whether a path that is not served is a misspelling of one that is.
///
/// ```
/// use spendguard::protocol::openai::endpoint::is_misspelt;
/// assert!(is_misspelt(&http::Method::POST, "/v1/v1/chat/completions"));
/// assert!(!is_misspelt(&http::Method::POST, "/v1/images/variations"));
/// ```
pub fn is_misspelt(method: &Method, path: &str) -> bool {
    let spelt = spelt(path);
    // Ids are case-sensitive, so the lower-case path is not compared with the requested one.
    classify(method, after_a_whole_endpoint(&spelt)).is_some()
}

/// A path as a lenient server may read it, in lower case and without what base URLs
/// end in.
pub(super) fn spelt(path: &str) -> String {
    let decoded = percent_decode_str(path).decode_utf8_lossy().to_ascii_lowercase();
    let mut segments = decoded.split('/').filter(|segment| !segment.is_empty() && *segment != ".");
    let mut spelt = String::new();
    if let Some(first) = segments.find(|segment| !BASE_SEGMENTS.contains(segment)) {
        for segment in std::iter::once(first).chain(segments) {
            spelt.push('/');
            spelt.push_str(segment);
        }
    }
    spelt
}

/// The rest of a path whose base URL was a whole endpoint, as in
/// `/chat/completions/chat/completions`.
fn after_a_whole_endpoint(path: &str) -> &str {
    let rest = OPERATIONS.into_iter().find_map(|operation| {
        let rest = path.strip_prefix(suffix(operation.path))?;
        OPERATIONS.into_iter().any(|operation| suffix(operation.path) == rest).then_some(rest)
    });
    rest.unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_base_url_is_distinguished_from_a_path_that_does_not_exist() {
        for path in [
            "/v1/v1/chat/completions",
            "//v1/chat/completions",
            "/v1//chat/completions",
            "/v1/chat//completions",
            "/v1/chat/completions/",
            "/api/v1/chat/completions",
            "/api/chat/completions",
            "/openai/v1/v1/chat/completions",
            "/V1/chat/completions",
            "/v1/Chat/Completions",
            "/v1/%63hat/completions",
            "/v1%2Fchat/completions",
            "/./v1/chat/completions",
            "/v1/chat/completions/chat/completions",
            "/v1/chat/completions/responses",
            "/v1/embeddings//",
            "/v1/v1/responses",
        ] {
            assert!(is_misspelt(&Method::POST, path), "{path}");
        }
        for path in ["/v1/v1/models", "/v1/models/", "//v1/responses/resp_1"] {
            assert!(is_misspelt(&Method::GET, path), "{path}");
        }
        for path in
            ["/v1/images/variations", "/v1/engines/davinci/completions", "/chat", "/v1", "/", "/v1/../v1/x"]
        {
            assert!(!is_misspelt(&Method::POST, path), "{path}");
        }
    }
}
