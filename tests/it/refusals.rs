//! Each refusal: status, type, code, headers.

use http::{Method, StatusCode};
use serde_json::json;

use crate::harness::{House, call, chat, run};

const MINI: &str = "[[limit]]\nname = \"budget\"\nwindow = \"month\"\nhard = 0.0002\n";

/// Spends until the limit of [`MINI`] has no room for another request.
async fn exhaust(house: &House) -> crate::harness::Answer {
    for _ in 0..50 {
        let ordered = [("x-fake-completion-tokens", "100")];
        let answer = house.chat(&ordered, json!({ "max_completion_tokens": 100 })).await;
        if answer.status != StatusCode::OK {
            return answer;
        }
    }
    panic!("the limit never said no");
}

#[test]
fn a_used_up_organization_limit_is_final_and_says_which() {
    run(async {
        let house = House::with("[[limit]]\nname = \"budget\"\nwindow = \"month\"\nhard = 0\n").await;
        let answer = house.chat(&[], json!({})).await;
        assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
        let error = &answer.json()["error"];
        assert_eq!(error["type"], "insufficient_quota");
        assert_eq!(error["code"], "organization_spend_limit_exceeded");
        assert_eq!(answer.header("x-should-retry"), "false");
        assert_eq!(answer.header("x-spendguard-limit"), "budget");
        assert_eq!(answer.header("x-spendguard-reason"), "");
        // Many clients sleep for as long as `retry-after` says.
        assert_eq!(answer.header("retry-after"), "");
        let resets_s: i64 = answer.header("x-spendguard-resets-at").parse().unwrap();
        let at = jiff::Timestamp::from_second(resets_s).unwrap();
        assert!(resets_s > house.guard.clock().now_s());
        let message = error["message"].as_str().unwrap();
        assert!(message.starts_with("Your organization reached its enforced spend limit."), "{message}");
        assert!(message.contains("\"budget\"") && message.contains(&at.to_string()), "{message}");
        assert!(answer.header("x-request-id").starts_with("req_"));
    });
}

#[test]
fn a_limit_whose_window_ends_within_a_minute_says_when_to_come_again() {
    run(async {
        let house = House::with("[[limit]]\nname = \"m\"\nwindow = \"minute\"\nhard = 0\n").await;
        let answer = house.chat(&[], json!({})).await;
        let wait_s: i64 = answer.header("retry-after").parse().unwrap();
        assert!((1..=60).contains(&wait_s), "{wait_s}");
        let resets_s: i64 = answer.header("x-spendguard-resets-at").parse().unwrap();
        assert!((0..=1).contains(&(resets_s - house.guard.clock().now_s() - wait_s).abs()));
        assert_eq!(answer.header("x-should-retry"), "false");
    });
}

/// A limit that a request of 200 tokens fits in, and one of 10,000 does not.
const DAY: &str = "[[limit]]\nname = \"day\"\nper = \"key\"\nwindow = \"day\"\nhard = 0.01\n[guard]\nwhen_tight = \"reject\"\n";

#[test]
fn the_refusal_of_a_request_larger_than_what_is_left_says_what_it_needs_and_what_to_lower() {
    run(async {
        let house = House::with(DAY).await;
        let spent = house
            .chat(&[("x-fake-completion-tokens", "1000")], json!({ "max_completion_tokens": 1000 }))
            .await;
        let left = spent.header("x-spendguard-remaining-usd").to_owned();
        let answer = house.chat(&[], json!({ "max_completion_tokens": 16_000 })).await;
        assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{answer:?}");
        assert_eq!(answer.code(), "project_spend_limit_exceeded");
        assert_eq!(answer.header("x-spendguard-reason"), "request_exceeds_remaining");
        assert_eq!(answer.header("x-should-retry"), "false");
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.starts_with("This request may need up to $0.0096"), "{message}");
        assert!(message.contains(&format!("limit \"day\" (per key, per day) has ${left} left")), "{message}");
        assert!(message.ends_with("Lower max_completion_tokens or send less input."), "{message}");
        let tools = json!({ "model": "gpt-5.1", "input": "x", "tools": [{ "type": "web_search" }], "max_output_tokens": 16 });
        let tools = house.post("/v1/responses", &[], &tools).await;
        let message = tools.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(
            message.ends_with("Lower max_tool_calls or max_output_tokens, or send less input."),
            "{message}"
        );
        // That one client asked for much is no alert.
        let alerts = house.admin(Method::GET, "/guard/v1/alerts", None).await.json();
        assert_eq!(alerts["data"], json!([]));
    });
}

