//! Batches at upstream: each line of the input is answered at a time of its own, at half the price.
//!
//! A line is billed once it is done. A batch ends when its lines are done or have failed, when it is cancelled, or after a
//! day; then its output has the answers of the lines that were done.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oracle::answer::answer as rendered;
use oracle::draw::{self, Sizes};
use oracle::outcome::{End as Ending, Outcome, UsageForm};
use oracle::prices::Tier;
use oracle::{Ask, Endpoint, maximum};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::account::{Account, Bill, locked};
use crate::answers::{answer, disturbed_or_denied, made_known, refuse};
use crate::background::{ENDLESS, SLOW_MAX_S};
use crate::chance::Chance;
use crate::openai::{MODELS, Question};
use crate::wire::{End, now};

/// The path that makes one.
pub(crate) const PATH: &str = "/v1/batches";
/// What lines call.
const ENDPOINTS: [Endpoint; 3] = [Endpoint::Chat, Endpoint::Responses, Endpoint::Embeddings];
/// The most lines of a file.
const LINES_MAX: u64 = 5;
/// How long lines take at the most, in milliseconds.
const LASTS_MS: [u64; 4] = [2_000, 60_000, 600_000, 7_200_000];
/// How long each step before and after the lines takes at the most, in milliseconds.
const STEP_MAX_MS: u64 = 60_000;
/// After this time a batch expires.
const WINDOW: Duration = Duration::from_secs(86_400);
/// Fields that no line has: those of streams and of jobs, tools, and what upstream keeps.
const NOT_IN_LINES: [&str; 10] = [
    "stream",
    "stream_options",
    "background",
    "tools",
    "web_search_options",
    "context_management",
    "prompt",
    "conversation",
    "previous_response_id",
    "service_tier",
];

/// A line of the input, and what becomes of it.
#[derive(Clone, Debug)]
struct Line {
    custom_id: String,
    model: String,
    /// When it is done, if it is by then.
    done_at: Instant,
    /// The answer; none if it fails.
    answer: Option<Value>,
    pico: u128,
}

/// A batch, or one that was.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    name: String,
    endpoint: &'static str,
    lines: Vec<Line>,
    begins_at: Instant,
    /// When no further line is done.
    stops_at: Instant,
    ends_at: Instant,
    /// The status that it ends with.
    ending: &'static str,
    /// Whether its object has the usage of all its lines.
    has_usage: bool,
    /// Whether its price follows from the usages that its output has.
    is_exact: bool,
}

impl Batch {
    fn status(&self) -> &'static str {
        let at = now();
        match self.ending {
            ending if self.ends_at <= at => ending,
            "cancelled" => "cancelling",
            _ if at < self.begins_at => "validating",
            _ if at < self.stops_at => "in_progress",
            _ => "finalizing",
        }
    }

    /// The lines that are answered by now.
    fn done(&self) -> impl Iterator<Item = (&Line, &Value)> {
        let at = now();
        let is_done = move |line: &&Line| line.done_at <= at && line.done_at <= self.stops_at;
        self.lines.iter().filter(is_done).filter_map(|line| Some((line, line.answer.as_ref()?)))
    }

    /// The sum of the lines' usages, as the object of a batch has it.
    fn usage(&self) -> Value {
        let sum = |names: [&str; 2]| -> u64 {
            let of = |answer: &Value| {
                names.into_iter().find_map(|name| answer.pointer(name)?.as_u64()).unwrap_or(0)
            };
            self.done().map(|(_, answer)| of(answer)).sum()
        };
        let details = |name: &str| {
            sum([
                &*format!("/usage/input_tokens_details/{name}"),
                &*format!("/usage/prompt_tokens_details/{name}"),
            ])
        };
        let input = sum(["/usage/input_tokens", "/usage/prompt_tokens"]);
        let output = sum(["/usage/output_tokens", "/usage/completion_tokens"]);
        json!({
            "input_tokens": input, "output_tokens": output, "total_tokens": input + output,
            "input_tokens_details": {
                "cached_tokens": details("cached_tokens"), "cache_write_tokens": details("cache_write_tokens"),
            },
        })
    }

    fn object(&self) -> String {
        let status = self.status();
        let has_ended = self.ends_at <= now();
        let done = self.done().count();
        let file = |kind: &str, is_there: bool| {
            (has_ended && is_there).then(|| format!("file-{kind}-{}", self.name))
        };
        json!({
            "id": id(&self.name), "object": "batch", "endpoint": self.endpoint, "completion_window": "24h",
            "status": status, "created_at": 1, "errors": null,
            "output_file_id": file("out", done > 0), "error_file_id": file("err", done < self.lines.len()),
            "request_counts": {
                "total": self.lines.len(), "completed": done,
                "failed": if has_ended { self.lines.len() - done } else { 0 },
            },
            "usage": (has_ended && self.has_usage).then(|| self.usage()),
        })
        .to_string()
    }

    /// The file of the answers.
    fn output(&self) -> String {
        let line = |(line, answer): (&Line, &Value)| {
            let response = json!({ "status_code": 200, "request_id": "req_1", "body": answer });
            let text = json!({ "id": "batch_req_1", "custom_id": line.custom_id, "response": response, "error": null });
            format!("{text}\n")
        };
        self.done().map(line).collect()
    }

    /// The file of the lines that were not answered.
    fn errors(&self) -> String {
        let done: Vec<&str> = self.done().map(|(line, _)| &*line.custom_id).collect();
        let text = |line: &Line| {
            let error = json!({ "code": "batch_expired", "message": "no" });
            format!("{}\n", json!({ "custom_id": line.custom_id, "response": null, "error": error }))
        };
        self.lines.iter().filter(|line| !done.contains(&&*line.custom_id)).map(text).collect()
    }

    /// Lets no further line begin: those that run may be done yet.
    fn cancel(&mut self, chance: &mut Chance) {
        if now() < self.stops_at {
            self.ending = "cancelled";
            self.stops_at = self.stops_at.min(now() + Duration::from_millis(chance.within(0, 5_000)));
            self.ends_at = self.stops_at + Duration::from_millis(chance.within(0, STEP_MAX_MS));
        }
    }
}

