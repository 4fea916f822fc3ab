//! What the lines of a batch may be, and the ways in which its file may come.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use spendguard::domain::Money;

use super::{CHAT, Client, LIMIT, SHORT, SOL, bases, chat, chats, form, id, line, meter, reported, truth};
use crate::harness::{House, call, run};

#[test]
fn a_line_without_a_bound_is_held_at_all_that_its_model_may_write() {
    run(async {
        let house = House::with(LIMIT).await;
        let client = Client::of(&house);
        let open = line("a", CHAT, &json!({ "model": SOL, "messages": [] }));
        let batch = client.begin(&[open], &[SHORT]).await;
        // 128,000 tokens: the lines go upstream as they are, and nothing can be written into them.
        assert!(meter(&house, "all").await.1 >= Money::from_nano(128_000 * 5_000));
        assert_eq!(client.read(&batch).await["status"], "completed");
        assert_eq!(meter(&house, "all").await, (truth(&house), Money::ZERO));
    });
}

#[test]
fn several_answers_of_a_line_are_held_and_settled_all() {
    run(async {
        let house = House::with(LIMIT).await;
        let client = Client::of(&house);
        let body = json!({ "model": SOL, "max_completion_tokens": 100, "n": 4, "messages": [] });
        let batch = client.begin(&[line("a", CHAT, &body)], &[SHORT]).await;
        assert!(meter(&house, "all").await.1 >= Money::from_nano(4 * 100 * 5_000));
        client.read(&batch).await;
        assert_eq!(house.fake.served()[SOL].completion_tokens, 80);
        assert_eq!(meter(&house, "all").await, (truth(&house), Money::ZERO));
    });
}

#[test]
fn lines_of_each_endpoint_are_settled_by_the_usage_of_their_answers() {
    let cases = [
        ("/v1/responses", json!({ "model": SOL, "input": "hello", "max_output_tokens": 50 })),
        ("/v1/embeddings", json!({ "model": "text-embedding-3-small", "input": "hello, you all" })),
        (CHAT, json!({ "model": SOL, "messages": [], "max_completion_tokens": 50 })),
    ];
    run(async {
        for (endpoint, body) in cases {
            let house = House::with(LIMIT).await;
            let client = Client::of(&house);
            let file = client.upload(&(line("a", endpoint, &body) + &line("b", endpoint, &body))).await;
            let batch = id(&client.create(&file, endpoint, &[SHORT]).await);
            assert!(meter(&house, "all").await.1 > Money::ZERO);
            assert_eq!(client.read(&batch).await["status"], "completed");
            assert!(truth(&house) > Money::ZERO);
            assert_eq!(meter(&house, "all").await, (truth(&house), Money::ZERO), "{endpoint}");
            assert_eq!(bases(&house).await, reported(), "{endpoint}");
        }
    });
}

#[test]
fn images_of_a_batch_cost_half() {
    run(async {
        let house = House::with(LIMIT).await;
        let client = Client::of(&house);
        let url = "/v1/images/generations";
        let body = json!({ "model": "gpt-image-2", "prompt": "a cat on a mat", "quality": "low" });
        let file = client.upload(&line("a", url, &body)).await;
        let batch = id(&client.create(&file, url, &[SHORT]).await);
        assert_eq!(client.read(&batch).await["status"], "completed");
        // 4 tokens of text at 2.5 and 272 of the image at 15 dollars a million.
        assert_eq!(meter(&house, "all").await, (Money::from_nano(4 * 2_500 + 272 * 15_000), Money::ZERO));
    });
}

#[test]
fn moderations_of_a_batch_are_free() {
    run(async {
        let house = House::with(LIMIT).await;
        let client = Client::of(&house);
        let file = client.upload(&line("a", "/v1/moderations", &json!({ "input": "hello" }))).await;
        let batch = id(&client.create(&file, "/v1/moderations", &[SHORT]).await);
        assert_eq!(meter(&house, "all").await, (Money::ZERO, Money::ZERO));
        assert_eq!(client.read(&batch).await["status"], "completed");
        assert_eq!(meter(&house, "all").await, (Money::ZERO, Money::ZERO));
    });
}

