//! Batches: each is held as a job at the most that its lines can cost at batch rates, and settled for the lines that
//! were completed, once, whether the guard or a client sees its end first.
//!
//! Prices are OpenAI's of the batch tier, in nano-dollars a token.

mod billed;
mod inputs;
mod polling;
mod refused;

use std::collections::BTreeSet;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use spendguard::domain::Money;
use spendguard::fake_openai::Served;
use spendguard::upstream::Upstream;

use crate::harness::{Answer, House, call, run};

pub(crate) const LIMIT: &str = "[[limit]]\nname = \"all\"\nwindow = \"month\"\nhard = 10\n";
pub(crate) const CHAT: &str = "/v1/chat/completions";
pub(crate) const SOL: &str = "gpt-6.1-sol";
pub(crate) const FIVE: &str = "gpt-5.5";
/// Input, cached input and output; what is written to the cache of `SOL` costs 1,250.
const RATES: [(&str, [u64; 3]); 4] = [
    (SOL, [1_000, 50, 5_000]),
    (FIVE, [2_500, 250, 15_000]),
    // Its cached input has no discount in batches.
    ("gpt-4o-mini", [75, 75, 300]),
    ("text-embedding-3-small", [10, 10, 0]),
];
/// It ends when it is read first.
pub(crate) const SHORT: (&str, &str) = ("x-fake-batch-reads", "0");
/// More reads than any test makes: only a cancellation ends such a batch.
pub(crate) const LASTING: (&str, &str) = ("x-fake-batch-reads", "1000000");

/// What calls with one key.
#[derive(Clone, Copy)]
pub(crate) struct Client<'a> {
    proxy: &'a Upstream,
    key: &'a str,
}

impl<'a> Client<'a> {
    pub(crate) fn of(house: &'a House) -> Self {
        Self { proxy: &house.proxy, key: &house.key }
    }

    pub(crate) fn with_key(proxy: &'a Upstream, key: &'a str) -> Self {
        Self { proxy, key }
    }

