//! The export over OTLP: spans and metrics as a collector receives them.
//!
//! Names are those of OpenTelemetry's conventions for generative AI and HTTP, ids and flags those
//! of W3C's Trace Context, answers those of the OTLP specification.

pub(crate) mod collector;
mod outage;
pub(crate) mod series;

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as SpanStatus;
use serde_json::{Value, json};

use crate::edge::last;
use crate::harness::{ADMIN_TOKEN, House, UPSTREAM_KEY, call, run};
use crate::otlp::collector::{Collector, attribute, hex};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn of(span: &Span, key: &str) -> String {
    attribute(&span.attributes, key)
}

fn sampled() -> String {
    format!("00-{TRACE}-{PARENT}-01")
}

/// The headers that upstream received with the last request.
async fn passed_on(house: &House) -> Value {
    last(house).await["headers"].clone()
}

#[test]
fn each_request_has_one_span_with_the_usage_that_upstream_reported() {
    run(async {
        let collector = Collector::start().await;
        let house = House::with(&collector.config("")).await;
        let answer = house.chat(&[], json!({})).await;
        let entry = house.entries().await[0].clone();
        let span = collector.has_spans(1).await.remove(0);
        let usage = &answer.json()["usage"];
        assert_eq!(span.name, "chat gpt-4o-mini");
        assert_eq!(span.kind, i32::from(SpanKind::Client));
        assert_eq!(span.status.clone().unwrap_or_default().code, i32::from(SpanStatus::Unset));
        assert_eq!((span.trace_id.len(), span.span_id.len(), span.parent_span_id.len()), (16, 8, 0));
        for (key, expected) in [
            ("gen_ai.operation.name", json!("chat")),
            ("gen_ai.provider.name", json!("openai")),
            ("gen_ai.system", json!("openai")),
            ("gen_ai.request.model", json!("gpt-4o-mini")),
            ("gen_ai.response.model", answer.json()["model"].clone()),
            ("gen_ai.usage.input_tokens", usage["prompt_tokens"].clone()),
            ("gen_ai.usage.output_tokens", usage["completion_tokens"].clone()),
            ("gen_ai.usage.cache_read.input_tokens", usage["prompt_tokens_details"]["cached_tokens"].clone()),
            ("http.request.method", json!("POST")),
            ("http.response.status_code", json!(200)),
            ("error.type", json!("")),
            ("server.address", json!("127.0.0.1")),
            ("spendguard.outcome", json!("ok")),
            ("spendguard.endpoint", json!("/v1/chat/completions")),
            ("spendguard.basis", json!("reported")),
            ("spendguard.entry", entry["id"].clone()),
            ("spendguard.cost_usd", entry["cost_usd"].clone()),
            ("spendguard.key", entry["key_id"].clone()),
            ("spendguard.project", json!("default")),
        ] {
            let expected = expected.as_str().map_or_else(|| expected.to_string(), str::to_owned);
            assert_eq!(of(&span, key), expected, "{key}: {span:?}");
        }
        let took = Duration::from_nanos(span.end_time_unix_nano - span.start_time_unix_nano);
        assert!(took > Duration::ZERO && took < Duration::from_secs(10), "{took:?}");
        let (resource, _) = collector.spans().remove(0);
        assert_eq!(attribute(&resource.attributes, "service.name"), "spendguard");
        assert_eq!(attribute(&resource.attributes, "service.version"), env!("CARGO_PKG_VERSION"));
        assert_eq!(attribute(&resource.attributes, "service.instance.id").len(), 36);
    });
}