#[test]
fn a_line_that_is_refused_upstream_costs_nothing() {
    run(async {
        let house = House::with(&format!("{LIMIT}[pricing]\nunknown_model = \"dearest\"\n")).await;
        let client = Client::of(&house);
        let batch = client.begin(&[chat("a", "no-such-model"), chat("b", SOL)], &[SHORT]).await;
        let end = client.read(&batch).await;
        assert_eq!(end["request_counts"], json!({ "total": 2, "completed": 1, "failed": 1 }));
        assert_eq!(meter(&house, "all").await, (truth(&house), Money::ZERO));
    });
}

#[test]
fn a_line_ends_with_either_line_end_and_the_last_with_none() {
    run(async {
        let house = House::with(LIMIT).await;
        let client = Client::of(&house);
        let lines = chats(3, SOL);
        let (first, last) = (lines[0].trim_end(), lines[2].trim_end());
        let file = client.upload(&format!("{first}\r\n\n{}{last}", lines[1])).await;
        let batch = id(&client.create(&file, CHAT, &[SHORT]).await);
        assert!(meter(&house, "all").await.1 > Money::from_nano(3 * 100 * 5_000));
        assert_eq!(client.read(&batch).await["request_counts"]["completed"], 3);
        assert_eq!(meter(&house, "all").await, (truth(&house), Money::ZERO));
    });
}

#[test]
fn a_file_is_bounded_alike_in_one_piece_and_in_parts_that_divide_its_lines() {
    run(async {
        let house = House::with(LIMIT).await;
        let client = Client::of(&house);
        let text = chats(6, SOL).concat();
        let whole = client.begin(&chats(6, SOL), &[SHORT]).await;
        let (_, hold) = meter(&house, "all").await;
        assert_eq!(client.read(&whole).await["status"], "completed");
        let (settled, _) = meter(&house, "all").await;

        let upload = json!({ "filename": "in.jsonl", "purpose": "batch", "bytes": text.len(), "mime_type": "application/jsonl" });
        let upload = id(&client.post("/v1/uploads", &[], &upload).await);
        let mut parts = Vec::new();
        for part in text.as_bytes().chunks(100) {
            let path = format!("/v1/uploads/{upload}/parts");
            parts.push(id(&client.post_form(&path, form(&[("@data", part)])).await));
        }
        let complete = json!({ "part_ids": parts });
        let complete = client.post(&format!("/v1/uploads/{upload}/complete"), &[], &complete).await.json();
        assert_eq!(complete["status"], "completed", "{complete}");
        let file = complete["file"]["id"].as_str().unwrap();
        assert_eq!(client.get(&format!("/v1/files/{file}/content")).await.body, text);
        assert_eq!(meter(&house, "all").await, (settled, Money::ZERO));
        let batch = id(&client.create(file, CHAT, &[SHORT]).await);
        assert_eq!(meter(&house, "all").await, (settled, hold));
        assert_eq!(client.read(&batch).await["status"], "completed");
        assert_eq!(meter(&house, "all").await, (truth(&house), Money::ZERO));
    });
}

