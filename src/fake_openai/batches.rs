//! Batches: each ends once it was read a few times, and has answered its lines then.
//!
//! The request that makes a batch controls it: by `x-fake-batch-reads` it ends after it was read
//! so often; `-outcome` is its last status, `-completed` how many lines are answered where that
//! is not `completed`; `-snapshot` is the date that its answers add to their models; `-no-usage`
//! and `-no-output` leave out the sum and the file of answers. Other headers control its answers.

mod lines;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::fake_openai::batches::lines::Lines;
use crate::fake_openai::bounded::{Bounded, Measured, page};
use crate::fake_openai::files::NewFile;
use crate::fake_openai::{Answer, Fake, Refusal, Served, answer, number, refused};

/// How often a batch is read before it has ended, unless the request says otherwise.
const READS: u64 = 2;
/// Batches of a page, unless the query says otherwise.
const PAGE: usize = 20;
/// How long a batch may take, in seconds.
const WINDOW_S: i64 = 86_400;
/// What the requests of a batch may be for.
const ENDPOINTS: [&str; 8] = [
    "/v1/responses",
    "/v1/chat/completions",
    "/v1/embeddings",
    "/v1/completions",
    "/v1/moderations",
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/videos",
];

/// The batches, by id.
pub(super) type Batches = Bounded<Batch>;

/// A batch, with its input until it has ended.
#[derive(Debug)]
pub(super) struct Batch {
    object: Value,
    input: Bytes,
    headers: HeaderMap,
    output_expires_after: Option<u64>,
    reads_left: u64,
}

impl Measured for Batch {
    fn bytes(&self) -> usize {
        self.input.len()
    }
}

/// What the lines of a batch have come to.
#[derive(Default)]
struct Done {
    output: String,
    errors: String,
    total: usize,
    completed: usize,
    failed: usize,
    sum: Served,
}

impl Batch {
    fn status(&self) -> &str {
        self.object["status"].as_str().unwrap_or_default()
    }

    /// Enters a status at a time.
    fn enter(&mut self, status: &str, now: i64) {
        self.object["status"] = json!(status);
        self.object[format!("{status}_at")] = json!(now);
    }

    fn ordered<'a>(&'a self, name: &str) -> Option<&'a str> {
        self.headers.get(format!("x-fake-batch-{name}"))?.to_str().ok()
    }

    /// The lines that are answered if the batch ends in a status.
    fn answered(&self, outcome: &str, total: usize) -> usize {
        let ordered = self.ordered("completed").and_then(|lines| lines.parse().ok()).unwrap_or(0);
        if outcome == "completed" { total } else { total.min(ordered) }
    }
}

impl Fake {
    /// Answers what is asked of batches, by what follows their path.
    pub(super) fn on_batches(&self, head: &Parts, rest: &[&str], body: &Bytes) -> Response<Answer> {
        let missing = |id: &str| Refusal::missing(format!("No batch found with id '{id}'."));
        let found = match (&head.method, rest) {
            (&Method::POST, []) => self.begin_batch(&head.headers, body),
            (&Method::GET, []) => {
                Ok(page(&head.uri, self.batches.map(|batch| Some(batch.object.clone())), PAGE))
            }
            (&Method::GET, [id]) => {
                let read = |batch: &mut Batch| {
                    self.advance(batch);
                    batch.object.clone()
                };
                self.batches.with(id, read).ok_or_else(|| missing(id))
            }
            (&Method::POST, [id, "cancel"]) => {
                let cancel = |batch: &mut Batch| self.cancel(batch);
                self.batches.with(id, cancel).unwrap_or_else(|| Err(missing(id)))
            }
            _ => Err(Refusal::missing("unknown path")),
        };
        found.map_or_else(|refusal| refused(&refusal), |object| answer(StatusCode::OK, &object))
    }

    fn begin_batch(&self, headers: &HeaderMap, body: &Bytes) -> Result<Value, Refusal> {
        let unread = |_| Refusal::bad("We could not parse the JSON body of your request.", None);
        let fields: Value = serde_json::from_slice(body).map_err(unread)?;
        let wrong = |name| Refusal {
            code: Some("invalid_value"),
            ..Refusal::bad(format!("Invalid value: '{}'.", fields[name]), Some(name))
        };
        if !ENDPOINTS.iter().any(|endpoint| fields["endpoint"] == *endpoint) {
            return Err(wrong("endpoint"));
        }
        if fields["completion_window"] != "24h" {
            return Err(wrong("completion_window"));
        }
        let input = fields["input_file_id"].as_str().unwrap_or_default();
        let no_file = || Refusal::bad(format!("No such File object: {input}"), Some("input_file_id"));
        let (file, content) = self.file(input).ok_or_else(no_file)?;
        if file["purpose"] != "batch" {
            return Err(Refusal::bad("The purpose of the file is not 'batch'.", Some("input_file_id")));
        }
        let (id, now) = (self.new_id("batch_"), self.clock.now_s());
        let object = json!({
            "id": id, "object": "batch", "endpoint": fields["endpoint"], "model": null, "errors": null,
            "input_file_id": input, "completion_window": "24h", "status": "validating",
            "output_file_id": null, "error_file_id": null, "created_at": now, "in_progress_at": null,
            "expires_at": now + WINDOW_S, "finalizing_at": null, "completed_at": null, "failed_at": null,
            "expired_at": null, "cancelling_at": null, "cancelled_at": null, "metadata": fields["metadata"],
            "request_counts": { "total": 0, "completed": 0, "failed": 0 }, "usage": usage(Served::default()),
        });
        let mut batch = Batch {
            object,
            input: content,
            headers: headers.clone(),
            output_expires_after: fields["output_expires_after"]["seconds"].as_u64(),
            reads_left: number(headers, "x-fake-batch-reads").unwrap_or(READS),
        };
        if batch.ordered("no-usage").is_some() {
            batch.object["usage"] = Value::Null;
        }
        let object = batch.object.clone();
        self.batches.keep(id, batch);
        Ok(object)
    }

