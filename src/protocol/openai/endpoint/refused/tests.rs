//! Each refused path has one reason, and nothing that leads past the limits is opened.

use std::collections::BTreeSet;

use super::*;
use crate::protocol::openai::OPERATIONS;
use crate::protocol::openai::endpoint::{FREE_DELETE, FREE_GET, FREE_POST, HOSTED_POST};

/// Every path of OpenAI's API that costs money or leads past the limits, and is not served.
const REFUSED: [&str; 45] = [
    "GET /responses",
    "POST /images/variations",
    "POST /audio/voices",
    "POST /audio/voice_consents",
    "POST /fine_tuning/jobs",
    "POST /fine_tuning/jobs/{}/resume",
    "POST /fine_tuning/alpha/graders/run",
    "POST /evals",
    "POST /evals/{}/runs",
    "POST /assistants",
    "POST /threads",
    "POST /threads/{}/runs",
    "POST /threads/runs",
    "POST /threads/{}/runs/{}/submit_tool_outputs",
    "POST /videos",
    "POST /videos/edits",
    "POST /videos/extensions",
    "POST /videos/{}/remix",
    "POST /videos/characters",
    "GET /realtime",
    "POST /realtime/sessions",
    "POST /realtime/transcription_sessions",
    "POST /realtime/translations/client_secrets",
    "POST /realtime/calls",
    "POST /realtime/calls/{}/accept",
    "POST /realtime/calls/{}/refer",
    "POST /realtime/calls/{}/hangup",
    "POST /realtime/calls/{}/reject",
    "GET /realtime/translations",
    "GET /live/sessions",
    "POST /live/sessions",
    "POST /live/sessions/{}/fork",
    "POST /agents/sessions",
    "POST /agents/sessions/{}/events",
    "POST /agents/automations",
    "POST /agents/environments",
    "POST /chatkit/sessions",
    "POST /content_provenance_checks",
    "POST /vaults",
    "POST /webhook_endpoints",
    "GET /safety/alerts/{}",
    "GET /organization/costs",
    "POST /organization/projects/{}/api_keys",
    "GET /projects/{}/roles",
    "GET /fine_tuning/checkpoints/{}/permissions",
];

fn of(request: &str) -> Reason {
    let (method, path) = request.split_once(' ').unwrap();
    reason(&method.parse().unwrap(), &path.replace("{}", "id_1"))
}

fn patterns() -> Vec<&'static str> {
    RULES.iter().flat_map(|rule| rule.of).copied().collect()
}

/// Whether all that a pattern fits is another's already.
fn shadows(earlier: &str, later: &str) -> bool {
    let ((method, earlier), (later_method, later)) = (parts(earlier), parts(later));
    let is_of_all = earlier.ends_with("/*");
    let example = later.replace("{}", "id_1");
    (method.is_none() || method == later_method)
        && (is_of_all || !later.ends_with("/*"))
        && covers(suffix(earlier), suffix(example.strip_suffix("/*").unwrap_or(&example)))
}

#[test]
fn each_path_that_is_not_served_has_a_reason_of_its_own() {
    for request in REFUSED {
        let (method, path) = request.split_once(' ').unwrap();
        assert_eq!(classify(&method.parse().unwrap(), &path.replace("{}", "id_1")), None, "{request}");
        let (reason, prefixed) = (of(request), of(&format!("{method} /v1{path}")));
        assert_eq!(reason, prefixed, "{request}");
        let is_own = reason.text != UNKNOWN && !reason.text.starts_with("This path is served for");
        assert!(is_own || request == "GET /responses", "{request}: {reason}");
    }
    assert_eq!(of("GET /responses").text, "This path is served for POST only.");
}

#[test]
fn no_pattern_is_shadowed_and_none_is_of_a_path_that_is_served() {
    let patterns = patterns();
    for (at, later) in patterns.iter().enumerate() {
        for earlier in &patterns[..at] {
            assert!(!shadows(earlier, later), "{later} comes after {earlier}");
        }
        let (method, path) = parts(later);
        assert!(!path.ends_with("/*") || !path.contains("{}"), "{later} is not looked for as it is written");
        let example = path.strip_suffix("/*").unwrap_or(path).replace("{}", "id_1");
        for known in [Method::GET, Method::POST, Method::DELETE] {
            let is_served = classify(&known, &example).is_some();
            assert!(!is_served || method.is_some_and(|method| method != known.as_str()), "{known} {later}");
        }
    }
    assert!(shadows("/v1/realtime/*", "GET /v1/realtime/calls/{}") && shadows("/v1/a/*", "/v1/a/b/*"));
    assert!(!shadows("GET /v1/realtime", "/v1/realtime/*") && !shadows("POST /v1/a", "/v1/a"));
}

#[test]
fn reasons_are_sentences_and_each_stands_once() {
    let mut texts = BTreeSet::new();
    for Rule { text, of, .. } in RULES {
        assert!(text.ends_with('.') && text.starts_with(char::is_uppercase), "{text}");
        assert!(texts.insert(text), "{of:?} have the reason of others: {text}");
    }
}

#[test]
fn a_known_path_says_which_methods_it_is_served_for() {
    for (request, methods) in [
        ("GET /v1/embeddings", "POST"),
        ("PUT /v1/models", "GET and HEAD"),
        ("PATCH /v1/models/gpt-5", "GET, HEAD and DELETE"),
        ("PUT /v1/chat/completions/id", "GET, HEAD, POST and DELETE"),
        ("DELETE /v1/files", "GET, HEAD and POST"),
        ("POST /v1/dashboard/billing/usage", "GET and HEAD"),
        ("POST /", "GET and HEAD"),
    ] {
        let reason = of(request);
        assert_eq!(reason.to_string(), format!("This path is served for {methods} only."), "{request}");
    }
}

#[test]
fn an_unknown_path_may_be_opened_by_an_operator() {
    for request in ["POST /v1/engines/davinci/completions", "GET /v1/agentsx", "PUT /v1/v1/models"] {
        assert_eq!(of(request).text, UNKNOWN, "{request}");
    }
    let unknown = format!("{UNKNOWN} An operator can forward it unmetered with endpoints.allow.");
    assert_eq!(of("POST /v1/new").to_string(), unknown);
}

#[test]
fn what_leads_past_the_limits_is_known_in_any_spelling() {
    for path in [
        "/v1/realtime/client_secrets",
        "/realtime/client_secrets",
        "/v1//realtime/client_secrets",
        "/v1/v1/realtime/client_secrets",
        "/openai/v1/realtime/client_secrets",
        "/v1/Realtime/Client_Secrets",
        "/v1/realtime/client%5fsecrets",
        "/v1/realtime/client_secrets/",
        "/v1/realtime/new_sessions",
        "/v1/realtime",
        "/v1/live",
        "/v1/agents/a/b/c/d",
        "/v1/chatkit/new",
    ] {
        assert_eq!(reason(&Method::POST, path).remedy, Remedy::Never, "{path}");
    }
}

#[test]
fn no_path_that_is_served_has_a_reason() {
    for (method, paths) in [("GET", &FREE_GET[..]), ("POST", &FREE_POST), ("DELETE", &FREE_DELETE)] {
        for path in paths {
            let path = path.replace("{}", "id_1");
            assert!(rule(&method.parse().unwrap(), suffix(&path)).is_none(), "{method} {path}");
        }
    }
    for path in OPERATIONS.iter().map(|metered| metered.path).chain(HOSTED_POST.map(|(path, _)| path)) {
        assert!(rule(&Method::POST, suffix(&path.replace("{}", "id_1"))).is_none(), "{path}");
    }
}
