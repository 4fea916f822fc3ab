//! Whom limits and rules reach: snapshots and fine-tunes of a model, keys that are renamed;
//! rates of tokens; and corrections, which make no room that was never used.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Answer, House, call, chat, run};

const DATED: &str = "gpt-4o-2024-08-06";
const TUNED: &str = "ft:gpt-4o-2024-08-06:acme::id";

async fn ask(house: &House, model: &str) -> Answer {
    house.chat(&[], json!({ "model": model })).await
}

async fn put(house: &House, name: &str, rule: Value) -> Answer {
    house.admin(Method::PUT, &format!("/guard/v1/limits/{name}"), Some(rule)).await
}

async fn only_keys(house: &House, name: &str) -> Value {
    house.admin(Method::GET, &format!("/guard/v1/limits/{name}"), None).await.json()["only"]["key"].clone()
}

#[test]
fn a_limit_on_a_model_reaches_its_snapshots_and_fine_tunes_in_any_case() {
    run(async {
        let limit = |model: &str| {
            format!(
                "[[limit]]\nname = \"m\"\nonly = {{ model = [\"{model}\"] }}\nwindow = \"day\"\nhard = 0\n"
            )
        };
        for (named, reached, others) in [
            ("gpt-4o", vec!["gpt-4o", DATED, TUNED, "ft:gpt-4o:acme::id"], vec!["gpt-4o-mini", "gpt-4.1"]),
            ("GPT-4O", vec!["gpt-4o", DATED], vec!["gpt-4o-mini"]),
            (DATED, vec![DATED, "gpt-4o", TUNED], vec!["gpt-4o-2024-11-20", "gpt-4o-mini"]),
            ("gpt-4*", vec![DATED, TUNED, "gpt-4-0613", "gpt-4.1-mini"], vec!["gpt-5"]),
            ("gpt-4", vec!["gpt-4-0613"], vec!["gpt-4o", "gpt-4-turbo"]),
            ("ft:gpt-4o", vec![TUNED], vec!["gpt-4o", DATED]),
        ] {
            let house = House::with(&limit(named)).await;
            for model in reached {
                assert_eq!(
                    ask(&house, model).await.code(),
                    "organization_spend_limit_exceeded",
                    "{named}: {model}"
                );
            }
            for model in others {
                assert_eq!(ask(&house, model).await.status, StatusCode::OK, "{named}: {model}");
            }
        }
    });
}

#[test]
fn snapshots_and_fine_tunes_count_on_the_meter_of_their_model() {
    run(async {
        let house = House::with(
            "[[limit]]\nname = \"m\"\nper = \"model\"\nunit = \"requests\"\nwindow = \"day\"\nhard = 3\n",
        )
        .await;
        for model in ["gpt-4o", DATED, TUNED] {
            assert_eq!(ask(&house, model).await.status, StatusCode::OK, "{model}");
        }
        for model in ["gpt-4o", DATED, "gpt-4o-2024-11-20", "ft:gpt-4o:acme::other", "Gpt-4o"] {
            assert_eq!(ask(&house, model).await.code(), "project_spend_limit_exceeded", "{model}");
        }
        assert_eq!(ask(&house, "gpt-4o-mini").await.status, StatusCode::OK);
        let meters = house.admin(Method::GET, "/guard/v1/limits/m", None).await.json()["meters"].clone();
        let subjects: Vec<&str> =
            meters.as_array().unwrap().iter().map(|meter| meter["subject"].as_str().unwrap()).collect();
        assert_eq!(subjects, ["gpt-4o", "gpt-4o-mini"]);
        let explained = house.admin(Method::GET, "/guard/v1/limits/m/explain", None).await.json();
        assert_eq!(explained["agrees"], true, "{explained}");
    });
}

