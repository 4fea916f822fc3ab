//! An upstream over real sockets: it answers as the oracle draws it, and keeps the bill.
//!
//! `POST` of a metered path is answered and billed, `POST /v1/responses/input_tokens` is free, and
//! `GET /bill` says what each request cost. A request is named by its `metadata.name`, else by its number.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};

use crate::answer::{Answer, answer};
use crate::ask::Ask;
use crate::chance::Chance;
use crate::maximum;
use crate::outcome::{Call, CallsForm, End, Outcome, UsageForm};
use crate::prices::{Memory, Tier};
use crate::world::{Endpoint, Kept, World};

/// Minutes that a container lives if it is not deleted: it ends 20 minutes after its last use.
const CONTAINER_MINUTES: u64 = 20;
/// Outcomes that are drawn until one ends as it should: some requests can't end well.
const TRIES: u32 = 40;

/// How requests end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endings {
    /// In every way that there is.
    Any,
    /// Well, with a usage, so that the bill is known to the token.
    Reported,
}

/// What a request cost.
#[derive(Clone, Debug)]
pub struct Bill {
    /// Name of the request.
    pub name: String,
    /// The most that it could have cost, in picodollars.
    pub maximum_pico: u128,
    /// What it cost, in picodollars.
    pub charge_pico: u128,
    /// How the answer ended.
    pub end: End,
    /// Whether the answer says all that the charge follows from.
    pub is_exact: bool,
    /// What was asked and what became of it, for a reader of a failed test.
    pub story: String,
}

/// The bills of an upstream, and the world in which they are made.
pub struct Account {
    endings: Endings,
    seed: u64,
    state: Mutex<State>,
}

struct State {
    world: World,
    made: Vec<String>,
    bills: Vec<Bill>,
}

/// What is to be sent for a request.
enum Reply {
    Json(u16, Value),
    Drawn(Answer),
}

/// Serves a listener on threads of its own, for as long as the process lives.
pub fn serve(listener: TcpListener, world: World, endings: Endings, seed: u64) -> Arc<Account> {
    let state = Mutex::new(State { world, made: Vec::new(), bills: Vec::new() });
    let account = Arc::new(Account { endings, seed, state });
    let serving = Arc::clone(&account);
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let account = Arc::clone(&serving);
            // A connection that breaks is the client's affair.
            std::thread::spawn(move || account.converse(stream));
        }
    });
    account
}

impl Account {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread has failed")
    }

    /// All bills, in the order in which they were made.
    pub fn bills(&self) -> Vec<Bill> {
        self.state().bills.clone()
    }

    /// Ids of the responses that were made here, the oldest first.
    pub fn responses(&self) -> Vec<String> {
        self.state().made.clone()
    }

    fn converse(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        while let Some((path, body)) = request(&mut reader)? {
            let is_open = match self.reply(&path, &body) {
                Reply::Json(status, value) => {
                    whole(&mut stream, status, "application/json", &value.to_string())
                }
                Reply::Drawn(answer) => send(&mut stream, &answer),
            }?;
            if !is_open {
                break;
            }
        }
        Ok(())
    }

    fn reply(&self, path: &str, body: &[u8]) -> Reply {
        let missing =
            || Reply::Json(404, json!({ "error": { "message": "no", "type": "invalid_request_error" } }));
        match path {
            "/bill" => Reply::Json(200, self.bill()),
            "/v1/responses/input_tokens" => {
                self.count(body).map_or_else(missing, |value| Reply::Json(200, value))
            }
            _ => {
                let endpoint = Endpoint::ALL.into_iter().find(|endpoint| endpoint.path() == path);
                endpoint.and_then(|endpoint| self.answer(endpoint, body)).map_or_else(missing, Reply::Drawn)
            }
        }
    }

    fn bill(&self) -> Value {
        let bill = |bill: &Bill| {
            let pico = |pico: u128| u64::try_from(pico).expect("less than 18 million dollars");
            json!({ "name": bill.name, "charge_pico": pico(bill.charge_pico) })
        };
        self.state().bills.iter().map(bill).collect()
    }

    /// The input tokens of a request; what an MCP server lists is not known before it is asked.
    fn count(&self, body: &[u8]) -> Option<Value> {
        let world = self.state().world.clone();
        let ask = Ask::read(&world, Endpoint::Responses, body).filter(|ask| ask.is_possible)?;
        let tokens = ask.prompt_max(&world) - ask.tools.mcp_servers * world.assumed.mcp_tokens_max;
        Some(json!({ "object": "response.input_tokens", "input_tokens": tokens }))
    }

    /// Answers a request, and writes its bill; none if it names no model that is known.
    fn answer(&self, endpoint: Endpoint, body: &[u8]) -> Option<Answer> {
        let mut state = self.state();
        let ask = Ask::read(&state.world, endpoint, body)?;
        let number = u64::try_from(state.bills.len()).expect("a count");
        let asked: Value = serde_json::from_slice(body).ok()?;
        let name = asked["metadata"]["name"].as_str().map_or_else(|| number.to_string(), str::to_owned);
        // Only upstream knows what a stored prompt carries.
        let is_seen = asked["prompt"]["id"].is_null();
        let mut chance = Chance::of_seed(self.seed ^ name.parse().unwrap_or(number));
        let mut outcome = self.outcome(&mut chance, &state.world, &ask);
        for session in &mut outcome.containers {
            if session.id.starts_with("cntr_new") {
                session.id = format!("cntr_{name}_{}", session.index);
                state.world.containers.insert(session.id.clone(), session.memory);
            }
        }
        let answer = answer(&outcome, &ask, &name);
        let delivered = answer.parts.iter().map(|part| part.words).sum();
        let bill = Bill {
            maximum_pico: maximum::of(&state.world, &ask),
            charge_pico: outcome.charge(&state.world, &ask, delivered),
            end: outcome.end,
            is_exact: self.endings == Endings::Reported && is_seen && is_exact(&outcome, &ask),
            story: format!("{ask:?}\n  {outcome:?}"),
            name: name.clone(),
        };
        state.bills.push(bill);
        if endpoint == Endpoint::Responses && outcome.end == End::Completed {
            let id = endpoint.answer_id(&name);
            let kept = Kept {
                model: ask.model.name.clone(),
                tokens: outcome.largest + outcome.used.output,
                pictures: ask.sizes.clone(),
                container: largest(&outcome, &ask),
            };
            state.world.kept.insert(id.clone(), kept);
            state.made.push(id);
        }
        Some(answer)
    }

    /// What becomes of a request; the first outcome of some that ends as it should, where one does.
    fn outcome(&self, chance: &mut Chance, world: &World, ask: &Ask) -> Outcome {
        let tries = if self.endings == Endings::Any { 1 } else { TRIES };
        let mut outcome = Outcome::draw(chance, world, ask);
        for _ in 1..tries {
            if is_exact(&outcome, ask) {
                break;
            }
            outcome = Outcome::draw(chance, world, ask);
        }
        if self.endings == Endings::Reported {
            // One that two tools share is billed once.
            for session in outcome.containers.iter_mut().filter(|session| session.minutes > 0) {
                session.minutes = CONTAINER_MINUTES;
            }
        }
        outcome
    }
}

