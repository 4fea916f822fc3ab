//! Further input for a response that runs (`response.steer`): the sequences of events are those that
//! OpenAI documents with the types of its SDKs.

use std::time::Duration;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::ends::{Act, closed, house_before};
use super::{create, next, opened, response, say};
use crate::accrual::held;
use crate::harness::{House, run};

fn create_gpt_5(more: Value) -> Value {
    let mut message = create(json!({ "model": "gpt-5", "max_output_tokens": 1_000 }));
    message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    message
}

fn steer(parent: &str) -> Value {
    json!({ "type": "response.steer", "previous_response_id": parent, "input": "shorter, please" })
}

fn begun(id: &str) -> Value {
    json!({ "type": "response.created", "response": { "id": id, "model": "gpt-5", "status": "in_progress" } })
}

/// The end of a response with so many tokens of usage; 1,000 of input cost 0.00125 USD, 100 of output 0.001.
fn ended(id: &str, status: &str, (input, output): (u64, u64)) -> Value {
    let usage = json!({ "input_tokens": input, "output_tokens": output, "total_tokens": input + output });
    let details = (status == "incomplete").then(|| json!({ "reason": "steered" }));
    let response = json!({
        "id": id, "model": "gpt-5", "status": status, "incomplete_details": details, "output": [], "usage": usage,
    });
    json!({ "type": format!("response.{status}"), "response": response })
}

/// What upstream says of the input for a response.
fn input(what: &str, parent: &str) -> Value {
    let mut event = json!({
        "type": format!("response.steer.{what}"), "sequence_number": 9,
        "steer": { "id": "steer_1", "previous_response_id": parent },
    });
    match what {
        "failed" => {
            event["error"] = json!({
                "type": "invalid_request_error", "code": "response_already_completed", "message": "too late",
            });
        }
        "pending" => {
            let call = json!({ "type": "function_call_output", "call_id": "call_1", "name": "look" });
            (event["reason"], event["required_input"]) = (json!("waiting_for_required_input"), json!([call]));
        }
        _ => {}
    }
    event
}

fn is_steer(message: &Value) -> bool {
    message["type"] == "response.steer"
}

/// The entries, in the order of their requests.
async fn settled(house: &House) -> Vec<Value> {
    let mut entries = super::settled(house).await;
    entries.reverse();
    entries
}

/// The costs of entries.
fn costs(entries: &[Value]) -> Vec<&str> {
    entries.iter().map(|entry| entry["cost_usd"].as_str().unwrap()).collect()
}

#[test]
fn a_response_with_further_input_is_followed_by_one_that_is_held_and_booked_by_itself() {
    run(async {
        let house = house_before(|message| {
            if !is_steer(message) {
                return vec![Act::Say(begun("resp_1"))];
            }
            let mut accepted = input("accepted", "resp_1");
            accepted["as_sent"] = message.clone();
            vec![Act::Say(accepted)]
                .into_iter()
                .chain([
                    Act::Say(ended("resp_1", "incomplete", (1_000, 100))),
                    Act::Wait(300),
                    Act::Say(begun("resp_2")),
                    Act::Say(ended("resp_2", "completed", (2_000, 200))),
                ])
                .collect()
        })
        .await;
        let mut socket = opened(&house, &[]).await;
        say(&mut socket, &create_gpt_5(json!({}))).await;
        assert_eq!(next(&mut socket).await, begun("resp_1"));
        let alone: f64 = held(&house).await.parse().unwrap();
        say(&mut socket, &steer("resp_1")).await;
        assert_eq!(next(&mut socket).await["as_sent"], steer("resp_1"), "it passes as it is");
        assert_eq!(next(&mut socket).await, ended("resp_1", "incomplete", (1_000, 100)));
        let of_next: f64 = held(&house).await.parse().unwrap();
        // It reads what the first has read and written, and may write as much again.
        assert!(of_next > alone && of_next < 1.3 * alone, "{of_next} after {alone}");
        assert_eq!(next(&mut socket).await, begun("resp_2"));
        assert_eq!(next(&mut socket).await, ended("resp_2", "completed", (2_000, 200)));
        let entries = settled(&house).await;
        assert_eq!(costs(&entries), ["0.00225", "0.0045"], "{entries:?}");
        assert!(entries.iter().all(|entry| entry["basis"] == "reported"));
        assert_eq!(held(&house).await, "0");
    });
}

