//! Requests of all kinds, answered and billed as the oracle of OpenAI's bill says.

use std::sync::Arc;
use std::time::Duration;

use oracle::answer::{Answer, answer as rendered};
use oracle::draw::{self, Sizes};
use oracle::outcome::{End as Ending, Outcome, UsageForm};
use oracle::{Ask, Endpoint, maximum};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::account::{Account, Bill, DrawnBill};
use crate::chance::Chance;
use crate::openai::head;
use crate::wire::{End, Mark};

/// Larger bodies are counted on real threads, whose order no seed decides.
const BODY_BYTES_MAX: usize = 4_000;

/// A request of any kind: its path and its body. None if it is too large.
pub(crate) fn request(account: &Account, name: &str, chance: &mut Chance) -> Option<(&'static str, String)> {
    let mut dice = oracle::Chance::of_seed(chance.next());
    // Most of what can be broken is hosted tools'.
    let is_broken = account.world().broken.is_some() && dice.percent(60);
    let endpoint = if is_broken { Endpoint::Responses } else { dice.one(&Endpoint::ALL) };
    let mut request = draw::request(&mut dice, endpoint, Sizes::SMALL);
    // Upstream knows the request by it.
    request["metadata"] = json!({ "name": name });
    if request["previous_response_id"].is_string() {
        let known = account.responses();
        if !known.is_empty() {
            request["previous_response_id"] = json!(known[dice.index(known.len())]);
        }
    }
    let body = draw::spell(&mut dice, &request);
    (body.len() <= BODY_BYTES_MAX).then_some((endpoint.path(), body))
}

/// The endpoint and the name of a request that was drawn.
pub(crate) fn known(path: &str, body: &Value) -> Option<(Endpoint, String)> {
    let endpoint = Endpoint::ALL.into_iter().find(|endpoint| endpoint.path() == path)?;
    Some((endpoint, body["metadata"]["name"].as_str()?.to_owned()))
}

/// Counts the input of a request, for free.
pub(crate) fn count(end: &mut End, account: &Account, body: &[u8]) -> Option<()> {
    let world = account.world();
    let counted = Ask::read(&world, Endpoint::Responses, body).filter(|ask| ask.is_possible);
    match counted {
        Some(ask) => {
            // What an MCP server lists is not known before it is asked.
            let listed = ask.tools.mcp_servers * world.assumed.mcp_tokens_max;
            let tokens = ask.prompt_max(&world) - listed;
            let text = json!({ "object": "response.input_tokens", "input_tokens": tokens }).to_string();
            end.send(format!("{}{text}", head("200 OK", text.len())).as_bytes(), None).ok()
        }
        None => refused(end),
    }
}

fn refused(end: &mut End) -> Option<()> {
    let error = json!({ "message": "no", "type": "invalid_request_error", "param": null, "code": null });
    let text = json!({ "error": error }).to_string();
    end.send(format!("{}{text}", head("404 Not Found", text.len())).as_bytes(), None).ok()
}

/// Answers a request; none if the connection is over.
pub(crate) async fn answer(
    end: &mut End,
    account: &Account,
    chance: &mut Chance,
    (endpoint, name): (Endpoint, String),
    body: &[u8],
) -> Option<()> {
    account.begins(&name);
    let world = account.world();
    let Some(mut ask) = Ask::read(&world, endpoint, body) else { return refused(end) };
    if ask.is_open {
        ask.output_max = ask.output_max.min(ask.model.output_max.unwrap_or(u64::MAX));
    }
    let outcome = Outcome::draw(&mut oracle::Chance::of_seed(chance.next()), &world, &ask);
    // Without a cap the guard writes no bound of calls, and holds what is usual.
    let most = if ask.is_open { 0 } else { maximum::of(&world, &ask) };
    account.most(&name, most, format!("{ask:?}\n  {outcome:?}"));
    sleep(Duration::from_millis(chance.one(&[0, 1, 10, 100, 900]))).await;
    let is_stream = ask.stream && !matches!(outcome.end, Ending::Gateway | Ending::Rejected | Ending::Lost);
    let bill = billed(&outcome, &world, &ask, is_stream);
    if outcome.charge(&world, &ask, outcome.words) > 0 {
        account.open(&name, Bill::Drawn(bill.clone()));
    }
    let answer = rendered(&outcome, &ask, &name);
    if endpoint == Endpoint::Responses && outcome.end == Ending::Completed {
        account.made(format!("resp_{name}"), outcome.largest + outcome.used.output);
    }
    if outcome.end == Ending::Lost {
        return None;
    }
    if !is_stream {
        let text = &answer.parts[0].text;
        let status = match answer.status {
            200 => "200 OK",
            504 => "504 Gateway Timeout",
            _ => "400 Bad Request",
        };
        let length = text.len() + if answer.is_cut { 10 } else { 0 };
        let head = head(status, length).replace("application/json", answer.content_type);
        end.send(format!("{head}{text}").as_bytes(), None).ok()?;
        return (!answer.is_cut).then_some(());
    }
    stream(end, chance, &answer, &bill).await.filter(|()| !answer.is_cut)
}

/// What a request costs by the oracle: a stream what was delivered of it, anything else all
/// at once.
pub(crate) fn billed(outcome: &Outcome, world: &oracle::World, ask: &Ask, is_stream: bool) -> DrawnBill {
    let charge = outcome.charge(world, ask, outcome.words);
    let at_once = DrawnBill {
        is_long: ask.model.long_above.is_some_and(|above| outcome.largest > above),
        is_stream,
        is_cut: outcome.end == Ending::Cut,
        stages_pico: vec![charge],
        stage: Arc::default(),
        word_pico: 0,
        words: Arc::default(),
    };
    if !is_stream || charge == 0 {
        return at_once;
    }
    let mut cut = Outcome { end: Ending::Cut, ..outcome.clone() };
    if ask.echo && outcome.end == Ending::Completed && outcome.report.usage != UsageForm::Absent {
        // An echo is billed where a usage at the end says so.
        cut.used.output -= ask.choices * outcome.prompts[0];
    }
    let word_pico = if outcome.words > 0 { cut.charge(world, ask, 1) - cut.charge(world, ask, 0) } else { 0 };
    let is_shown = ask.endpoint == Endpoint::Responses;
    let stages_pico = if is_shown { outcome.stages(world, ask) } else { vec![cut.charge(world, ask, 0)] };
    DrawnBill { stages_pico, word_pico, ..at_once }
}

/// Sends the events of a stream; none if the guard has left it.
async fn stream(end: &mut End, chance: &mut Chance, answer: &Answer, bill: &DrawnBill) -> Option<()> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    end.send(head.as_bytes(), None).ok()?;
    let pause = Duration::from_millis(chance.one(&[0, 0, 1, 30]));
    for part in &answer.parts {
        let stages = u64::try_from(part.stages).unwrap();
        let mark = Mark(vec![(Arc::clone(&bill.words), part.words), (Arc::clone(&bill.stage), stages)]);
        end.send(format!("{:x}\r\n{}\r\n", part.text.len(), part.text).as_bytes(), Some(mark)).ok()?;
        if !pause.is_zero() {
            sleep(pause).await;
        }
    }
    if answer.is_cut {
        return Some(());
    }
    end.send(b"0\r\n\r\n", None).ok()
}