    /// What a read does to a batch.
    fn advance(&self, batch: &mut Batch) {
        let now = self.clock.now_s();
        match batch.status() {
            "validating" => match Lines::read(&batch.input, batch.object["endpoint"].as_str()) {
                Ok(lines) => {
                    batch.object["model"] = json!(lines.model(batch.ordered("snapshot")));
                    batch.object["request_counts"]["total"] = json!(lines.count());
                    batch.object["in_progress_at"] = json!(now);
                    self.proceed(batch);
                }
                Err(errors) => {
                    batch.enter("failed", now);
                    batch.object["errors"] = json!({ "object": "list", "data": errors });
                    batch.input = Bytes::new();
                }
            },
            "in_progress" | "finalizing" => self.proceed(batch),
            "cancelling" => self.finish(batch, "cancelled"),
            _ => {}
        }
    }

    fn proceed(&self, batch: &mut Batch) {
        let now = self.clock.now_s();
        match batch.reads_left {
            0 => {
                let outcome = batch.ordered("outcome").unwrap_or("completed").to_owned();
                self.finish(batch, &outcome);
            }
            1 => batch.enter("finalizing", now),
            _ => batch.enter("in_progress", now),
        }
        batch.reads_left = batch.reads_left.saturating_sub(1);
    }

    fn cancel(&self, batch: &mut Batch) -> Result<Value, Refusal> {
        let status = batch.status();
        if !matches!(status, "validating" | "in_progress" | "finalizing") {
            return Err(Refusal::bad(format!("Cannot cancel a batch with status '{status}'."), None));
        }
        batch.enter("cancelling", self.clock.now_s());
        Ok(batch.object.clone())
    }

    /// Answers the lines of a batch, and ends it in a status.
    fn finish(&self, batch: &mut Batch, outcome: &str) {
        let input = std::mem::take(&mut batch.input);
        let done = Lines::read(&input, batch.object["endpoint"].as_str())
            .map(|lines| self.work(batch, &lines, outcome))
            .unwrap_or_default();
        let keep = |name: &str, text: String| {
            let id = batch.object["id"].as_str().unwrap_or_default();
            let name = format!("{id}_{name}.jsonl");
            let expires_after = batch.output_expires_after;
            let file =
                NewFile { name: &name, purpose: "batch_output", expires_after, content: Bytes::from(text) };
            self.keep_file(file)["id"].clone()
        };
        let has_output = done.completed > 0 && batch.ordered("no-output").is_none();
        let output = if has_output { keep("output", done.output) } else { Value::Null };
        let errors = if done.errors.is_empty() { Value::Null } else { keep("error", done.errors) };
        batch.enter(outcome, self.clock.now_s());
        if batch.ordered("no-usage").is_none() {
            batch.object["usage"] = usage(done.sum);
        }
        if outcome == "failed" {
            let error = json!({ "code": "server_error", "message": "The batch failed.", "param": null, "line": null });
            batch.object["errors"] = json!({ "object": "list", "data": [error] });
        }
        batch.object["request_counts"] =
            json!({ "total": done.total, "completed": done.completed, "failed": done.failed });
        (batch.object["output_file_id"], batch.object["error_file_id"]) = (output, errors);
    }

    /// Answers lines, in another order than that of the input: OpenAI promises none.
    fn work(&self, batch: &Batch, lines: &Lines<'_>, outcome: &str) -> Done {
        let mut done = Done { total: lines.count(), ..Done::default() };
        let answered = batch.answered(outcome, lines.count());
        let snapshot = batch.ordered("snapshot");
        for line in lines.first(answered).iter().rev() {
            let (status, mut body, served) = self.answer_line(line, &batch.headers);
            if let (Some(date), Some(model)) = (snapshot, body["model"].as_str()) {
                body["model"] = json!(format!("{model}-{date}"));
            }
            let response = json!({ "status_code": status.as_u16(), "request_id": self.new_id("req_fake"), "body": body });
            let id = self.new_id("batch_req_");
            let text =
                json!({ "id": id, "custom_id": line.custom_id(), "response": response, "error": null });
            if status == StatusCode::OK {
                done.completed += 1;
                done.sum = done.sum + served;
                done.output += &format!("{text}\n");
            } else {
                done.failed += 1;
                done.errors += &format!("{text}\n");
            }
        }
        if outcome == "failed" {
            return done;
        }
        for line in lines.behind(answered) {
            let error = json!({ "code": format!("batch_{outcome}"), "message": format!("The batch {outcome} before this request could be executed.") });
            let id = self.new_id("batch_req_");
            let text = json!({ "id": id, "custom_id": line.custom_id(), "response": null, "error": error });
            done.failed += 1;
            done.errors += &format!("{text}\n");
        }
        done
    }
}

/// A sum of usage, in OpenAI's shape.
fn usage(sum: Served) -> Value {
    json!({
        "input_tokens": sum.prompt_tokens,
        "input_tokens_details": { "cached_tokens": sum.cached_tokens },
        "output_tokens": sum.completion_tokens,
        "output_tokens_details": { "reasoning_tokens": 0 },
        "total_tokens": sum.prompt_tokens + sum.completion_tokens,
    })
}