#[test]
fn streams_other_endpoints_and_errors_of_upstream_have_a_span_too() {
    run(async {
        let collector = Collector::start().await;
        let house = House::with(&collector.config("")).await;
        let stream = json!({ "stream": true, "stream_options": { "include_usage": true } });
        let streamed = house.chat(&[("x-fake-completion-tokens", "9")], stream).await;
        assert!(String::from_utf8_lossy(&streamed.body).contains("\"completion_tokens\":9"));
        house.post("/v1/embeddings", &[], &json!({ "model": "text-embedding-3-small", "input": "x" })).await;
        house.post("/v1/responses", &[], &json!({ "model": "gpt-4o-mini", "input": "x" })).await;
        house
            .post("/v1/completions", &[], &json!({ "model": "gpt-3.5-turbo-instruct", "prompt": "x" }))
            .await;
        house.chat(&[("x-fake-status", "500")], json!({})).await;
        let bearer = format!("Bearer {}", house.key);
        let headers = [("authorization", bearer.as_str())];
        call(&house.proxy, Method::GET, "/v1/models", &headers, Bytes::new()).await;
        let spans = collector.has_spans(6).await;
        let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "chat gpt-4o-mini",
                "embeddings text-embedding-3-small",
                "chat gpt-4o-mini",
                "text_completion gpt-3.5-turbo-instruct",
                "chat gpt-4o-mini",
                "GET /v1/models"
            ]
        );
        assert_eq!(of(&spans[0], "gen_ai.usage.output_tokens"), "9");
        let error = i32::from(SpanStatus::Error);
        assert_eq!(
            (of(&spans[4], "error.type"), spans[4].status.clone().unwrap().code),
            ("500".into(), error)
        );
        assert_eq!(of(&spans[4], "gen_ai.usage.input_tokens"), "");
        assert_eq!(of(&spans[5], "gen_ai.operation.name"), "");
    });
}

#[test]
fn a_refused_request_has_a_span_with_the_reason_as_its_error() {
    run(async {
        let collector = Collector::start().await;
        let limit = "[[limit]]\nname = \"none\"\nwindow = \"day\"\nhard = 0\n";
        let house = House::with(&collector.config(limit)).await;
        let refused = house.chat(&[], json!({})).await;
        assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
        // Without a valid key a client decides nothing.
        let traced = sampled();
        let wrong = [("authorization", "Bearer sk-guard-wrong"), ("traceparent", &traced)];
        call(&house.proxy, Method::POST, "/v1/chat/completions", &wrong, Bytes::new()).await;
        let spans = collector.has_spans(2).await;
        assert_eq!(of(&spans[0], "error.type"), "spend_limit_exceeded");
        assert_eq!(of(&spans[0], "spendguard.refusal"), "spend_limit_exceeded");
        assert_eq!(of(&spans[0], "spendguard.limit"), "none");
        assert_eq!(of(&spans[0], "spendguard.outcome"), "refused");
        assert_eq!(of(&spans[0], "spendguard.request"), refused.header("x-request-id"));
        assert_eq!(of(&spans[0], "http.response.status_code"), "429");
        assert_eq!(of(&spans[0], "gen_ai.request.model"), "gpt-4o-mini");
        assert_eq!(spans[0].status.clone().unwrap().code, i32::from(SpanStatus::Error));
        assert_eq!(of(&spans[1], "error.type"), "invalid_api_key");
        assert_eq!((of(&spans[1], "spendguard.key"), spans[1].parent_span_id.len()), (String::new(), 0));
    });
}

#[test]
fn a_request_that_its_client_does_not_sample_is_not_exported() {
    run(async {
        let collector = Collector::start().await;
        let house = House::with(&collector.config("")).await;
        let unsampled = format!("00-{TRACE}-{PARENT}-00");
        house.chat(&[("traceparent", &unsampled)], json!({})).await;
        let passed = passed_on(&house).await["traceparent"].as_str().unwrap().to_owned();
        assert!(passed.starts_with(&format!("00-{TRACE}-")) && passed.ends_with("-00"), "{passed}");
        house.chat(&[("traceparent", &sampled())], json!({})).await;
        let spans = collector.has_spans(1).await;
        assert!(sampled().contains(&hex(&spans[0].parent_span_id)));
    });
}

#[test]
fn without_a_traceparent_the_ratio_decides_and_with_one_the_client() {
    run(async {
        let collector = Collector::start().await;
        let house = House::with(&collector.config("traces_ratio = \"0%\"")).await;
        house.chat(&[], json!({})).await;
        house.chat(&[("traceparent", "00-not-one-01")], json!({})).await;
        house.chat(&[("traceparent", &sampled())], json!({})).await;
        let spans = collector.has_spans(1).await;
        assert_eq!(hex(&spans[0].trace_id), TRACE);
    });
}

