//! Usage and costs, in buckets.

use http::Method;
use serde_json::{Value, json};

use crate::harness::{House, run};
use crate::organization::{chat_with, get, make_project, post, refused};

/// Two chats and an embedding, by two projects: the id of the second one, and
/// that of its key.
async fn spend(house: &House) -> (String, String) {
    let other = make_project(house, "Other").await;
    let account = post(house, &format!("projects/{other}/service_accounts"), json!({ "name": "b" })).await;
    let key = account["api_key"]["value"].as_str().unwrap();
    house.chat(&[], json!({})).await;
    chat_with(house, key, "gpt-4o").await;
    let input = json!({ "model": "text-embedding-3-small", "input": "hello" });
    house.post("/v1/embeddings", &[], &input).await;
    house.settled().await;
    (other, account["api_key"]["id"].as_str().unwrap().to_owned())
}

#[test]
fn usage_is_that_of_the_ledger_in_buckets_of_every_width() {
    run(async {
        let house = House::with("").await;
        spend(&house).await;
        let entries = house.entries().await;
        let sum = |of: &dyn Fn(&Value) -> bool, field: &str| -> u64 {
            entries.iter().filter(|e| of(e)).map(|e| e["usage"][field].as_u64().unwrap()).sum()
        };
        let is_chat = |e: &Value| e["endpoint"] == "/v1/chat/completions";
        for width in ["1m", "1h", "1d"] {
            let page = get(&house, &format!("usage/completions?start_time=0&bucket_width={width}")).await;
            assert!(page["has_more"] == true && page["data"][0]["results"] == json!([]), "{page}");
            let now = house.guard.clock().now_s();
            let query = format!("usage/completions?start_time={}&bucket_width={width}", now - 30);
            let page = get(&house, &query).await;
            let results: Vec<&Value> = page["data"]
                .as_array()
                .unwrap()
                .iter()
                .flat_map(|b| b["results"].as_array().unwrap())
                .collect();
            let total = |field: &str| -> u64 { results.iter().map(|r| r[field].as_u64().unwrap()).sum() };
            assert_eq!(total("num_model_requests"), 2, "{width} {page}");
            assert_eq!(total("input_tokens"), sum(&is_chat, "input_tokens"), "{width}");
            assert_eq!(total("output_tokens"), sum(&is_chat, "output_tokens"), "{width}");
            let parts =
                ["input_uncached_tokens", "input_cached_tokens", "input_cache_write_tokens"].map(total);
            assert_eq!(parts.iter().sum::<u64>(), total("input_tokens"), "{width}");
        }
    });
}

#[test]
fn costs_are_those_of_the_ledger_and_both_can_be_grouped_and_narrowed() {
    run(async {
        let house = House::with("").await;
        let (other, key) = spend(&house).await;
        let entries = house.entries().await;
        let day = house.guard.clock().now_s() / 86_400 * 86_400;
        let costs = get(&house, &format!("costs?start_time={day}")).await;
        let cost: Vec<&Value> = entries.iter().map(|e| &e["cost_usd"]).collect();
        let nano = |text: &str| text.parse::<spendguard::domain::Money>().unwrap().nano();
        let whole: i64 = cost.iter().map(|cost| nano(cost.as_str().unwrap())).sum();
        let amount = &costs["data"][0]["results"][0]["amount"];
        assert_eq!((nano(&amount["value"].to_string()), &amount["currency"]), (whole, &json!("usd")));
        let by =
            get(&house, &format!("costs?start_time={day}&group_by[]=project_id&group_by[]=line_item")).await;
        assert_eq!(by["data"][0]["results"].as_array().unwrap().len(), 3, "{by}");
        let one =
            get(&house, &format!("costs?start_time={day}&line_items[]=gpt-4o&group_by=line_item")).await;
        assert_eq!(one["data"][0]["results"][0]["line_item"], "gpt-4o");
        let of = |query: &str| format!("usage/completions?start_time={day}&{query}");
        let grouped = get(&house, &of("group_by=project_id&group_by=model&group_by=batch")).await;
        let results = grouped["data"][0]["results"].as_array().unwrap();
        let mine = results.iter().find(|r| r["project_id"] == json!(other)).unwrap();
        assert_eq!((&mine["batch"], &mine["api_key_id"]), (&json!(false), &Value::Null));
        for (query, requests) in [
            (format!("project_ids[]={other}"), json!(1)),
            (format!("project_ids[]={other}&project_ids[]=default"), json!(2)),
            ("models=gpt-4o".to_owned(), json!(1)),
            (format!("api_key_ids={key}"), json!(1)),
            ("models=nothing".to_owned(), Value::Null),
            ("batch=true".to_owned(), Value::Null),
            ("batch=false".to_owned(), json!(2)),
        ] {
            let page = get(&house, &of(&query)).await;
            assert_eq!(page["data"][0]["results"][0]["num_model_requests"], requests, "{query}");
        }
        let embeddings = get(&house, &format!("usage/embeddings?start_time={day}")).await;
        let result = &embeddings["data"][0]["results"][0];
        assert_eq!((&result["num_model_requests"], result.get("output_tokens")), (&json!(1), None));
        let vectors = get(&house, &format!("usage/vector_stores?start_time={day}&group_by=project_id")).await;
        assert_eq!(vectors["data"][0]["results"], json!([]));
    });
}

#[test]
fn usage_is_paged_by_buckets_and_bad_questions_are_refused() {
    run(async {
        let house = House::with("").await;
        let day = 1_700_000_000 / 86_400 * 86_400;
        let query = format!("costs?start_time={}&end_time={}&limit=2", day + 5, day + 3 * 86_400 + 1);
        let (mut starts, mut page) = (Vec::new(), get(&house, &query).await);
        loop {
            let buckets = page["data"].as_array().unwrap();
            assert!(!buckets.is_empty(), "no page is empty");
            starts.extend(buckets.iter().map(|bucket| bucket["start_time"].as_i64().unwrap()));
            let Some(next) = page["next_page"].as_str() else { break };
            assert_eq!(page["has_more"], true);
            page = get(&house, &format!("{query}&page={next}")).await;
        }
        assert_eq!(starts, (0..4).map(|n| day + n * 86_400).collect::<Vec<_>>());
        assert_eq!(page["has_more"], false);
        for (query, status) in [
            ("costs", 400),
            ("costs?start_time=soon", 400),
            ("costs?start_time=-1", 400),
            ("costs?start_time=0&bucket_width=1h", 400),
            ("costs?start_time=0&limit=181", 400),
            ("costs?start_time=0&limit=0", 400),
            ("costs?start_time=0&page=page_7", 400),
            ("costs?start_time=0&page=page_999999999999999999", 400),
            ("costs?start_time=0&models=x", 400),
            ("usage/embeddings?start_time=0&group_by=service_tier", 400),
            ("usage/completions?start_time=0&user_ids=x", 400),
            ("usage/completions?start_time=0&bucket_width=1d&limit=32", 400),
            ("usage/completions?start_time=0&surplus=1", 400),
            ("usage/nothing?start_time=0", 404),
        ] {
            assert_eq!(refused(&house, Method::GET, query, None).await.0, status, "{query}");
        }
        let many = "&project_ids=x".repeat(101);
        assert_eq!(refused(&house, Method::GET, &format!("costs?start_time=0{many}"), None).await.0, 400);
    });
}
