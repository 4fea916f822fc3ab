//! Forwarded and dropped headers, name by name.

use super::*;

const VIRTUAL: &str = "sk-guard-virtual-key-of-the-test";

fn map(pairs: &[(&str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&str, &str)| -> (HeaderName, HeaderValue) {
        (name.parse().unwrap(), value.parse().unwrap())
    };
    pairs.iter().map(pair).collect()
}

const UPSTREAM: HeaderValue = HeaderValue::from_static("Bearer up");

fn upstream_gets(pairs: &[(&str, &str)], own_account: bool, more: &[Forwarded]) -> HeaderMap {
    let mut headers = map(pairs);
    to_upstream(&mut headers, &Sender { authorization: &UPSTREAM, secret: VIRTUAL, own_account, more });
    assert_eq!(headers.remove("authorization").unwrap(), UPSTREAM);
    assert_eq!(headers.remove("accept-encoding").unwrap(), "identity");
    headers
}

#[test]
fn what_openais_api_takes_goes_on_as_it_came() {
    let sent = [
        ("accept", "application/json"),
        ("content-type", "application/json"),
        ("user-agent", "OpenAI/Python 3.57.0"),
        ("openai-beta", "assistants=v2"),
        ("idempotency-key", "stainless-python-retry-1"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("tracestate", "a=b"),
        ("x-stainless-lang", "python"),
        ("x-stainless-retry-count", "0"),
        ("x-stainless-helper-method", "beta.chat.completions.stream"),
        ("x-client-request-id", "1"),
        ("originator", "codex_cli_rs"),
        ("session_id", "1"),
        ("conversation_id", "1"),
        ("x-codex-turn-metadata", "{}"),
    ];
    assert_eq!(upstream_gets(&sent, true, &[]), map(&sent));
}

#[test]
fn only_betas_that_are_known_go_on() {
    for (sent, kept) in [
        ("assistants=v2", Some("assistants=v2")),
        ("realtime=v1, responses=experimental", Some("realtime=v1, responses=experimental")),
        ("responses_websockets=2026-02-06", Some("responses_websockets=2026-02-06")),
        ("responses_multi_agent=v1", Some("responses_multi_agent=v1")),
        ("responses_swarm=v1", None),
        ("responses_swarm=v1 , assistants=v2,responses_multi_agent=v2", Some("assistants=v2")),
        ("", None),
    ] {
        let kept: Vec<_> = kept.map(|kept| ("openai-beta", kept)).into_iter().collect();
        assert_eq!(upstream_gets(&[("openai-beta", sent)], true, &[]), map(&kept), "{sent}");
    }
    let mut headers = map(&[("openai-beta", "swarm=v1")]);
    headers.append(BETA, HeaderValue::from_static("assistants=v2"));
    keep_known_betas(&mut headers);
    assert_eq!(headers, map(&[("openai-beta", "assistants=v2")]));
    let more = [Forwarded { name: "openai-beta".into(), is_prefix: false }];
    let sent = [("openai-beta", "swarm=v1")];
    assert_eq!(upstream_gets(&sent, true, &more), map(&sent), "the operator's choice");
}

#[test]
fn nothing_else_reaches_upstream() {
    let kept = [
        ("authorization", "Bearer sk-guard-virtual"),
        ("cookie", "a=b"),
        ("x-spendguard-tags", "a=b"),
        ("connection", "keep-alive, x-stainless-hop"),
        ("x-stainless-hop", "1"),
        ("openai-organization", "org-theirs"),
        ("openai-project", "proj_theirs"),
        ("accept-encoding", "gzip"),
        ("api-key", "x"),
        ("x-api-key", "x"),
        ("x-goog-api-key", "x"),
        ("proxy-authorization", "Basic x"),
        ("x-http-method-override", "DELETE"),
        ("x-forwarded-for", "10.0.0.1"),
        ("forwarded", "for=10.0.0.1"),
        ("via", "1.1 x"),
        ("x-real-ip", "10.0.0.1"),
        ("x-request-id", "1"),
        ("origin", "https://page.example"),
        ("referer", "https://page.example/secret"),
        ("content-encoding", "gzip"),
        ("x-amzn-trace-id", "1"),
        ("cf-connecting-ip", "10.0.0.1"),
    ];
    assert_eq!(upstream_gets(&kept, true, &[]), HeaderMap::new());
}

#[test]
fn a_header_on_the_list_that_holds_a_key_stays_behind() {
    for name in ["openai-beta", "user-agent", "x-codex-api-key", "idempotency-key", "x-stainless-key"] {
        for value in [VIRTUAL, "Bearer sk-guard-virtual-key-of-the-test", "another sk-guard-0123456789"] {
            assert_eq!(upstream_gets(&[(name, value)], true, &[]), HeaderMap::new(), "{name}: {value}");
        }
    }
}

#[test]
fn a_clients_own_account_is_its_own_choice() {
    let sent = [("openai-organization", "org-theirs"), ("openai-project", "proj_theirs")];
    assert_eq!(upstream_gets(&sent, false, &[]), map(&sent));
}

#[test]
fn operators_can_forward_more_but_no_key() {
    let more = [
        Forwarded { name: "x-title".into(), is_prefix: false },
        Forwarded { name: "helicone-".into(), is_prefix: true },
    ];
    let sent = [("x-title", "a"), ("helicone-user", "b"), ("helicone-auth", VIRTUAL), ("x-titles", "c")];
    assert_eq!(upstream_gets(&sent, true, &more), map(&sent[..2]));
}

#[test]
fn clients_never_see_upstreams_account_or_what_pages_it_allows() {
    let mut headers = map(&[
        ("openai-organization", "org-ours"),
        ("openai-project", "proj_ours"),
        ("set-cookie", "__cf_bm=1"),
        ("access-control-allow-origin", "*"),
        ("access-control-expose-headers", "X-Request-ID"),
        ("x-spendguard-cost-usd", "0"),
        ("x-request-id", "req_1"),
    ]);
    to_client(&mut headers);
    assert_eq!(headers, map(&[("x-request-id", "req_1")]));
}

#[test]
fn wishes_are_read_or_refused() {
    let read = guard_headers(&map(&[(TAGS, "team=search, feature=chat"), (MAX_COST, "0.05")])).unwrap();
    assert_eq!(read.max_cost, Some(Money::from_nano(50_000_000)));
    assert_eq!(read.tags.get("feature").map(String::as_str), Some("chat"));
    for bad in ["team", "=x", "a=b,a=c", "a=1,b=1,c=1,d=1,e=1,f=1,g=1,h=1,i=1"] {
        assert!(guard_headers(&map(&[(TAGS, bad)])).is_err(), "{bad}");
    }
    assert!(guard_headers(&map(&[(MAX_COST, "-1")])).is_err());
    for (value, wanted) in [("true", Some(true)), ("false", Some(false)), ("1", None)] {
        assert_eq!(guard_headers(&map(&[(COST, value)])).ok().map(|read| read.cost), wanted, "{value}");
    }
}