/// What a batch has cost by now.
#[derive(Clone, Debug)]
pub(crate) struct BatchBill(Arc<Mutex<Batch>>);

impl BatchBill {
    pub(crate) fn pico(&self) -> u128 {
        locked(&self.0).done().map(|(line, _)| line.pico).sum()
    }

    /// The same for each model of its lines; those that no line of was done cost nothing.
    pub(crate) fn pico_by_model(&self) -> BTreeMap<String, u128> {
        let of = locked(&self.0);
        let mut sums: BTreeMap<String, u128> = of.lines.iter().map(|line| (line.model.clone(), 0)).collect();
        for (line, _) in of.done() {
            *sums.get_mut(&line.model).unwrap() += line.pico;
        }
        sums
    }

    /// Whether its price follows from what is reported of it.
    pub(crate) fn is_exact(&self) -> bool {
        locked(&self.0).is_exact
    }
}

/// All batches, by their ids.
pub(crate) type Batches = Mutex<BTreeMap<String, Arc<Mutex<Batch>>>>;

fn id(name: &str) -> String {
    format!("batch_{name}")
}

/// The lines of a file, and the path that they call: plain ones of two models, or any.
pub(crate) fn lines(chance: &mut Chance) -> (&'static str, String) {
    let endpoint = chance.one(&ENDPOINTS);
    let mut dice = oracle::Chance::of_seed(chance.next());
    let is_plain = endpoint != Endpoint::Embeddings && chance.percent(60);
    let count = chance.within(1, LINES_MAX);
    let line = |at: u64| {
        let mut body =
            if is_plain { plain(endpoint, chance) } else { draw::request(&mut dice, endpoint, Sizes::SMALL) };
        for field in NOT_IN_LINES {
            body.as_object_mut().unwrap().remove(field);
        }
        let body = draw::spell(&mut dice, &body).replace(['\r', '\n'], " ");
        let url = endpoint.path();
        format!("{{\"custom_id\":\"{at}\",\"method\":\"POST\",\"url\":\"{url}\",\"body\":{body}}}\n")
    };
    (endpoint.path(), (0..count).map(line).collect())
}

fn plain(endpoint: Endpoint, chance: &mut Chance) -> Value {
    let words = vec!["hello"; usize::try_from(chance.within(1, 40)).unwrap()].join(" ");
    let (model, most) = (chance.one(&MODELS), chance.within(16, 300));
    if endpoint == Endpoint::Chat {
        let messages = json!([{ "role": "user", "content": words }]);
        json!({ "model": model, "messages": messages, "max_completion_tokens": most })
    } else {
        json!({ "model": model, "input": words, "max_output_tokens": most })
    }
}

/// A request that makes a batch.
pub(crate) fn request(name: &str, file: &str, endpoint: &str, ends: bool) -> String {
    let metadata = json!({ "name": name, "ends": if ends { "some day" } else { ENDLESS } });
    json!({ "input_file_id": file, "endpoint": endpoint, "completion_window": "24h", "metadata": metadata })
        .to_string()
}

/// The text of a file that a batch has made.
pub(crate) fn file(account: &Account, file: &str) -> Option<String> {
    let (name, is_output) = match file.strip_prefix("file-out-") {
        Some(name) => (name, true),
        None => (file.strip_prefix("file-err-")?, false),
    };
    let found = locked(&account.batches).get(&id(name)).cloned()?;
    let of = locked(&found);
    Some(if is_output { of.output() } else { of.errors() })
}