#[test]
fn a_deny_list_reaches_what_may_be_its_model_and_an_allow_list_only_what_is() {
    run(async {
        let house = House::with("").await;
        let permit = async |mode: &str, model: &str| {
            let rule = json!({ "mode": mode, "model_ids": [model] });
            let path = "/v1/organization/projects/default/model_permissions";
            assert_eq!(house.admin(Method::POST, path, Some(rule)).await.status, StatusCode::OK);
        };
        let is_refused = async |model: &str| {
            let answer = ask(&house, model).await;
            assert!(answer.status == StatusCode::OK || answer.code() == "model_not_found", "{answer:?}");
            answer.status != StatusCode::OK
        };
        permit("deny_list", "gpt-4o").await;
        for (model, is_denied) in
            [("gpt-4o", true), (DATED, true), (TUNED, true), ("GPT-4o", true), ("gpt-4o-mini", false)]
        {
            assert_eq!(is_refused(model).await, is_denied, "{model}");
        }
        permit("deny_list", DATED).await;
        for (model, is_denied) in [(DATED, true), ("gpt-4o", true), ("gpt-4o-2024-11-20", false)] {
            assert_eq!(is_refused(model).await, is_denied, "{model}");
        }
        permit("allow_list", "gpt-4o").await;
        for (model, is_denied) in [("gpt-4o", false), (DATED, false), (TUNED, true), ("gpt-4o-mini", true)] {
            assert_eq!(is_refused(model).await, is_denied, "{model}");
        }
        permit("allow_list", DATED).await;
        for (model, is_denied) in [(DATED, false), ("gpt-4o", true), ("gpt-4o-2024-11-20", true)] {
            assert_eq!(is_refused(model).await, is_denied, "{model}");
        }
    });
}

#[test]
fn a_keys_models_reach_their_snapshots() {
    run(async {
        let house = House::with("").await;
        let key = house.make_key(json!({ "name": "narrow", "models": ["gpt-4o", "gpt-5*"] })).await;
        let bearer = format!("Bearer {}", key["value"].as_str().unwrap());
        for (model, status) in
            [(DATED, 200), ("gpt-5-mini-2025-08-07", 200), ("gpt-4o-mini", 403), (TUNED, 403)]
        {
            let body = bytes::Bytes::from(chat(json!({ "model": model })).to_string());
            let headers = [("authorization", bearer.as_str())];
            let answer = call(&house.proxy, Method::POST, "/v1/chat/completions", &headers, body).await;
            assert_eq!(answer.status, status, "{model} {answer:?}");
        }
    });
}

#[test]
fn the_model_of_an_image_tool_must_be_allowed_too() {
    run(async {
        let house = House::with("").await;
        let of = async |models: Value| {
            let key = house.make_key(json!({ "name": "k", "models": models })).await;
            format!("Bearer {}", key["value"].as_str().unwrap())
        };
        let narrow = of(json!(["gpt-5*"])).await;
        // The dearest image model that is still served is one of these, whatever the day.
        let wide = of(json!(["gpt-5*", "gpt-image-1.5", "gpt-image-2"])).await;
        let named = json!({ "type": "image_generation", "model": "gpt-image-1.5" });
        let other = json!({ "type": "image_generation", "model": "gpt-image-1" });
        let unnamed = json!({ "type": "image_generation" });
        for (bearer, tool, refused) in [
            (&narrow, &named, Some("gpt-image-1.5`")),
            (&narrow, &unnamed, Some("gpt-image-")),
            (&wide, &named, None),
            (&wide, &unnamed, None),
            (&wide, &other, Some("gpt-image-1`")),
        ] {
            let body =
                json!({ "model": "gpt-5-mini", "input": "x", "tools": [tool], "max_output_tokens": 16 });
            let (headers, body) =
                ([("authorization", bearer.as_str())], bytes::Bytes::from(body.to_string()));
            let answer = call(&house.proxy, Method::POST, "/v1/responses", &headers, body).await;
            match refused {
                None => assert_eq!(answer.status, StatusCode::OK, "{tool} {answer:?}"),
                Some(model) => {
                    assert_eq!(
                        (answer.status, answer.code().as_str()),
                        (StatusCode::FORBIDDEN, "model_not_found")
                    );
                    let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
                    assert!(message.contains(&format!("`{model}")), "{message}");
                }
            }
        }
    });
}

