//! Paths that are not served: each says why, and only some can be opened.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::json;

use crate::edge::{Scripted, ask, last};
use crate::harness::{Answer, House, UPSTREAM_KEY, call, run};

const ALLOW: &str = " An operator can forward it unmetered with endpoints.allow.";
const NEVER: &str = "";
const VIDEOS: &str = "OpenAI scheduled this API to shut down on 2026-09-24.";
const NO_PRICE: &str = "OpenAI publishes no price for it.";
const TRAINING: &str = "What training costs is known only when it has ended.";
const RUNS: &str = "A run calls models many times after the request that starts it has ended.";
const APART: &str =
    "It costs nothing at OpenAI, but spendguard does not yet keep its objects apart by project.";
const NOT_YET: &str = "It costs nothing at OpenAI, but spendguard does not serve it yet.";
const SECRET: &str = "It makes a secret that talks to OpenAI directly, past every limit.";
const AUDIO: &str = "Its audio goes to OpenAI directly, past every limit.";
const LIVE: &str = "It is billed by the minute over a connection that spendguard does not see.";
const AGENT: &str = "An agent spends on its own, also by schedule, without a request through spendguard.";
const BROWSERS: &str = "It makes a secret for browsers that talks to OpenAI directly, past every limit.";
const ADMIN_KEY: &str = "It needs an OpenAI admin key, which spendguard never uses for clients.";
const ORGANIZATION: &str = "It needs an OpenAI admin key, which spendguard never uses for clients; spendguard's own admin \
                            API has paths of these names.";
const SHUT_DOWN: &str = "OpenAI shut this API down on 2026-08-26. Use /v1/responses.";
const WEBSOCKET: &str = "It is a WebSocket: open it with the header 'Upgrade: websocket'.";
const UNKNOWN: &str = "spendguard does not know this path, so it can't tell what it costs.";

/// What an operator may open.
const OPENABLE: &[(&str, &str)] = &[
    (
        "POST /v1/images/variations",
        "OpenAI retired this endpoint in 2026; what replaces it is /v1/images/edits.",
    ),
    ("POST /v1/audio/voices", NO_PRICE),
    ("POST /v1/audio/voice_consents", NO_PRICE),
    ("POST /v1/content_provenance_checks", NO_PRICE),
    ("POST /v1/videos", VIDEOS),
    ("POST /v1/videos/edits", VIDEOS),
    ("POST /v1/videos/video_1/remix", VIDEOS),
    ("POST /v1/fine_tuning/jobs", TRAINING),
    ("POST /v1/fine_tuning/jobs/ftjob_1/resume", TRAINING),
    (
        "POST /v1/fine_tuning/alpha/graders/run",
        "The grader's model is billed, and its tokens can't be bounded beforehand.",
    ),
    ("POST /v1/evals", RUNS),
    ("POST /v1/evals/eval_1/runs", RUNS),
    ("POST /v1/evals/eval_1/runs/run_1/cancel", NOT_YET),
    ("POST /v1/vaults", APART),
    ("POST /v1/webhook_endpoints", APART),
    ("GET /v1/safety/alerts/alert_1", APART),
    ("GET /v1/chatkit/threads", APART),
    ("POST /v1/new/things", UNKNOWN),
    ("GET /v1/new/things", UNKNOWN),
];

/// What would lead past every limit.
const BYPASSES: &[(&str, &str)] = &[
    ("POST /v1/realtime/sessions", SECRET),
    ("POST /v1/realtime/transcription_sessions", SECRET),
    ("POST /v1/realtime/translations/client_secrets", SECRET),
    ("POST /v1/realtime/calls", AUDIO),
    ("POST /v1/realtime/calls/rtc_1/accept", AUDIO),
    ("POST /v1/realtime", AUDIO),
    ("POST /v1/live/sessions", LIVE),
    ("POST /v1/live/sessions/live_1/fork", LIVE),
    ("POST /v1/agents/sessions", AGENT),
    ("POST /v1/agents/automations", AGENT),
    ("POST /v1/chatkit/sessions", BROWSERS),
    ("GET /v1/organization/costs", ORGANIZATION),
    ("GET /v1/projects/proj_1/roles", ADMIN_KEY),
    ("GET /v1/fine_tuning/checkpoints/ft:1/permissions", ADMIN_KEY),
];