    pub(crate) async fn send(
        self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Answer {
        let bearer = format!("Bearer {}", self.key);
        let mut all = vec![("authorization", bearer.as_str())];
        all.extend_from_slice(headers);
        call(self.proxy, method, path, &all, body).await
    }

    pub(crate) async fn get(self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], Bytes::new()).await
    }

    pub(crate) async fn delete(self, path: &str) -> Answer {
        self.send(Method::DELETE, path, &[], Bytes::new()).await
    }

    pub(crate) async fn post(self, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let mut all = vec![("content-type", "application/json")];
        all.extend_from_slice(headers);
        self.send(Method::POST, path, &all, Bytes::from(body.to_string())).await
    }

    pub(crate) async fn post_form(self, path: &str, body: Bytes) -> Answer {
        self.send(Method::POST, path, &[("content-type", "multipart/form-data; boundary=b7")], body).await
    }

    /// Sends a file for a batch; returns its id.
    pub(crate) async fn upload(self, text: &str) -> String {
        let form = form(&[("purpose", b"batch"), ("@file", text.as_bytes())]);
        id(&self.post_form("/v1/files", form).await)
    }

    /// Makes a batch of a file.
    pub(crate) async fn create(self, file: &str, endpoint: &str, headers: &[(&str, &str)]) -> Answer {
        let body = json!({ "input_file_id": file, "endpoint": endpoint, "completion_window": "24h" });
        self.post("/v1/batches", headers, &body).await
    }

    /// Sends lines of chats and makes a batch of them; returns its id.
    pub(crate) async fn begin(self, lines: &[String], headers: &[(&str, &str)]) -> String {
        let file = self.upload(&lines.concat()).await;
        let answer = self.create(&file, CHAT, headers).await;
        assert_eq!((answer.status, &answer.json()["status"]), (StatusCode::OK, &json!("validating")));
        id(&answer)
    }

    pub(crate) async fn read(self, batch: &str) -> Value {
        let answer = self.get(&format!("/v1/batches/{batch}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        answer.json()
    }
}

/// The id of what an answer has made.
pub(crate) fn id(answer: &Answer) -> String {
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()["id"].as_str().unwrap().to_owned()
}

/// A form of texts, and of files whose names begin with `@`.
pub(crate) fn form(parts: &[(&str, &[u8])]) -> Bytes {
    let mut body = Vec::new();
    for (name, data) in parts {
        let file = name.strip_prefix('@');
        let name = file.unwrap_or(name);
        let file = if file.is_some() {
            "; filename=\"in.jsonl\"\r\nContent-Type: application/octet-stream"
        } else {
            ""
        };
        let head = format!("--b7\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(data);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--b7--\r\n");
    Bytes::from(body)
}

/// A line of a batch, with its end.
pub(crate) fn line(name: &str, url: &str, body: &Value) -> String {
    format!("{}\n", json!({ "custom_id": name, "method": "POST", "url": url, "body": body }))
}

/// A chat of 20 tokens that could have 100.
pub(crate) fn chat(name: &str, model: &str) -> String {
    let messages = json!([{ "role": "user", "content": "hello" }]);
    line(name, CHAT, &json!({ "model": model, "max_completion_tokens": 100, "messages": messages }))
}

/// So many chats of one model.
pub(crate) fn chats(count: usize, model: &str) -> Vec<String> {
    (0..count).map(|at| chat(&format!("{model}-{at}"), model)).collect()
}

/// What the fake has served of a model costs at batch rates.
fn cost((model, served): (&str, Served)) -> u64 {
    let (_, [input, cached, output]) = RATES.iter().find(|(name, _)| *name == model).unwrap();
    (served.prompt_tokens - served.cached_tokens) * input
        + served.cached_tokens * cached
        + served.completion_tokens * output
}

/// What the fake has served costs at batch rates.
pub(crate) fn truth(house: &House) -> Money {
    let nano = house.fake.served().iter().map(|(model, served)| cost((model, *served))).sum::<u64>();
    Money::from_nano(i64::try_from(nano).unwrap())
}

/// What is settled and what is held on a limit.
pub(crate) async fn meter(house: &House, limit: &str) -> (Money, Money) {
    house.guard.core().flush().await.unwrap();
    let meter = house.meter(limit).await;
    let amount = |field: &str| meter[field].as_str().map_or(Money::ZERO, |amount| amount.parse().unwrap());
    (amount("settled"), amount("held"))
}

/// The bases of all that was charged.
pub(crate) async fn bases(house: &House) -> BTreeSet<String> {
    let charged = house.entries().await.into_iter().filter(|entry| entry["cost_usd"] != "0");
    charged.map(|entry| entry["basis"].as_str().unwrap_or_default().to_owned()).collect()
}

pub(crate) fn reported() -> BTreeSet<String> {
    ["reported".to_owned()].into()
}

/// The ledger agrees with itself.
pub(crate) async fn verify(house: &House) {
    let report = house.books.verify().await.unwrap();
    assert!(report.differences.is_empty(), "{report:#?}");
}

#[test]
fn a_batch_is_held_at_the_most_of_its_lines_and_settled_at_batch_rates_when_its_client_sees_the_end() {
    run(async {
        let house = House::with(LIMIT).await;
        let client = Client::of(&house);
        let lines = chats(5, SOL);
        let file = client.upload(&lines.concat()).await;
        assert_eq!(meter(&house, "all").await, (Money::ZERO, Money::ZERO), "a file costs nothing");
        let batch = id(&client.create(&file, CHAT, &[("x-fake-batch-reads", "2")]).await);
        let (settled, held) = meter(&house, "all").await;
        // 100 tokens of output for each line, and of input no more than the bytes of the lines, written to the cache.
        let output = 5 * 100 * 5_000;
        let bytes = i64::try_from(lines.concat().len()).unwrap();
        assert!(
            held > Money::from_nano(output) && held <= Money::from_nano(output + bytes * 1_250),
            "{held}"
        );
        assert_eq!(settled, Money::ZERO);
        for status in ["in_progress", "finalizing"] {
            assert_eq!(client.read(&batch).await["status"], status);
            assert_eq!(meter(&house, "all").await, (Money::ZERO, held));
        }
        let end = client.read(&batch).await;
        assert_eq!((&end["status"], &end["request_counts"]["completed"]), (&json!("completed"), &json!(5)));
        assert_eq!(meter(&house, "all").await, (truth(&house), Money::ZERO));
        assert_eq!(bases(&house).await, reported());
        // Reading again is free, and so is the output.
        client.read(&batch).await;
        let output =
            client.get(&format!("/v1/files/{}/content", end["output_file_id"].as_str().unwrap())).await;
        assert_eq!(String::from_utf8_lossy(&output.body).lines().count(), 5, "{output:?}");
        assert_eq!(meter(&house, "all").await, (truth(&house), Money::ZERO));
        verify(&house).await;
    });
}

#[test]
fn cached_input_of_a_batch_costs_what_is_published_for_batches() {
    run(async {
        let house = House::with(LIMIT).await;
        let client = Client::of(&house);
        let batch = client.begin(&chats(4, "gpt-4o-mini"), &[SHORT]).await;
        assert_eq!(client.read(&batch).await["status"], "completed");
        assert!(house.fake.served()["gpt-4o-mini"].cached_tokens > 0);
        assert_eq!(meter(&house, "all").await, (truth(&house), Money::ZERO));
    });
}

#[test]
fn a_batch_is_settled_by_its_output_file_or_by_its_sum_and_charged_its_hold_without_both() {
    run(async {
        for (missing, is_known) in [
            (vec!["x-fake-batch-no-usage"], true),
            (vec!["x-fake-batch-no-output"], true),
            (vec!["x-fake-batch-no-usage", "x-fake-batch-no-output"], false),
        ] {
            let house = House::with(LIMIT).await;
            let client = Client::of(&house);
            let mut headers: Vec<_> = missing.iter().map(|name| (*name, "1")).collect();
            headers.push(SHORT);
            let batch = client.begin(&chats(3, SOL), &headers).await;
            let (_, held) = meter(&house, "all").await;
            assert_eq!(client.read(&batch).await["status"], "completed");
            let expected = if is_known { truth(&house) } else { held };
            assert_eq!(meter(&house, "all").await, (expected, Money::ZERO), "{missing:?}");
        }
    });
}

#[test]
fn lines_of_several_models_are_settled_each_at_its_own_rates_and_on_its_own_limits() {
    let of = |name: &str, model: &str| {
        format!(
            "[[limit]]\nname = \"{name}\"\nonly = {{ model = [\"{model}\"] }}\nwindow = \"month\"\nhard = 5\n"
        )
    };
    run(async {
        let house = House::with(&format!("{LIMIT}{}{}", of("sol", SOL), of("five", FIVE))).await;
        let client = Client::of(&house);
        let lines = [chats(3, SOL), chats(2, FIVE)].concat();
        let batch = client.begin(&lines, &[SHORT]).await;
        for (limit, output) in [("sol", 3 * 100 * 5_000), ("five", 2 * 100 * 15_000)] {
            let (_, held) = meter(&house, limit).await;
            assert!(held > Money::from_nano(output), "{limit}: {held}");
        }
        assert_eq!(client.read(&batch).await["status"], "completed");
        let served = house.fake.served();
        for (limit, model) in [("sol", SOL), ("five", FIVE)] {
            let own = Money::from_nano(i64::try_from(cost((model, served[model]))).unwrap());
            assert_eq!(meter(&house, limit).await, (own, Money::ZERO), "{limit}");
        }
        assert_eq!(meter(&house, "all").await, (truth(&house), Money::ZERO));
        assert_eq!(bases(&house).await, reported());
        verify(&house).await;
    });
}

#[test]
fn where_models_are_mixed_and_only_their_sum_is_known_no_less_than_the_truth_is_charged() {
    run(async {
        let house = House::with(LIMIT).await;
        let client = Client::of(&house);
        let lines = [chats(3, SOL), chats(2, FIVE)].concat();
        let batch = client.begin(&lines, &[SHORT, ("x-fake-batch-no-output", "1")]).await;
        let (_, hold) = meter(&house, "all").await;
        assert_eq!(client.read(&batch).await["status"], "completed");
        let (settled, held) = meter(&house, "all").await;
        assert_eq!(held, Money::ZERO);
        assert!(truth(&house) <= settled && settled <= hold, "{} {settled} {hold}", truth(&house));
    });
}

#[test]
fn an_answer_of_a_dated_snapshot_counts_on_the_limits_of_its_model() {
    let five = format!(
        "[[limit]]\nname = \"five\"\nonly = {{ model = [\"{FIVE}\"] }}\nwindow = \"month\"\nhard = 5\n"
    );
    run(async {
        let house = House::with(&five).await;
        let client = Client::of(&house);
        let batch = client.begin(&chats(2, FIVE), &[SHORT, ("x-fake-batch-snapshot", "2026-04-23")]).await;
        assert_eq!(client.read(&batch).await["model"], "gpt-5.5-2026-04-23");
        assert_eq!(meter(&house, "five").await, (truth(&house), Money::ZERO));
    });
}

#[test]
fn a_batch_that_expires_or_fails_is_settled_for_the_lines_that_were_completed() {
    run(async {
        for (outcome, completed) in [("expired", 2), ("expired", 0), ("failed", 1), ("failed", 0)] {
            let house = House::with(LIMIT).await;
            let client = Client::of(&house);
            let count = completed.to_string();
            let headers = [SHORT, ("x-fake-batch-outcome", outcome), ("x-fake-batch-completed", &count)];
            let batch = client.begin(&chats(4, SOL), &headers).await;
            let end = client.read(&batch).await;
            assert_eq!(end["status"], outcome);
            assert_eq!(end["request_counts"]["completed"], completed);
            let requests = house.fake.served().get(SOL).map_or(0, |served| served.requests);
            assert_eq!(requests, completed, "{outcome}");
            assert_eq!(meter(&house, "all").await, (truth(&house), Money::ZERO), "{outcome} {completed}");
            verify(&house).await;
        }
    });
}

#[test]
fn a_batch_that_upstream_finds_invalid_costs_nothing() {
    let with = |field: &str, value: Value| {
        let mut line: Value = serde_json::from_str(&chat("b", SOL)).unwrap();
        line[field] = value;
        format!("{}{line}\n", chat("a", SOL))
    };
    run(async {
        let house = House::with(LIMIT).await;
        let client = Client::of(&house);
        for content in
            [with("custom_id", json!("a")), with("custom_id", Value::Null), with("method", json!("GET"))]
        {
            let file = client.upload(&content).await;
            let answer = client.create(&file, CHAT, &[]).await;
            // The guard may see it, too.
            if answer.status == StatusCode::OK {
                let end = client.read(&id(&answer)).await;
                assert_eq!(
                    (&end["status"], &end["errors"]["data"][0]["line"]),
                    (&json!("failed"), &json!(2))
                );
            } else {
                assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer:?}");
            }
            assert_eq!(meter(&house, "all").await, (Money::ZERO, Money::ZERO), "{content}");
        }
    });
}

#[test]
fn a_cancelled_batch_is_held_until_it_has_ended_and_settled_for_what_was_completed() {
    run(async {
        let house = House::with(LIMIT).await;
        let client = Client::of(&house);
        let batch = client.begin(&chats(4, SOL), &[LASTING, ("x-fake-batch-completed", "3")]).await;
        let (_, hold) = meter(&house, "all").await;
        assert_eq!(client.read(&batch).await["status"], "in_progress");
        let cancel = format!("/v1/batches/{batch}/cancel");
        let answer = client.post(&cancel, &[], &json!({})).await;
        assert_eq!(answer.json()["status"], "cancelling", "{answer:?}");
        assert_eq!(meter(&house, "all").await, (Money::ZERO, hold), "its lines may still be answered");
        assert_eq!(client.read(&batch).await["status"], "cancelled");
        assert_eq!(house.fake.served()[SOL].requests, 3);
        assert_eq!(meter(&house, "all").await, (truth(&house), Money::ZERO));
        assert_eq!(client.post(&cancel, &[], &json!({})).await.status, StatusCode::BAD_REQUEST);
        assert_eq!(meter(&house, "all").await, (truth(&house), Money::ZERO));
    });
}
