//! Why a path is not served, and what can be done about it.
//!
//! Each path of OpenAI's API that costs money and is not metered, or that leads past
//! the limits, has a reason of its own here. The first pattern that fits a path gives
//! its reason; a path that no pattern fits is one that spendguard does not know.

use std::borrow::Cow;
use std::fmt;

use http::Method;

use super::misspelt::spelt;
use super::{classify, matches, suffix};

/// The remedy for a refused path, if its reason does not name one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// An operator can forward it unmetered with `endpoints.allow`.
    Allow,
    /// The reason names what to use.
    Instead,
    /// None: forwarded, it would lead past every limit, so `endpoints.allow` can't open it.
    Never,
}

/// Why a path is not served.
///
/// ```
/// use spendguard::protocol::openai::endpoint::{Remedy, reason};
/// let reason = reason(&http::Method::POST, "/v1/realtime/sessions");
/// assert_eq!(reason.remedy, Remedy::Never);
/// assert_eq!(reason.to_string(), "It makes a secret that talks to OpenAI directly, past every limit.");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// One or two sentences.
    pub text: Cow<'static, str>,
    /// What can be done about it.
    pub remedy: Remedy,
}

/// Shows the reason, and the remedy that it does not name itself.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        match self.remedy {
            Remedy::Allow => f.write_str(" An operator can forward it unmetered with endpoints.allow."),
            Remedy::Instead | Remedy::Never => Ok(()),
        }
    }
}

/// Paths that are refused for one reason.
struct Rule {
    /// Patterns, with a method or for all; `{}` stands for an id, and `/*` at the end
    /// for the path before it and all below.
    of: &'static [&'static str],
    text: &'static str,
    remedy: Remedy,
}

const RULES: &[Rule] = &[
    allow(
        &["/v1/images/variations"],
        "OpenAI retired this endpoint in 2026; what replaces it is /v1/images/edits.",
    ),
    allow(
        &["/v1/audio/voices/*", "/v1/audio/voice_consents/*", "/v1/content_provenance_checks"],
        "OpenAI publishes no price for it.",
    ),
    never(
        &[
            "/v1/realtime/sessions",
            "/v1/realtime/transcription_sessions",
            "/v1/realtime/translations/client_secrets",
        ],
        "It makes a secret that talks to OpenAI directly, past every limit.",
    ),
    instead(
        &["GET /v1/realtime", "GET /v1/realtime/translations"],
        "It is a WebSocket: open it with the header 'Upgrade: websocket'.",
    ),
    never(&["/v1/realtime/*"], "Its audio goes to OpenAI directly, past every limit."),
    never(&["/v1/live/*"], "It is billed by the minute over a connection that spendguard does not see."),
    never(
        &["/v1/agents/*"],
        "An agent spends on its own, also by schedule, without a request through spendguard.",
    ),
    allow(
        &[
            "GET /v1/chatkit/threads/*",
            "DELETE /v1/chatkit/threads/*",
            "/v1/vaults/*",
            "/v1/webhook_endpoints/*",
            "/v1/webhook_event_types",
            "/v1/safety/*",
        ],
        "It costs nothing at OpenAI, but spendguard does not yet keep its objects apart by project.",
    ),
    never(
        &["/v1/chatkit/*"],
        "It makes a secret for browsers that talks to OpenAI directly, past every limit.",
    ),
    instead(
        &["/v1/assistants/*", "/v1/threads/*"],
        "OpenAI shut this API down on 2026-08-26. Use /v1/responses.",
    ),
    allow(
        &["POST /v1/videos/*", "/v1/videos/characters/{}"],
        "OpenAI scheduled this API to shut down on 2026-09-24.",
    ),
    allow(
        &["POST /v1/fine_tuning/jobs", "POST /v1/fine_tuning/jobs/{}/resume"],
        "What training costs is known only when it has ended.",
    ),
    allow(
        &["/v1/fine_tuning/alpha/graders/*"],
        "The grader's model is billed, and its tokens can't be bounded beforehand.",
    ),
    allow(
        &["POST /v1/evals", "POST /v1/evals/{}/runs"],
        "A run calls models many times after the request that starts it has ended.",
    ),
    allow(
        &[
            "POST /v1/evals/{}",
            "POST /v1/evals/{}/runs/{}/cancel",
            "POST /v1/fine_tuning/jobs/{}/cancel",
            "POST /v1/fine_tuning/jobs/{}/pause",
        ],
        "It costs nothing at OpenAI, but spendguard does not serve it yet.",
    ),
    never(
        &["/v1/organization/*"],
        "It needs an OpenAI admin key, which spendguard never uses for clients; spendguard's own admin API has paths \
         of these names.",
    ),
    never(
        &["/v1/projects/*", "/v1/fine_tuning/checkpoints/*"],
        "It needs an OpenAI admin key, which spendguard never uses for clients.",
    ),
];
const UNKNOWN: &str = "spendguard does not know this path, so it can't tell what it costs.";

