//! What an operator may open: paths by patterns, and none that is metered.

use super::{Metered, matches, suffix};

/// Whether a path is a pattern's; `{}` in it stands for an id. Either may be
/// written without `/v1`.
pub fn is_of(pattern: &str, path: &str) -> bool {
    matches(suffix(pattern), suffix(path))
}

/// Whether a path, as some servers would read it, is a metered one: with a prefix
/// that base URLs have, written twice, or with empty segments.
pub fn looks_metered(path: &str) -> bool {
    let mut segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let is_prefix = |segment: &&str| ["v1", "api", "openai"].contains(&segment.to_ascii_lowercase().as_str());
    let prefixes = segments.iter().take_while(|segment| is_prefix(segment)).count();
    segments.drain(..prefixes);
    let bare = segments.join("/").to_ascii_lowercase();
    Metered::ALL.into_iter().any(|metered| suffix(metered.name()).trim_start_matches('/') == bare)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_looks_metered_is_known_for_it() {
        for path in [
            "/v1/v1/chat/completions",
            "//v1/chat/completions",
            "/v1//chat/completions",
            "/v1/chat/completions/",
            "/api/v1/responses",
            "/V1/Responses",
            "/openai/v1/embeddings",
        ] {
            assert!(looks_metered(path), "{path}");
        }
        for path in ["/v1/files", "/v1/organization/usage/completions", "/v1/evals/e/runs", "/"] {
            assert!(!looks_metered(path), "{path}");
        }
        assert!(is_of("POST /v1/x", "POST /v1/x") && is_of("/v1/evals/{}/runs", "/evals/e_1/runs"));
        assert!(
            !is_of("/v1/evals/{}/runs", "/v1/evals/a/b/runs")
                && !is_of("/v1/evals/{}/runs", "/v1/evals//runs")
        );
    }
}