#[test]
fn parts_are_put_together_in_the_order_that_completes_them() {
    run(async {
        let house = House::with(LIMIT).await;
        let client = Client::of(&house);
        let lines = [chat("a", SOL), chat("b", "gpt-5.5")];
        let upload = json!({ "filename": "in.jsonl", "purpose": "batch", "bytes": lines.concat().len(), "mime_type": "application/jsonl" });
        let upload = id(&client.post("/v1/uploads", &[], &upload).await);
        let mut parts: Vec<String> = Vec::new();
        for part in lines.iter().rev() {
            let path = format!("/v1/uploads/{upload}/parts");
            parts.push(id(&client.post_form(&path, form(&[("@data", part.as_bytes())])).await));
        }
        parts.reverse();
        let path = format!("/v1/uploads/{upload}/complete");
        let complete = client.post(&path, &[], &json!({ "part_ids": parts })).await.json();
        let file = complete["file"]["id"].as_str().unwrap();
        let batch = id(&client.create(file, CHAT, &[SHORT]).await);
        assert!(meter(&house, "all").await.1 > Money::from_nano(100 * 5_000 + 100 * 15_000));
        client.read(&batch).await;
        assert_eq!(meter(&house, "all").await, (truth(&house), Money::ZERO));
    });
}

#[test]
fn what_a_batch_is_made_with_arrives_as_it_was_sent() {
    run(async {
        let house = House::with(LIMIT).await;
        let client = Client::of(&house);
        let file = client.upload(&chats(1, SOL).concat()).await;
        let body = json!({
            "input_file_id": file, "endpoint": CHAT, "completion_window": "24h", "metadata": { "team": "search" },
            "output_expires_after": { "anchor": "created_at", "seconds": 3_600 },
        });
        let answer = client.post("/v1/batches", &[SHORT], &body).await;
        assert_eq!(answer.json()["metadata"], json!({ "team": "search" }), "{answer:?}");
        let last = call(&house.fake_direct, Method::GET, "/__last", &[], Bytes::new()).await.json();
        let sent: Value = serde_json::from_str(last["body"].as_str().unwrap()).unwrap();
        assert_eq!(sent, body);
        for body in [json!({}), json!({ "input_file_id": file, "endpoint": CHAT, "completion_window": "1h" })]
        {
            let refused = client.post("/v1/batches", &[], &body).await;
            assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{refused:?}");
        }
    });
}

/// What is held for a batch of one line; `None` if it is refused.
async fn hold(url: &str, body: Value) -> Option<Money> {
    let house = House::with("[[limit]]\nname = \"all\"\nwindow = \"month\"\nhard = 100\n").await;
    let client = Client::of(&house);
    let file = client.upload(&line("a", url, &body)).await;
    let answer = client.create(&file, url, &[]).await;
    (answer.status == StatusCode::OK).then_some(())?;
    Some(meter(&house, "all").await.1)
}

#[test]
fn a_line_whose_hosted_calls_nothing_bounds_is_refused_or_held_at_more_than_would_be_written_into_a_request()
{
    run(async {
        let searching = |calls: Option<u64>| {
            json!({ "model": SOL, "input": "hello", "max_output_tokens": 100, "max_tool_calls": calls,
                "tools": [{ "type": "web_search" }] })
        };
        // Nothing is written into a line: `guard.tool_calls_max`, which is 8, bounds none of its calls.
        let twenty = hold("/v1/responses", searching(Some(20))).await.unwrap();
        let open = hold("/v1/responses", searching(None)).await;
        assert!(open.is_none_or(|open| open > twenty), "{open:?} {twenty}");
    });
}

#[test]
fn a_line_with_hosted_calls_and_no_bound_of_output_is_held_at_the_models_maximum_of_each_turn() {
    run(async {
        let body = json!({ "model": SOL, "input": "hello", "max_tool_calls": 2, "tools": [{ "type": "web_search" }] });
        let held = hold("/v1/responses", body).await;
        // Three turns of 128,000 tokens.
        assert!(held.is_none_or(|held| held >= Money::from_nano(3 * 128_000 * 5_000)), "{held:?}");
    });
}

#[test]
fn a_model_that_always_searches_is_held_at_the_fee_of_its_search() {
    run(async {
        let body = json!({ "model": "gpt-4o-search-preview", "messages": [], "max_completion_tokens": 10 });
        let held = hold(CHAT, body).await.unwrap();
        // 25 dollars per thousand searches.
        assert!(held >= Money::from_nano(25_000_000), "{held}");
    });
}