#[test]
fn what_a_request_did_not_use_of_its_rates_is_given_back_at_its_end() {
    run(async {
        let config = "[[limit]]\nname = \"tpm\"\nunit = \"tokens\"\nwindow = \"minute\"\nhard = 20000\n";
        let house = House::with(config).await;
        let bound = json!({ "max_completion_tokens": 15_000 });
        let used = [("x-fake-completion-tokens", "100")];
        for _ in 0..20 {
            let answer = house.chat(&used, bound.clone()).await;
            assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        }
        house.settled().await;
        // While one runs, its whole bound is taken.
        let slow =
            house.chat(&[("x-fake-latency-ms", "1000"), ("x-fake-completion-tokens", "100")], bound.clone());
        let beside = async {
            while house.guard.in_doubt().1 == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            house.chat(&used, bound.clone()).await
        };
        let (slow, beside) = tokio::join!(slow, beside);
        assert_eq!(slow.status, StatusCode::OK);
        assert_eq!(
            (beside.status, beside.code().as_str()),
            (StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded")
        );
        assert_eq!(beside.json()["error"]["type"], "tokens");
        // What upstream refused, or a limit, has used nothing.
        for _ in 0..5 {
            house.chat(&[("x-fake-status", "400")], bound.clone()).await;
            house.chat(&[("x-spendguard-max-cost-usd", "0")], bound.clone()).await;
        }
        assert_eq!(house.chat(&used, bound).await.status, StatusCode::OK);
    });
}

#[test]
fn an_output_without_a_bound_takes_a_minute_at_most_and_what_it_takes_counts() {
    run(async {
        let house =
            House::with("[[limit]]\nname = \"tpm\"\nunit = \"tokens\"\nwindow = \"minute\"\nhard = 1000\n")
                .await;
        let slow = [("x-fake-latency-ms", "500"), ("x-fake-completion-tokens", "50")];
        let ask = || house.chat(&slow, json!({}));
        let (a, b, c, d) = tokio::join!(ask(), ask(), ask(), ask());
        let answers = [a, b, c, d];
        let passed: Vec<&Answer> = answers.iter().filter(|answer| answer.status == StatusCode::OK).collect();
        assert_eq!(passed.len(), 1, "{answers:?}");
        let bound: u64 = passed[0].header("x-spendguard-clamped-output-tokens").parse().unwrap();
        assert!((800..1_000).contains(&bound), "{bound}");
        let sent = call(&house.fake_direct, Method::GET, "/__last", &[], bytes::Bytes::new()).await.json();
        let sent: Value = serde_json::from_str(sent["body"].as_str().unwrap()).unwrap();
        assert_eq!(sent["max_completion_tokens"], bound);
    });
}

#[test]
fn text_whose_bytes_are_more_than_a_minute_has_is_counted() {
    run(async {
        let house =
            House::with("[[limit]]\nname = \"tpm\"\nunit = \"tokens\"\nwindow = \"minute\"\nhard = 50000\n")
                .await;
        let text =
            "All happy families are alike; each unhappy family is unhappy in its own way. ".repeat(1_500);
        let messages = json!([{ "role": "user", "content": text }]);
        let answer = house.chat(&[], json!({ "messages": messages, "max_completion_tokens": 100 })).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let messages = json!([{ "role": "user", "content": text.repeat(4) }]);
        let answer = house.chat(&[], json!({ "messages": messages, "max_completion_tokens": 100 })).await;
        let message = answer.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
        assert!(
            message.starts_with("Request too large for limit \"tpm\" on tokens per min (TPM): Limit 50000"),
            "{answer:?}"
        );
    });
}

#[test]
fn a_request_larger_than_a_whole_minute_is_refused_as_too_large() {
    run(async {
        let config = "[[limit]]\nname = \"tpm\"\nunit = \"output_tokens\"\nwindow = \"minute\"\nhard = 100\n";
        let house = House::with(config).await;
        let answer = house.chat(&[], json!({ "max_completion_tokens": 101 })).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded")
        );
        assert_eq!((answer.header("x-should-retry"), answer.header("retry-after")), ("false", ""));
        assert_eq!(answer.header("x-ratelimit-remaining-tokens"), "100");
        assert_eq!(
            answer.json()["error"]["message"],
            "Request too large for limit \"tpm\" on tokens per min (TPM): Limit 100, Requested 101. The input or output \
             tokens must be reduced in order to run successfully."
        );
        assert_eq!(house.chat(&[], json!({ "max_completion_tokens": 100 })).await.status, StatusCode::OK);
    });
}

const BY_NAME: &str = "[[limit]]\nname = \"by-name\"\nonly = { key = [\"test\"] }\nunit = \"requests\"\nwindow = \"day\"\nhard = 2\n";