/// Makes a batch; none if the connection is over.
pub(crate) async fn make(end: &mut End, account: &Account, chance: &mut Chance, body: &[u8]) -> Option<()> {
    let body: Value = serde_json::from_slice(body).unwrap();
    let name = body["metadata"]["name"].as_str().unwrap().to_owned();
    sleep(Duration::from_millis(chance.one(&[0, 1, 10, 100, 900]))).await;
    let input = locked(&account.files).get(body["input_file_id"].as_str().unwrap()).cloned();
    let Some(input) = input else { return refuse(end, "404 Not Found") };
    let fate = chance.within(0, 99);
    if fate < 4 {
        return refuse(end, "500 Oops");
    }
    let is_endless = body["metadata"]["ends"] == ENDLESS;
    let made = begun(account, chance, (&name, &input), is_endless);
    let text = made.object();
    let made = Arc::new(Mutex::new(made));
    account.open(&name, Bill::Batch(BatchBill(Arc::clone(&made))));
    locked(&account.batches).insert(id(&name), made);
    made_known(end, fate, &text)
}

fn begun(account: &Account, chance: &mut Chance, (name, input): (&str, &str), is_endless: bool) -> Batch {
    let step = |chance: &mut Chance| Duration::from_millis(chance.within(0, STEP_MAX_MS));
    let begins_at = now() + step(chance);
    let lasts_ms = if is_endless { 2 * 86_400_000 } else { chance.one(&LASTS_MS) };
    let mut sum = 0;
    let mut lines = Vec::new();
    let mut is_exact = !account.world().is_regional;
    for text in input.lines() {
        let (line, most, is_line_exact) = drawn_line(account, chance, text, (begins_at, lasts_ms));
        sum += most;
        is_exact &= is_line_exact;
        lines.push(line);
    }
    account.most(name, sum, format!("{lines:?}"));
    let expires_at = now() + WINDOW;
    let last_at = lines.iter().map(|line| line.done_at).max().unwrap_or(begins_at);
    let endpoint = ENDPOINTS.into_iter().map(Endpoint::path).find(|path| input.contains(path)).unwrap();
    let has_failed = chance.percent(8);
    let stops_at = if has_failed { begins_at } else { last_at.min(expires_at) };
    let ending = match () {
        () if has_failed => "failed",
        () if expires_at < last_at => "expired",
        () => "completed",
    };
    if has_failed {
        for line in &mut lines {
            line.answer = None;
        }
    }
    let name = name.to_owned();
    let ends_at = stops_at + step(chance);
    let has_usage = is_exact && chance.percent(60);
    Batch { name, endpoint, lines, begins_at, stops_at, ends_at, ending, has_usage, is_exact }
}

/// What becomes of a line, the most that it can cost, and whether its cost follows from its usage.
fn drawn_line(
    account: &Account,
    chance: &mut Chance,
    text: &str,
    (begins_at, lasts_ms): (Instant, u64),
) -> (Line, u128, bool) {
    let world = account.world();
    let line: Value = serde_json::from_str(text).unwrap();
    let endpoint = ENDPOINTS.into_iter().find(|endpoint| line["url"] == endpoint.path()).unwrap();
    let custom_id = line["custom_id"].as_str().unwrap().to_owned();
    let done_at = begins_at + Duration::from_millis(chance.within(0, lasts_ms));
    let model = line["body"]["model"].as_str().unwrap().to_owned();
    let failed = Line { custom_id, model, done_at, answer: None, pico: 0 };
    let Some(mut ask) = Ask::read(&world, endpoint, line["body"].to_string().as_bytes()) else {
        return (failed, 0, true);
    };
    ask.tiers = vec![Tier::Batch];
    let outcome = Outcome::draw(&mut oracle::Chance::of_seed(chance.next()), &world, &ask);
    let most = maximum::of(&world, &ask);
    if !matches!(outcome.end, Ending::Completed | Ending::Incomplete) {
        return (failed, most, true);
    }
    let answer = rendered(&outcome, &ask, &failed.custom_id);
    let answer = Some(serde_json::from_str(&answer.parts[0].text).unwrap());
    let is_exact = outcome.report.usage == UsageForm::Full && outcome.calls.is_empty() && !ask.ttl_12h;
    let pico = outcome.charge(&world, &ask, outcome.words);
    (Line { answer, pico, ..failed }, most, is_exact)
}

/// Answers a question about a batch, or cancels it; none if the connection is over.
pub(crate) async fn show(
    end: &mut End,
    account: &Account,
    chance: &mut Chance,
    Question { method, id, below, .. }: Question<'_>,
) -> Option<()> {
    if disturbed_or_denied(end, account, chance).await? {
        return Some(());
    }
    if chance.percent(1) {
        sleep(Duration::from_secs(chance.within(1, SLOW_MAX_S))).await;
    }
    let found = locked(&account.batches).get(id).cloned();
    let Some(found) = found else { return refuse(end, "404 Not Found") };
    let text = {
        let mut of = locked(&found);
        if (method, below) == ("post", "/cancel") {
            of.cancel(chance);
        }
        let mut text = of.object();
        if chance.percent(3) && now() < of.ends_at {
            text = text.replace(&format!("\"status\":\"{}\"", of.status()), "\"status\":\"resting\"");
        }
        text
    };
    answer(end, chance, &text).0
}