/// What names its own remedy.
const INSTEAD: &[(&str, &str)] = &[
    ("POST /v1/assistants", SHUT_DOWN),
    ("POST /v1/threads", SHUT_DOWN),
    ("POST /v1/threads/thread_1/runs", SHUT_DOWN),
    ("GET /v1/realtime", WEBSOCKET),
    ("GET /v1/realtime/translations", WEBSOCKET),
    ("GET /v1/responses", "This path is served for POST only."),
    ("PUT /v1/models", "This path is served for GET and HEAD only."),
    ("PATCH /v1/models/gpt-5", "This path is served for GET, HEAD and DELETE only."),
];

async fn send(house: &House, request: &str) -> Answer {
    let (method, path) = request.split_once(' ').unwrap();
    let method: Method = method.parse().unwrap();
    let bearer = format!("Bearer {}", house.key);
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let body = if method == Method::GET { Bytes::new() } else { Bytes::from_static(b"{}") };
    call(&house.proxy, method, path, &headers, body).await
}

fn load(allow: &[&str]) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    std::fs::write(&file, format!("[endpoints]\nallow = {allow:?}\n")).unwrap();
    spendguard::config::load(Some(&file), []).map(drop).map_err(|error| error.to_string())
}

#[test]
fn each_path_that_is_not_served_says_why_and_what_can_be_done() {
    run(async {
        let house = House::with("").await;
        for (cases, remedy) in [(OPENABLE, ALLOW), (BYPASSES, NEVER), (INSTEAD, NEVER)] {
            for (request, reason) in cases {
                let answer = send(&house, request).await;
                let error = json!({
                    "message": format!("{request} is refused: {reason}{remedy}"),
                    "type": "invalid_request_error", "param": null, "code": "endpoint_not_allowed",
                });
                assert_eq!((answer.status, &answer.json()["error"]), (StatusCode::FORBIDDEN, &error));
            }
        }
        let deployment = send(&house, "POST /openai/v1/realtime/sessions").await;
        let message = deployment.json()["error"]["message"].as_str().unwrap().to_owned();
        assert_eq!(message, format!("POST /openai/v1/realtime/sessions is refused: {SECRET}"));
        assert!(house.fake.served().is_empty(), "nothing was forwarded");
    });
}

#[test]
fn what_leads_past_every_limit_can_not_be_allowed() {
    let openable: Vec<&str> = OPENABLE.iter().map(|(request, _)| *request).collect();
    load(&openable).unwrap();
    for (request, reason) in BYPASSES {
        let refused = load(&["POST /v1/evals", request]).unwrap_err();
        let expected = format!("endpoints.allow: \"{request}\" can't be forwarded unmetered. {reason}");
        assert!(refused.contains(&expected), "{refused}");
    }
    for entry in [
        "POST /realtime/sessions",
        "POST /v1//realtime/sessions",
        "POST /v1/realtime/{}",
        "POST /v1/realtime/calls/{}/accept",
        "GET /v1/organization/projects/{}",
        "DELETE /v1/agents/{}",
    ] {
        let refused = load(&[entry]).unwrap_err();
        assert!(refused.contains("can't be forwarded unmetered"), "{entry}: {refused}");
    }
}

#[test]
fn an_id_in_an_entry_opens_no_path_that_leads_past_every_limit() {
    run(async {
        let allow = "[endpoints]\nallow = [\"POST /v1/{}/sessions\", \"POST /v1/{}/{}\"]\n";
        let house = House::with(allow).await;
        assert_eq!(
            send(&house, "POST /v1/new/sessions").await.status,
            StatusCode::NOT_FOUND,
            "the fake's own"
        );
        for path in
            ["/v1/realtime/sessions", "/v1/chatkit/sessions", "/v1/agents/sessions", "/v1/realtime/calls"]
        {
            let answer = send(&house, &format!("POST {path}")).await;
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (StatusCode::FORBIDDEN, "endpoint_not_allowed")
            );
        }
        assert_eq!(last(&house).await["uri"], "/v1/new/sessions", "upstream saw no other");
    });
}

#[test]
fn a_list_that_can_not_be_read_says_so() {
    run(async {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
        for answer in [format!("{head}Content-Encoding: gzip\r\n\r\n\x1f"), format!("{head}\r\n[]")] {
            let upstream = Scripted::says(answer).await;
            let house = House::in_front_of(Some(&upstream.base_url), Some(UPSTREAM_KEY), "").await;
            let bearer = format!("Bearer {}", house.key);
            let answer = ask(&house, Method::GET, "/v1/files", &[("authorization", bearer.as_str())]).await;
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (StatusCode::BAD_GATEWAY, "upstream_unreachable")
            );
            assert_eq!(
                answer.json()["error"]["message"],
                "The upstream API's answer could not be read, so spendguard can't tell whose objects it names."
            );
        }
    });
}