#[test]
fn input_whose_response_does_not_fit_is_refused_and_never_sent() {
    run(async {
        let house = house_before(|message| match is_steer(message) {
            true => vec![Act::Cut],
            false if message["max_output_tokens"] == 5 => {
                vec![Act::Say(begun("resp_2")), Act::Say(ended("resp_2", "completed", (1_000, 0)))]
            }
            false => vec![
                Act::Say(begun("resp_1")),
                Act::Wait(4_000),
                Act::Say(ended("resp_1", "completed", (1_000, 100))),
            ],
        })
        .await;
        let mut socket = opened(&house, &[]).await;
        // Some 0.6 USD of the one that is there.
        say(&mut socket, &create_gpt_5(json!({ "max_output_tokens": 60_000 }))).await;
        assert_eq!(next(&mut socket).await, begun("resp_1"));
        say(&mut socket, &steer("resp_1")).await;
        let failed = next(&mut socket).await;
        assert_eq!(failed["type"], "response.steer.failed", "{failed}");
        assert_eq!(failed["error"]["type"], "invalid_request_error", "{failed}");
        assert_ne!(failed["error"]["code"], "invalid_input", "{failed}");
        assert!(failed["error"]["message"].as_str().unwrap().contains("limit"), "{failed}");
        assert_eq!(failed["steer"]["input"], "shorter, please");
        assert_eq!(next(&mut socket).await, ended("resp_1", "completed", (1_000, 100)));
        say(&mut socket, &create_gpt_5(json!({ "max_output_tokens": 5 }))).await;
        assert_eq!(next(&mut socket).await, begun("resp_2"), "the socket stays open");
        assert_eq!(response(&mut socket).await.len(), 1);
        assert_eq!(costs(&settled(&house).await), ["0.00225", "0", "0.00125"]);
    });
}

#[test]
fn input_that_upstream_does_not_take_is_not_charged() {
    run(async {
        for is_late in [false, true] {
            let house = house_before(move |message| {
                let end = Act::Say(ended("resp_1", "completed", (1_000, 100)));
                let failed = Act::Say(input("failed", "resp_1"));
                match (is_steer(message), is_late) {
                    (false, _) if message["input"] == "second" => vec![Act::Cut],
                    (false, _) => vec![Act::Say(begun("resp_1"))],
                    (true, false) => vec![failed, end],
                    (true, true) => vec![end, failed],
                }
            })
            .await;
            let mut socket = opened(&house, &[]).await;
            say(&mut socket, &create_gpt_5(json!({}))).await;
            assert_eq!(next(&mut socket).await, begun("resp_1"));
            say(&mut socket, &steer("resp_1")).await;
            let mut events = [next(&mut socket).await, next(&mut socket).await];
            if is_late {
                events.reverse();
            }
            assert_eq!(events, [input("failed", "resp_1"), ended("resp_1", "completed", (1_000, 100))]);
            // The lane is free.
            say(&mut socket, &create_gpt_5(json!({ "input": "second" }))).await;
            assert_eq!(closed(&mut socket).await, Some(CloseCode::Error));
            let mut kinds = settled(&house).await;
            assert_eq!(kinds.remove(2)["basis"], "assumed", "it was sent");
            kinds.sort_by_key(|entry| entry["kind"].to_string());
            assert_eq!(costs(&kinds), ["0", "0.00225"], "{is_late}: {kinds:?}");
        }
    });
}

/// A guard before an upstream that queues the input for `resp_1` until a request continues it, which is
/// answered with `resp_3` if it is the first, and another one with `resp_4`; each says what was sent.
async fn house_that_queues() -> House {
    house_before(|message| match message["type"].as_str() {
        Some("response.steer") => vec![
            Act::Say(input("accepted", "resp_1")),
            Act::Say(ended("resp_1", "completed", (1_000, 100))),
            Act::Say(input("pending", "resp_1")),
        ],
        _ if message["previous_response_id"] == "resp_1" => {
            let id = if message["metadata"]["number"] == "1" { "resp_3" } else { "resp_4" };
            let mut first = begun(id);
            first["as_sent"] = message.clone();
            vec![Act::Say(first), Act::Say(ended(id, "completed", (2_000, 200)))]
        }
        _ => vec![Act::Say(begun("resp_1"))],
    })
    .await
}