#[test]
fn a_meter_with_less_than_a_twentieth_left_alerts_when_it_refuses() {
    run(async {
        let house = House::with(DAY).await;
        let refused = async || {
            let answer = house.chat(&[], json!({ "max_completion_tokens": 16_000 })).await;
            assert_eq!(answer.code(), "project_spend_limit_exceeded");
            house.guard.core().flush().await.unwrap();
            house.admin(Method::GET, "/guard/v1/alerts", None).await.json()["data"].as_array().unwrap().len()
        };
        let spend = async |tokens: &str, max: u32| {
            let answer = house
                .chat(&[("x-fake-completion-tokens", tokens)], json!({ "max_completion_tokens": max }))
                .await;
            assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        };
        spend("15500", 16_000).await;
        assert_eq!(refused().await, 0, "a fourteenth is left");
        spend("500", 500).await;
        assert_eq!(refused().await, 1);
    });
}

#[test]
fn refusals_that_no_retry_helps_have_the_configured_status() {
    run(async {
        let limit = "[[limit]]\nname = \"l\"\nwindow = \"month\"\nhard = 0\n";
        for (status, kind, code) in [
            (402, "insufficient_quota", "organization_spend_limit_exceeded"),
            (400, "invalid_request_error", "billing_hard_limit_reached"),
        ] {
            let house = House::with(&format!("[errors]\nspend_status = {status}\n{limit}")).await;
            let answer = house.chat(&[], json!({})).await;
            assert_eq!(answer.status, status);
            assert_eq!((&answer.json()["error"]["type"], answer.code().as_str()), (&json!(kind), code));
            assert_eq!(
                (answer.header("x-should-retry"), answer.header("x-spendguard-limit")),
                ("false", "l")
            );
        }
        let house = House::with(&format!("[errors]\nspend_status = 402\ncode = \"classic\"\n{limit}")).await;
        assert_eq!(house.chat(&[], json!({})).await.code(), "insufficient_quota");

        let small = "[credit]\nminimum = 0.0001\n[guard]\nwhen_tight = \"reject\"\nhold_wait = \"0s\"\n";
        let house = House::with(&format!("[errors]\nspend_status = 400\n{small}")).await;
        let grant = json!({ "amount_usd": "0.0002", "note": "x" });
        house.admin(Method::POST, "/guard/v1/credits", Some(grant)).await;
        let answer = house.chat(&[], json!({ "max_completion_tokens": 10_000 })).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (StatusCode::BAD_REQUEST, "billing_hard_limit_reached")
        );
        assert_eq!(answer.header("x-spendguard-reason"), "request_exceeds_remaining");
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.starts_with("You exceeded your current quota"), "{message}");
        assert!(message.contains("$0.0002 of prepaid credit is left"), "{message}");
        // Other requests' holds end soon: those may be repeated whatever is configured.
        let slow = house.chat(&[("x-fake-latency-ms", "1000")], json!({ "max_completion_tokens": 250 }));
        let beside = async {
            while house.guard.in_doubt().1 == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            house.chat(&[], json!({ "max_completion_tokens": 250 })).await
        };
        let (slow, held) = tokio::join!(slow, beside);
        assert_eq!((slow.status, held.status), (StatusCode::OK, StatusCode::TOO_MANY_REQUESTS));
        assert_eq!((held.code().as_str(), held.header("x-should-retry")), ("spend_limit_held", "true"));
    });
}