#[test]
fn a_key_that_is_renamed_keeps_its_limits_over_reloads_and_restarts() {
    run(async {
        let house = House::with(BY_NAME).await;
        let id = house.guard.ring().keys()[0].id.to_string();
        assert_eq!(only_keys(&house, "by-name").await, json!([id]), "looked up once the key was made");
        let made = put(
            &house,
            "by-api",
            json!({ "only": { "key": ["test"] }, "unit": "requests", "window": "day", "hard": "9" }),
        );
        assert_eq!(made.await.json()["only"]["key"], json!([id]));
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK);
        let renamed = json!({ "name": "another" });
        house.admin(Method::PATCH, &format!("/guard/v1/keys/{id}"), Some(renamed)).await;
        // A key of the old name is another key, and any change puts all limits in force again.
        let taker = house.make_key(json!({ "name": "test" })).await;
        put(&house, "other", json!({ "window": "day", "hard": "100" })).await;
        assert_eq!(only_keys(&house, "by-name").await, json!([id]));
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK);
        assert_eq!(house.chat(&[], json!({})).await.header("x-spendguard-limit"), "by-name");
        let bearer = format!("Bearer {}", taker["value"].as_str().unwrap());
        let (headers, body) =
            ([("authorization", bearer.as_str())], bytes::Bytes::from(chat(json!({})).to_string()));
        assert_eq!(
            call(&house.proxy, Method::POST, "/v1/chat/completions", &headers, body).await.status,
            StatusCode::OK
        );

        let (key, folder) = (house.key.clone(), house.close().await);
        let mut house = House::reopened(folder, BY_NAME).await;
        house.key = key;
        assert_eq!(only_keys(&house, "by-name").await, json!([id]));
        assert_eq!(house.chat(&[], json!({})).await.header("x-spendguard-limit"), "by-name");
        house.admin(Method::DELETE, &format!("/guard/v1/keys/{id}"), None).await;
        put(&house, "other", json!({ "window": "day", "hard": "101" })).await;
        assert_eq!(
            only_keys(&house, "by-name").await,
            json!([taker["id"]]),
            "its key is revoked, so it is looked up again"
        );
    });
}

#[test]
fn a_project_that_is_renamed_keeps_its_limits() {
    run(async {
        let house = House::with(
            "[[limit]]\nname = \"p\"\nonly = { project = [\"Search\"] }\nwindow = \"day\"\nhard = 0\n",
        )
        .await;
        let project = json!({ "name": "Search", "id": "s" });
        house.admin(Method::POST, "/guard/v1/projects", Some(project)).await;
        let key = house.make_key(json!({ "name": "k", "project_id": "s" })).await;
        let bearer = format!("Bearer {}", key["value"].as_str().unwrap());
        let ask = async || {
            let (headers, body) =
                ([("authorization", bearer.as_str())], bytes::Bytes::from(chat(json!({})).to_string()));
            call(&house.proxy, Method::POST, "/v1/chat/completions", &headers, body).await.code()
        };
        assert_eq!(ask().await, "organization_spend_limit_exceeded");
        let renamed =
            house.admin(Method::POST, "/v1/organization/projects/s", Some(json!({ "name": "Find" }))).await;
        assert_eq!(renamed.status, StatusCode::OK, "{renamed:?}");
        put(&house, "other", json!({ "window": "day", "hard": "100" })).await;
        assert_eq!(ask().await, "organization_spend_limit_exceeded");
    });
}

#[test]
fn a_name_that_two_keys_have_or_none_is_an_error_that_says_so() {
    run(async {
        let house = House::with("").await;
        let mut ids = Vec::new();
        for _ in 0..2 {
            ids.push(house.make_key(json!({ "name": "twin" })).await["id"].as_str().unwrap().to_owned());
        }
        ids.sort_unstable();
        let rule = |key: &str| json!({ "only": { "key": [key] }, "window": "day", "hard": "1" });
        for (name, parts) in [("twin", [&*ids[0], &*ids[1]]), ("nobody", ["nobody", "id"])] {
            let refused = put(&house, "l", rule(name)).await;
            assert_eq!(
                (refused.status, &refused.json()["error"]["param"]),
                (StatusCode::BAD_REQUEST, &json!("only"))
            );
            let message = refused.json()["error"]["message"].as_str().unwrap().to_owned();
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        }
        assert_eq!(put(&house, "l", rule(&ids[1])).await.status, StatusCode::OK);
        let file = house.folder.path().join("more.toml");
        std::fs::write(&file, BY_NAME.replace("test", "twin")).unwrap();
        let limits =
            spendguard::config::load(Some(&file), [("OPENAI_API_KEY".to_owned(), "sk-x".to_owned())]);
        let error =
            house.rulebook.install_file_limits(limits.unwrap().limits, "UTC".into()).await.unwrap_err();
        assert!(error.to_string().contains(&ids[0]), "{error}");
        let left = house.admin(Method::GET, "/guard/v1/limits", None).await.json();
        assert_eq!(left["data"].as_array().unwrap().len(), 1, "nothing has changed: {left}");
    });
}