#[test]
fn the_clients_trace_goes_on_and_the_guards_span_is_the_parent_upstream() {
    run(async {
        let collector = Collector::start().await;
        let house = House::with(&collector.config("")).await;
        let headers = [("traceparent", sampled()), ("tracestate", "vendor=1".to_owned())];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        house.chat(&headers, json!({})).await;
        let passed = passed_on(&house).await;
        let span = collector.has_spans(1).await.remove(0);
        assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.into(), PARENT.into()));
        assert_ne!(hex(&span.span_id), PARENT);
        assert_eq!(passed["traceparent"], format!("00-{TRACE}-{}-01", hex(&span.span_id)));
        assert_eq!(passed["tracestate"], "vendor=1");
        // A trace that can't be read is replaced, and its state is dropped.
        let broken = [("traceparent", "00-0-0-01"), ("tracestate", "vendor=1")];
        house.chat(&broken, json!({})).await;
        let passed = passed_on(&house).await;
        let span = collector.has_spans(2).await.remove(1);
        assert_eq!(passed["traceparent"], format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id)));
        assert_eq!((&passed["tracestate"], span.parent_span_id.len()), (&Value::Null, 0));
    });
}

#[test]
fn nothing_exported_contains_a_prompt_an_answer_a_key_or_a_secret() {
    run(async {
        let collector = Collector::start().await;
        let config =
            collector.config("metrics_interval = \"1s\"\nheaders = { x-team = { env = \"OTLP_TEAM\" } }");
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "collector-secret\n").unwrap();
        let from_file = format!("{{ file = \"{}\" }}", secret.display());
        let house = House::with(&config.replace("{ env = \"OTLP_TEAM\" }", &from_file)).await;
        let asked = json!({
            "messages": [{ "role": "user", "content": "prompt-of-the-client" }],
            "user": "end-user-of-the-client", "metadata": { "a": "metadata-of-the-client" },
        });
        let tags = [("x-spendguard-tags", "team=tag-of-the-client"), ("tracestate", "a=state-of-the-client")];
        let answer = house.chat(&tags, asked).await;
        let said = answer.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
        house.chat(&[], json!({ "model": house.key.clone() })).await;
        let wrong = [("authorization", "Bearer sk-guard-wrong-key-of-the-client")];
        call(&house.proxy, Method::POST, "/v1/chat/completions", &wrong, Bytes::new()).await;
        house.post("/v1/path-of-the-client", &[], &json!({})).await;
        collector.has_spans(4).await;
        let key = house.key.clone();
        house.close().await;
        let requests = collector.requests();
        assert!(requests.iter().any(|request| request.path == "/v1/metrics"));
        for request in &requests {
            assert!(request.head.contains("x-team: collector-secret"), "{}", request.head);
            assert!(request.head.contains("content-type: application/x-protobuf"), "{}", request.head);
            let body = String::from_utf8_lossy(&request.body);
            for private in [&key, &said, ADMIN_TOKEN, UPSTREAM_KEY, "-of-the-client", "collector-secret"] {
                assert!(!body.contains(private), "{private} is in {body}");
            }
        }
    });
}

#[test]
fn a_key_in_the_ids_of_a_trace_is_not_exported() {
    run(async {
        let collector = Collector::start().await;
        let house = House::with(&collector.config("")).await;
        house.make_key(json!({ "name": "hex", "secret": TRACE })).await;
        let bearer = format!("Bearer {TRACE}");
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
            ("traceparent", &sampled()),
        ];
        let body = Bytes::from(crate::harness::chat(json!({})).to_string());
        let answer = call(&house.proxy, Method::POST, "/v1/chat/completions", &headers, body).await;
        assert_eq!(answer.status, StatusCode::OK);
        let passed = passed_on(&house).await.to_string();
        let span = collector.has_spans(1).await.remove(0);
        assert_ne!(hex(&span.trace_id), TRACE);
        assert!(!passed.contains(TRACE) && passed.contains(&hex(&span.trace_id)), "{passed}");
    });
}

#[test]
fn without_an_endpoint_nothing_is_exported_and_a_trace_goes_on_unchanged() {
    run(async {
        let collector = Collector::start().await;
        let config = collector.config("metrics_interval = \"1s\"").replace("endpoint", "#endpoint");
        let house = House::with(&config).await;
        let headers = [("traceparent", sampled()), ("tracestate", "vendor=1".to_owned())];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        house.chat(&headers, json!({})).await;
        let passed = passed_on(&house).await;
        assert_eq!(
            (passed["traceparent"].as_str(), passed["tracestate"].as_str()),
            (Some(&*sampled()), Some("vendor=1"))
        );
        house.chat(&[], json!({})).await;
        assert_eq!(passed_on(&house).await["traceparent"], Value::Null);
        let metrics = house.admin(Method::GET, "/metrics", None).await;
        assert!(!String::from_utf8_lossy(&metrics.body).contains("otlp"));
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        house.close().await;
        assert_eq!(collector.connections.get(), 0);
    });
}