#[test]
fn limits_of_keys_projects_and_users_have_the_projects_code() {
    run(async {
        for (per, body) in [("key", json!({})), ("project", json!({})), ("user", json!({ "user": "ann" }))] {
            let config = format!("[[limit]]\nname = \"l\"\nper = \"{per}\"\nwindow = \"total\"\nhard = 0\n");
            let house = House::with(&config).await;
            let answer = house.chat(&[], body).await;
            assert_eq!(answer.code(), "project_spend_limit_exceeded", "{per}");
            assert_eq!(answer.header("retry-after"), "", "a total limit never resets");
        }
    });
}

#[test]
fn the_classic_code_is_insufficient_quota() {
    run(async {
        let house = House::with(&format!("[errors]\ncode = \"classic\"\nshow_amounts = false\n{MINI}")).await;
        let answer = exhaust(&house).await;
        assert_eq!(answer.code(), "insufficient_quota");
        assert!(!answer.json()["error"]["message"].as_str().unwrap().contains('$'));
    });
}

#[test]
fn a_request_too_large_for_any_budget_is_a_bad_request() {
    run(async {
        let config = format!("{MINI}[guard]\nwhen_tight = \"reject\"\n");
        let house = House::with(&config).await;
        let answer = house.chat(&[], json!({ "max_completion_tokens": 16000 })).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (StatusCode::BAD_REQUEST, "request_cost_exceeds_limit")
        );
        let capped = house.chat(&[("x-spendguard-max-cost-usd", "0.00001")], json!({})).await;
        assert_eq!(capped.code(), "request_cost_exceeds_limit");
    });
}

#[test]
fn only_held_money_in_the_way_may_be_retried() {
    run(async {
        let config = format!("{MINI}[guard]\nwhen_tight = \"reject\"\nhold_wait = \"0s\"\n");
        let house = House::with(&config).await;
        let slow = house.chat(&[("x-fake-latency-ms", "2000")], json!({ "max_completion_tokens": 250 }));
        let second = async {
            while house.guard.in_doubt().1 == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            house.chat(&[], json!({ "max_completion_tokens": 250 })).await
        };
        let (first, second) = tokio::join!(slow, second);
        assert_eq!(first.status, StatusCode::OK);
        assert_eq!(
            (second.status, second.code().as_str()),
            (StatusCode::TOO_MANY_REQUESTS, "spend_limit_held")
        );
        assert_eq!((second.header("x-should-retry"), second.header("retry-after")), ("true", "1"));
    });
}

#[test]
fn a_tight_budget_waits_for_holds_to_end() {
    run(async {
        let config = format!("{MINI}[guard]\nwhen_tight = \"reject\"\nhold_wait = \"3s\"\n");
        let house = House::with(&config).await;
        let slow = house.chat(&[("x-fake-latency-ms", "400")], json!({ "max_completion_tokens": 250 }));
        let second = async {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            house.chat(&[], json!({ "max_completion_tokens": 250 })).await
        };
        let (first, second) = tokio::join!(slow, second);
        assert_eq!((first.status, second.status), (StatusCode::OK, StatusCode::OK));
    });
}

#[test]
fn a_tight_budget_clamps_the_output_and_says_so() {
    run(async {
        let house = House::with(&format!("{MINI}[guard]\nclamp_output_min = 16\n")).await;
        let answer = house.chat(&[], json!({})).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let clamped: u64 = answer.header("x-spendguard-clamped-output-tokens").parse().unwrap();
        let last = call(&house.fake_direct, Method::GET, "/__last", &[], bytes::Bytes::new()).await.json();
        let sent: serde_json::Value = serde_json::from_str(last["body"].as_str().unwrap()).unwrap();
        assert_eq!(sent["max_completion_tokens"], clamped);
        assert!((16..400).contains(&clamped), "{clamped}");
    });
}