/// The largest container that an answer and what it goes on from ran in.
fn largest(outcome: &Outcome, ask: &Ask) -> Option<(String, Memory)> {
    let ran = outcome.containers.iter().map(|session| (session.id.clone(), session.memory));
    ran.chain(ask.tools.kept_container.clone()).max_by_key(|(_, memory)| *memory)
}

/// Whether an answer ends well and says all that its charge follows from, so that no other amount may be
/// booked for it.
fn is_exact(outcome: &Outcome, ask: &Ask) -> bool {
    let report = outcome.report;
    let is_whole = matches!(report.usage, UsageForm::Full | UsageForm::Nulls);
    // Only `tool_usage` says what pictures took, and only an action that a page was opened. Of a tier's
    // price for pictures nothing is published.
    let is_standard = outcome.tier == Tier::Standard;
    let says_pictures = outcome.drawn.is_none() || (report.calls == CallsForm::Both && is_standard);
    let says_pages = !outcome.calls.contains(&Call::Page) || report.calls != CallsForm::BareItems;
    // No answer says which of several containers ran, nor how large one is that was made elsewhere.
    let containers = &ask.tools.containers;
    let says_containers = outcome.containers.is_empty()
        || containers.iter().all(|(id, memory)| id.is_none() && *memory == containers[0].1);
    // Nor does it say how large the largest of several prompts was.
    let is_long_at_once = ask.model.long_above.is_some_and(|above| outcome.used.input > above);
    let says_length = !is_long_at_once || (outcome.calls.is_empty() && outcome.passes.is_empty());
    // Nor is a price published of twelve hours in each model's cache.
    let is_kept_long = ask.ttl_12h && outcome.used.write > 0;
    let says_cache = !is_kept_long || ask.model.publishes_12h(outcome.tier);
    // A model that is not for search takes no search in a chat.
    let may_search = ask.tools.chat_search_pico.is_none() || ask.model.always_searches();
    let is_sound = outcome.end == End::Completed && ask.is_possible && may_search;
    is_sound && is_whole && says_pictures && says_pages && says_containers && says_length && says_cache
}

/// Path and body of the next request; none at the end of the connection.
fn request(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<(String, Vec<u8>)>> {
    let (mut path, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end().to_ascii_lowercase();
        if path.is_empty() {
            line.split(' ').nth(1).unwrap_or_default().clone_into(&mut path);
        } else if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(std::io::Error::other)?;
        } else if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some((path, body)))
}

/// Sends an answer; whether the connection is still good after it.
fn send(stream: &mut TcpStream, answer: &Answer) -> std::io::Result<bool> {
    if answer.parts.is_empty() && answer.content_type.is_empty() {
        return Ok(false);
    }
    if !answer.content_type.starts_with("text/event-stream") {
        let text = &answer.parts[0].text;
        if !answer.is_cut {
            return whole(stream, answer.status, answer.content_type, text);
        }
        write!(
            stream,
            "{}content-length: {}\r\n\r\n{text}",
            head(answer.status, answer.content_type),
            text.len() + 10
        )?;
        return Ok(false);
    }
    write!(stream, "{}transfer-encoding: chunked\r\n\r\n", head(answer.status, answer.content_type))?;
    for part in &answer.parts {
        write!(stream, "{:x}\r\n{}\r\n", part.text.len(), part.text)?;
    }
    if !answer.is_cut {
        stream.write_all(b"0\r\n\r\n")?;
    }
    Ok(!answer.is_cut)
}

fn whole(stream: &mut TcpStream, status: u16, kind: &str, text: &str) -> std::io::Result<bool> {
    write!(stream, "{}content-length: {}\r\n\r\n{text}", head(status, kind), text.len())?;
    Ok(true)
}

fn head(status: u16, kind: &str) -> String {
    format!("HTTP/1.1 {status} Of its own\r\ncontent-type: {kind}\r\n")
}