/// Waits until nothing is held.
async fn released(house: &House) {
    while held(house).await != "0" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn queued_input_is_held_with_the_request_that_it_becomes_part_of_and_only_with_that() {
    run(async {
        let house = house_that_queues().await;
        let mut socket = opened(&house, &[]).await;
        say(&mut socket, &create_gpt_5(json!({}))).await;
        assert_eq!(next(&mut socket).await, begun("resp_1"));
        let mut steer = steer("resp_1");
        steer["input"] = json!("word ".repeat(4_000));
        say(&mut socket, &steer).await;
        assert_eq!(next(&mut socket).await, input("accepted", "resp_1"));
        assert_eq!(next(&mut socket).await, ended("resp_1", "completed", (1_000, 100)));
        assert_eq!(next(&mut socket).await, input("pending", "resp_1"), "after the end of its response");
        // It costs nothing until then.
        released(&house).await;
        let output = json!([{ "type": "function_call_output", "call_id": "call_1", "output": "found" }]);
        for number in ["1", "2"] {
            // At twice the price, and by its bytes: 20,000 tokens of input cost 0.05 USD.
            let create = create_gpt_5(json!({
                "service_tier": "priority", "previous_response_id": "resp_1", "input": output, "metadata": { "number": number },
            }));
            say(&mut socket, &create).await;
            let begun = next(&mut socket).await;
            assert_eq!(begun["as_sent"], create, "it passes as it is: {begun}");
            assert_eq!(response(&mut socket).await.len(), 1);
        }
        let entries = settled(&house).await;
        assert_eq!(costs(&entries)[..2], ["0.00225", "0"], "{entries:?}");
        assert_eq!(entries[1]["kind"], "release", "{entries:?}");
        let held = |at: usize| entries[at]["held_usd"].as_str().unwrap().parse::<f64>().unwrap();
        let more = held(2) - held(3);
        assert!((0.05..0.051).contains(&more), "{more} more: {entries:?}");
    });
}

#[test]
fn a_bound_that_is_written_into_a_request_goes_without_the_queued_input() {
    run(async {
        let house = house_that_queues().await;
        let mut socket = opened(&house, &[]).await;
        say(&mut socket, &create_gpt_5(json!({}))).await;
        assert_eq!(next(&mut socket).await, begun("resp_1"));
        say(&mut socket, &steer("resp_1")).await;
        for expected in ["response.steer.accepted", "response.completed", "response.steer.pending"] {
            assert_eq!(next(&mut socket).await["type"], expected);
        }
        let mut create = create_gpt_5(json!({ "previous_response_id": "resp_1", "input": "found" }));
        create.as_object_mut().unwrap().remove("max_output_tokens");
        say(&mut socket, &create).await;
        let mut sent = next(&mut socket).await["as_sent"].clone();
        let bound = sent.as_object_mut().unwrap().remove("max_output_tokens").expect("it is written into it");
        assert!(bound.as_u64().unwrap() > 1_000, "{bound}");
        assert_eq!(sent, create);
    });
}

#[test]
fn queued_input_does_not_stand_in_the_way_of_its_request() {
    run(async {
        let house = house_that_queues().await;
        let mut socket = opened(&house, &[]).await;
        // Two of some 0.45 USD fit into the one that is there, three don't.
        let large = json!({ "max_output_tokens": 44_000 });
        say(&mut socket, &create_gpt_5(large)).await;
        assert_eq!(next(&mut socket).await, begun("resp_1"));
        say(&mut socket, &steer("resp_1")).await;
        for expected in ["response.steer.accepted", "response.completed", "response.steer.pending"] {
            assert_eq!(next(&mut socket).await["type"], expected);
        }
        let large = json!({ "max_output_tokens": 60_000, "previous_response_id": "resp_1" });
        say(&mut socket, &create_gpt_5(large)).await;
        let begun = next(&mut socket).await;
        assert_eq!(begun["as_sent"]["max_output_tokens"], 60_000, "{begun}");
    });
}

#[test]
fn input_that_fails_while_it_is_queued_is_part_of_no_request() {
    run(async {
        let house = house_before(|message| match message["type"].as_str() {
            Some("response.steer") => vec![
                Act::Say(ended("resp_1", "completed", (1_000, 100))),
                Act::Say(input("pending", "resp_1")),
                Act::Wait(300),
                Act::Say(input("failed", "resp_1")),
            ],
            _ if message["previous_response_id"] == "resp_1" => {
                vec![Act::Say(begun("resp_3")), Act::Say(ended("resp_3", "completed", (1_000, 0)))]
            }
            _ => vec![Act::Say(begun("resp_1"))],
        })
        .await;
        let mut socket = opened(&house, &[]).await;
        say(&mut socket, &create_gpt_5(json!({}))).await;
        assert_eq!(next(&mut socket).await, begun("resp_1"));
        let mut steer = steer("resp_1");
        steer["input"] = json!("word ".repeat(8_000));
        say(&mut socket, &steer).await;
        assert_eq!(next(&mut socket).await["type"], "response.completed");
        assert_eq!(next(&mut socket).await, input("pending", "resp_1"));
        assert_eq!(next(&mut socket).await, input("failed", "resp_1"));
        let next = json!({ "max_output_tokens": 16, "previous_response_id": "resp_1" });
        say(&mut socket, &create_gpt_5(next)).await;
        response(&mut socket).await;
        let entries = settled(&house).await;
        assert_eq!(costs(&entries), ["0.00225", "0", "0.00125"]);
        let held: f64 = entries[2]["held_usd"].as_str().unwrap().parse().unwrap();
        // 8,000 tokens of input are 0.01 USD.
        assert!(held < 0.01, "{entries:?}");
    });
}

#[test]
fn input_that_is_queued_when_its_socket_is_closed_is_not_charged_and_input_without_an_answer_is() {
    run(async {
        for (is_pending, client_leaves) in [(true, false), (true, true), (false, false)] {
            let house = house_before(move |message| {
                if !is_steer(message) {
                    return vec![Act::Say(begun("resp_1"))];
                }
                // Its client is gone before.
                let mut acts = vec![Act::Wait(if client_leaves { 300 } else { 0 })];
                acts.push(Act::Say(ended("resp_1", "completed", (1_000, 100))));
                if is_pending {
                    acts.push(Act::Say(input("pending", "resp_1")));
                }
                acts.extend((!client_leaves).then_some(Act::Cut));
                acts
            })
            .await;
            let mut socket = opened(&house, &[]).await;
            say(&mut socket, &create_gpt_5(json!({}))).await;
            assert_eq!(next(&mut socket).await, begun("resp_1"));
            let alone = held(&house).await;
            say(&mut socket, &steer("resp_1")).await;
            while client_leaves && held(&house).await == alone {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            if client_leaves {
                drop(socket);
            } else {
                closed(&mut socket).await;
            }
            let entries = settled(&house).await;
            assert_eq!(costs(&entries)[0], "0.00225", "{entries:?}");
            let expected = if is_pending { json!("0") } else { entries[1]["held_usd"].clone() };
            assert_eq!((entries.len(), &entries[1]["cost_usd"]), (2, &expected), "{is_pending}: {entries:?}");
            while !house.guard.open_sockets().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    });
}

#[test]
fn what_ends_a_response_says_nothing_of_the_one_that_follows_it() {
    run(async {
        let failed = |id: &str| {
            let response =
                json!({ "id": id, "model": "gpt-5", "status": "failed", "output": [], "usage": null });
            json!({ "type": "response.failed", "response": response })
        };
        let error = json!({ "type": "error", "code": "server_error", "message": "m", "sequence_number": 3 });
        let house = house_before(move |message| {
            if !is_steer(message) {
                return vec![Act::Say(begun("resp_1"))];
            }
            [input("accepted", "resp_1"), error.clone(), failed("resp_1"), begun("resp_2")]
                .into_iter()
                .chain([ended("resp_2", "completed", (2_000, 200))])
                .map(Act::Say)
                .collect()
        })
        .await;
        let mut socket = opened(&house, &[]).await;
        say(&mut socket, &create_gpt_5(json!({}))).await;
        assert_eq!(next(&mut socket).await, begun("resp_1"));
        say(&mut socket, &steer("resp_1")).await;
        let mut kinds = Vec::new();
        while kinds.last().is_none_or(|kind| kind != "response.completed") {
            kinds.push(next(&mut socket).await["type"].as_str().unwrap().to_owned());
        }
        kinds.sort();
        let expected =
            ["error", "response.completed", "response.created", "response.failed", "response.steer.accepted"];
        assert_eq!(kinds, expected);
        let entries = settled(&house).await;
        // That the input was accepted is no output of the first.
        assert_eq!(costs(&entries), ["0", "0.0045"], "{entries:?}");
    });
}

#[test]
fn a_response_that_does_not_begin_before_it_goes_on_or_ends_closes_its_socket_and_is_charged() {
    run(async {
        let delta = json!({ "type": "response.output_text.delta", "delta": "word" });
        for event in [delta, ended("resp_2", "completed", (1_000, 100)), begun("resp_1")] {
            let house = house_before(move |message| {
                if !is_steer(message) {
                    return vec![Act::Say(begun("resp_1"))];
                }
                let end = ended("resp_1", "incomplete", (1_000, 100));
                vec![Act::Say(end), Act::Wait(100), Act::Say(event.clone())]
            })
            .await;
            let mut socket = opened(&house, &[]).await;
            say(&mut socket, &create_gpt_5(json!({}))).await;
            assert_eq!(next(&mut socket).await, begun("resp_1"));
            say(&mut socket, &steer("resp_1")).await;
            assert_eq!(closed(&mut socket).await, Some(CloseCode::Policy));
            let entries = settled(&house).await;
            let held = entries[1]["held_usd"].as_str().unwrap();
            assert_eq!(costs(&entries), ["0.00225", held], "{entries:?}");
        }
    });
}

#[test]
fn an_error_that_may_be_about_the_input_closes_the_socket_and_charges_what_is_open() {
    run(async {
        let error = json!({ "type": "error", "status": 400, "error": { "message": "m" } });
        let house = house_before(move |message| {
            vec![Act::Say(if is_steer(message) { error.clone() } else { begun("resp_1") })]
        })
        .await;
        let mut socket = opened(&house, &[]).await;
        say(&mut socket, &create_gpt_5(json!({}))).await;
        assert_eq!(next(&mut socket).await, begun("resp_1"));
        say(&mut socket, &steer("resp_1")).await;
        assert_eq!(closed(&mut socket).await, Some(CloseCode::Policy));
        let entries = settled(&house).await;
        assert!(
            entries.len() == 2 && entries.iter().all(|of| of["cost_usd"] == of["held_usd"]),
            "{entries:?}"
        );
    });
}

#[test]
fn input_is_refused_by_the_codes_of_openai_where_no_response_can_have_it() {
    run(async {
        let house = house_before(|message| {
            vec![Act::Say(if is_steer(message) { input("accepted", "resp_1") } else { begun("resp_1") })]
        })
        .await;
        let mut socket = opened(&house, &[]).await;
        let refused = async |socket: &mut _, message: &Value| {
            say(socket, message).await;
            let failed = next(socket).await;
            assert_eq!(failed["type"], "response.steer.failed", "{failed}");
            failed["error"]["code"].clone()
        };
        assert_eq!(refused(&mut socket, &steer("resp_1")).await, "response_not_active");
        say(&mut socket, &create_gpt_5(json!({}))).await;
        assert_eq!(next(&mut socket).await, begun("resp_1"));
        assert_eq!(refused(&mut socket, &steer("resp_2")).await, "response_not_active");
        let mut more = steer("resp_1");
        more["model"] = json!("gpt-5-pro");
        assert_eq!(refused(&mut socket, &more).await, "invalid_input");
        say(&mut socket, &steer("resp_1")).await;
        assert_eq!(next(&mut socket).await, input("accepted", "resp_1"));
        assert_eq!(refused(&mut socket, &steer("resp_1")).await, "too_many_pending_steers");
    });
}

#[test]
fn a_request_that_waits_in_its_lane_comes_after_the_response_with_further_input() {
    run(async {
        let in_lane = |mut event: Value| {
            event["stream_id"] = json!("a");
            Act::Say(event)
        };
        let house = house_before(move |message| match message["type"].as_str() {
            Some("response.steer") => vec![
                in_lane(input("accepted", "resp_1")),
                in_lane(ended("resp_1", "incomplete", (1_000, 100))),
                Act::Wait(300),
                in_lane(begun("resp_2")),
                in_lane(ended("resp_2", "completed", (1_000, 100))),
            ],
            _ if message["input"] == "third" => {
                vec![in_lane(begun("resp_3")), in_lane(ended("resp_3", "completed", (1_000, 100)))]
            }
            _ => vec![in_lane(begun("resp_1"))],
        })
        .await;
        let mut socket = opened(&house, &[]).await;
        say(&mut socket, &create_gpt_5(json!({ "stream_id": "a" }))).await;
        assert_eq!(next(&mut socket).await["type"], "response.created");
        say(&mut socket, &create_gpt_5(json!({ "stream_id": "a", "input": "third" }))).await;
        say(&mut socket, &steer("resp_1")).await;
        let mut ends = Vec::new();
        while ends.len() < 3 {
            let event = next(&mut socket).await;
            assert_eq!(event["stream_id"], "a", "{event}");
            if event["response"]["status"].as_str().is_some_and(|status| status != "in_progress") {
                ends.push(event["response"]["id"].as_str().unwrap().to_owned());
            }
        }
        assert_eq!(ends, ["resp_1", "resp_2", "resp_3"]);
        assert_eq!(settled(&house).await.len(), 3);
    });
}