#[test]
fn bad_keys_are_refused_and_shown_masked() {
    run(async {
        let house = House::with("").await;
        let body = bytes::Bytes::from(chat(json!({})).to_string());
        let none = call(&house.proxy, Method::POST, "/v1/chat/completions", &[], body.clone()).await;
        assert_eq!((none.status, none.code().as_str()), (StatusCode::UNAUTHORIZED, "invalid_api_key"));
        let wrong = [("authorization", "Bearer sk-guard-wrong-key-of-nobody-at-all")];
        let unknown = call(&house.proxy, Method::POST, "/v1/chat/completions", &wrong, body.clone()).await;
        assert_eq!(unknown.code(), "invalid_api_key");
        assert!(!String::from_utf8_lossy(&unknown.body).contains("wrong-key"));
        let key = house.make_key(json!({ "name": "short", "expires_in_seconds": 1 })).await;
        let bearer = format!("Bearer {}", key["value"].as_str().unwrap());
        let headers = [("authorization", bearer.as_str())];
        assert_eq!(
            call(&house.proxy, Method::POST, "/v1/chat/completions", &headers, body.clone()).await.status,
            200
        );
        tokio::time::sleep(std::time::Duration::from_millis(2_100)).await;
        let expired = call(&house.proxy, Method::POST, "/v1/chat/completions", &headers, body).await;
        assert_eq!(expired.code(), "invalid_api_key");
    });
}

#[test]
fn models_and_endpoints_that_are_not_allowed_are_refused() {
    run(async {
        let house = House::with("[[limit]]\nname = \"m\"\nwindow = \"month\"\nhard = 10\n").await;
        let key = house.make_key(json!({ "name": "narrow", "models": ["gpt-5*"] })).await;
        let bearer = format!("Bearer {}", key["value"].as_str().unwrap());
        let headers = [("authorization", bearer.as_str())];
        let body = bytes::Bytes::from(chat(json!({})).to_string());
        let narrow = call(&house.proxy, Method::POST, "/v1/chat/completions", &headers, body).await;
        assert_eq!((narrow.status, narrow.code().as_str()), (StatusCode::FORBIDDEN, "model_not_found"));
        let unpriced = house.chat(&[], json!({ "model": "gpt-99" })).await;
        assert_eq!((unpriced.status, unpriced.code().as_str()), (StatusCode::FORBIDDEN, "model_not_priced"));
        for path in ["/v1/images/variations", "/v1/realtime/sessions", "/v1/videos", "/v1/organization/costs"]
        {
            let refused = house.post(path, &[], &json!({})).await;
            assert_eq!(
                (refused.status, refused.code().as_str()),
                (StatusCode::FORBIDDEN, "endpoint_not_allowed")
            );
        }
        assert!(house.fake.served().is_empty(), "nothing was forwarded");
    });
}

#[test]
fn rates_refuse_with_their_headers_and_come_back() {
    run(async {
        let config =
            "[[limit]]\nname = \"rpm\"\nper = \"key\"\nunit = \"requests\"\nwindow = \"minute\"\nhard = 2\n";
        let house = House::with(config).await;
        let first = house.chat(&[], json!({})).await;
        assert_eq!(first.header("x-ratelimit-limit-requests"), "2");
        assert_eq!(first.header("x-ratelimit-remaining-requests"), "1");
        house.chat(&[], json!({})).await;
        let third = house.chat(&[], json!({})).await;
        assert_eq!(
            (third.status, third.code().as_str()),
            (StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded")
        );
        assert_eq!(third.json()["error"]["type"], "requests");
        assert!(third.header("retry-after-ms").parse::<u64>().unwrap() <= 30_000);
    });
}

#[test]
fn a_client_that_hangs_up_on_a_silent_upstream_is_charged_its_hold() {
    run(async {
        let house = House::with("[guard]\ndrain_max = \"1s\"\n").await;
        let hang = house.chat(&[("x-fake-hang", "1")], json!({ "max_completion_tokens": 50 }));
        assert!(tokio::time::timeout(std::time::Duration::from_millis(300), hang).await.is_err());
        house.settled().await;
        let entry = &house.entries().await[0];
        assert_eq!((&entry["basis"], &entry["cost_usd"]), (&json!("assumed"), &entry["held_usd"]));
    });
}