const fn allow(of: &'static [&'static str], text: &'static str) -> Rule {
    Rule { of, text, remedy: Remedy::Allow }
}

const fn instead(of: &'static [&'static str], text: &'static str) -> Rule {
    Rule { of, text, remedy: Remedy::Instead }
}

const fn never(of: &'static [&'static str], text: &'static str) -> Rule {
    Rule { of, text, remedy: Remedy::Never }
}

impl Rule {
    fn is_of(&self, method: &Method, path: &str) -> bool {
        self.of.iter().any(|pattern| {
            let (known, pattern) = parts(pattern);
            known.is_none_or(|known| known == method.as_str()) && covers(suffix(pattern), path)
        })
    }
}

/// The reason why a path is not served, by its method and raw path. `HEAD` counts
/// as `GET`.
pub fn reason(method: &Method, path: &str) -> Reason {
    if let Some(Rule { text, remedy, .. }) = rule(method, suffix(path)).or_else(|| spelt_rule(method, path)) {
        return Reason { text: Cow::Borrowed(text), remedy: *remedy };
    }
    match served(path).as_slice() {
        [] => Reason { text: Cow::Borrowed(UNKNOWN), remedy: Remedy::Allow },
        [only] => for_methods(only.as_str()),
        [others @ .., last] => {
            let others: Vec<&str> = others.iter().map(Method::as_str).collect();
            for_methods(&format!("{} and {last}", others.join(", ")))
        }
    }
}

fn for_methods(methods: &str) -> Reason {
    let text = format!("This path is served for {methods} only.");
    Reason { text: Cow::Owned(text), remedy: Remedy::Instead }
}

fn rule(method: &Method, path: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.is_of(method, path))
}

/// A path that leads past the limits does so in any spelling that an upstream may accept.
fn spelt_rule(method: &Method, path: &str) -> Option<&'static Rule> {
    rule(method, &spelt(path)).filter(|rule| rule.remedy == Remedy::Never)
}

/// The methods that a path is served for.
fn served(path: &str) -> Vec<Method> {
    let methods = [Method::GET, Method::HEAD, Method::POST, Method::DELETE];
    let is_served = |method: &Method| {
        // A path that may be read with GET may be requested with HEAD.
        let method = if *method == Method::HEAD { &Method::GET } else { method };
        classify(method, path).is_some()
    };
    methods.into_iter().filter(is_served).collect()
}

/// The method of a pattern, if it is for one only, and its path.
fn parts(pattern: &str) -> (Option<&str>, &str) {
    pattern.split_once(' ').map_or((None, pattern), |(method, path)| (Some(method), path))
}

fn covers(pattern: &str, path: &str) -> bool {
    let Some(root) = pattern.strip_suffix("/*") else { return matches(pattern, path) };
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests;