#[test]
fn an_entry_with_all_its_corrections_is_never_below_zero() {
    run(async {
        let house = House::with("[[limit]]\nname = \"m\"\nwindow = \"month\"\nhard = 0.01\n").await;
        house.chat(&[], json!({})).await;
        let entry = house.entries().await.remove(0);
        let cost: spendguard::domain::Money = entry["cost_usd"].as_str().unwrap().parse().unwrap();
        let path = format!("/guard/v1/ledger/{}/adjust", entry["id"].as_str().unwrap());
        let adjust = async |usd: String| {
            house.admin(Method::POST, &path, Some(json!({ "amount_usd": usd, "note": "x" }))).await
        };
        let refused = adjust("-1000".to_owned()).await;
        assert_eq!(
            (refused.status, &refused.json()["error"]["param"]),
            (StatusCode::BAD_REQUEST, &json!("amount_usd"))
        );
        assert!(
            refused.json()["error"]["message"].as_str().unwrap().contains(&cost.to_string()),
            "{refused:?}"
        );
        assert_eq!(adjust("0.5".to_owned()).await.status, StatusCode::CREATED);
        // Of many at once that would each take all, one does.
        let all = format!("-{}", cost + "0.5".parse().unwrap());
        let one = || adjust(all.clone());
        let (a, b, c, d) = tokio::join!(one(), one(), one(), one());
        let answers = [a, b, c, d];
        let made = answers.iter().filter(|answer| answer.status == StatusCode::CREATED).count();
        assert_eq!(made, 1, "{answers:?}");
        assert_eq!(house.meter("m").await["settled"], "0");
        assert_eq!(adjust("-0.000000001".to_owned()).await.status, StatusCode::BAD_REQUEST);
        let verified = house.admin(Method::GET, "/guard/v1/ledger/verify", None).await.json();
        assert_eq!(verified["ok"], true, "{verified}");
    });
}

#[test]
fn keys_that_upstream_never_accepted_are_in_no_list_and_no_metric() {
    run(async {
        let limits = "[[limit]]\nname = \"each\"\nper = \"key\"\nwindow = \"day\"\nhard = 1\n";
        let house =
            House::in_front_of(None, None, &format!("[keys]\nunknown = \"pass-through\"\n{limits}")).await;
        let ask = async |key: &str, status: &str| {
            let bearer = format!("Bearer {key}");
            let headers = [("authorization", bearer.as_str()), ("x-fake-status", status)];
            let body = bytes::Bytes::from(chat(json!({})).to_string());
            let ordered = if status.is_empty() { &headers[..1] } else { &headers[..] };
            call(&house.proxy, Method::POST, "/v1/chat/completions", ordered, body).await
        };
        for number in 0..50 {
            let status = ["401", "429", "500"][number % 3];
            ask(&format!("sk-invented-{number:08}"), status).await;
        }
        let real = ask("sk-proj-a-real-key", "").await;
        assert_eq!(real.status, StatusCode::OK, "{real:?}");
        house.settled().await;
        let keys = house.admin(Method::GET, "/guard/v1/keys", None).await.json();
        let listed: Vec<&Value> =
            keys["data"].as_array().unwrap().iter().filter(|key| key["name"] != "test").collect();
        assert_eq!(listed.len(), 1, "{keys}");
        let metrics =
            String::from_utf8_lossy(&house.admin(Method::GET, "/metrics", None).await.body).into_owned();
        let labels: std::collections::BTreeSet<&str> = metrics
            .split("key_")
            .skip(1)
            .map(|rest| rest.split('"').next().unwrap())
            .filter(|id| id.len() == 20)
            .collect();
        let known: Vec<String> = house
            .guard
            .ring()
            .keys()
            .iter()
            .map(|key| key.id.trim_start_matches("key_").to_owned())
            .collect();
        assert!(labels.iter().all(|label| known.iter().any(|id| id == label)), "{labels:?} {known:?}");
        let real = format!("key=\"{}\"", listed[0]["id"].as_str().unwrap());
        assert!(metrics.contains(&real), "a real key has series of its own from its first request on");
    });
}
