//! Calls of hosted tools: charged however they are reported, and cut off where
//! there are more than were paid for.

use serde_json::{Value, json};
use spendguard::domain::Money;

use crate::bad_upstream::{before, says};
use crate::harness::run;

const SSE: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";

fn event(kind: &str, mut more: Value) -> String {
    more["type"] = json!(kind);
    format!("event: {kind}\ndata: {more}\n\n")
}

fn completed(more: Value) -> String {
    let usage = json!({ "input_tokens": 1000, "output_tokens": 100 });
    let mut response =
        json!({ "id": "resp_1", "model": "gpt-5", "status": "completed", "output": [], "usage": usage });
    response.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
    event("response.completed", json!({ "response": response }))
}

fn done(item: Value) -> String {
    event("response.output_item.done", json!({ "item": item }))
}

fn search(id: &str) -> Value {
    json!({ "type": "web_search_call", "id": id, "status": "completed", "action": { "type": "search" } })
}

fn asks(tools: Value) -> Value {
    json!({ "model": "gpt-5", "input": "hello", "stream": true, "tools": tools })
}

fn amount(text: &Value) -> Money {
    text.as_str().unwrap().parse().unwrap()
}

async fn cost(tools: Value, events: &str) -> String {
    let shared = "[endpoints]\nshared_objects = true\n";
    let (house, _) = before(says(format!("{SSE}{events}")), shared).await;
    house.post("/v1/responses", &[], &asks(tools)).await;
    house.settled().await;
    let cost = house.entries().await[0]["cost_usd"].as_str().unwrap().to_owned();
    // There are many, one after the other.
    house.close().await;
    cost
}

#[test]
fn a_call_costs_its_fee_once_wherever_it_is_reported() {
    run(async {
        let web = json!([{ "type": "web_search" }]);
        let bare = json!({ "type": "web_search_call", "status": "completed" });
        let opened = json!({ "type": "web_search_call", "id": "ws_1", "action": { "type": "open_page" } });
        let running = |id: &str| event("response.web_search_call.completed", json!({ "item_id": id }));
        let both = format!("{}{}", done(search("ws_1")), done(search("ws_2")));
        let listed = json!([search("ws_1"), search("ws_2")]);
        let requests = |count: u64| json!({ "tool_usage": { "web_search": { "num_requests": count } } });
        let nothing = completed(json!({}));
        for (name, events, expected) in [
            ("only in items that are done", format!("{both}{nothing}"), "0.02225"),
            ("only in the last output", completed(json!({ "output": listed })), "0.02225"),
            ("in both", format!("{both}{}", completed(json!({ "output": listed }))), "0.02225"),
            ("only while they run", format!("{}{}{nothing}", running("ws_1"), running("ws_2")), "0.02225"),
            ("running and done", format!("{}{}{both}{nothing}", running("ws_1"), running("ws_2")), "0.02225"),
            ("in tool_usage", completed(requests(2)), "0.02225"),
            ("more in tool_usage", format!("{both}{}", completed(requests(3))), "0.03225"),
            ("fewer in tool_usage", format!("{both}{}", completed(requests(0))), "0.02225"),
            ("without an action", format!("{}{nothing}", done(bare.clone())), "0.01225"),
            (
                "without an id in both",
                format!("{}{}", done(bare.clone()), completed(json!({ "output": [bare] }))),
                "0.01225",
            ),
            ("a page that is opened", format!("{}{}{nothing}", running("ws_1"), done(opened)), "0.00225"),
        ] {
            assert_eq!(cost(web.clone(), &events).await, expected, "{name}");
        }
        let files = json!([{ "type": "file_search", "vector_store_ids": ["vs_1"] }]);
        let call = done(json!({ "type": "file_search_call", "id": "fs_1" }));
        assert_eq!(cost(files, &format!("{call}{call}{nothing}")).await, "0.00475");
    });
}

#[test]
fn a_container_costs_a_session_once_code_runs_in_it() {
    run(async {
        let code = json!([{ "type": "code_interpreter", "container": { "type": "auto" } }]);
        let shell = json!([{ "type": "shell", "environment": { "type": "container_auto" } }]);
        let local = json!([{ "type": "shell", "environment": { "type": "local" } }]);
        let ran =
            |id: Value| done(json!({ "type": "code_interpreter_call", "id": "ci_1", "container_id": id }));
        let other = done(json!({ "type": "code_interpreter_call", "id": "ci_2", "container_id": "cntr_2" }));
        let shelled = |environment: Value| {
            done(json!({ "type": "shell_call", "id": "sh_1", "environment": environment }))
        };
        let placed = json!({ "type": "container_reference", "container_id": "cntr_1" });
        for (name, tools, events, expected) in [
            ("offered and not used", &code, String::new(), "0.00225"),
            ("used", &code, ran(json!("cntr_1")), "0.03225"),
            ("used twice", &code, format!("{}{}", ran(json!("cntr_1")), ran(json!("cntr_1"))), "0.03225"),
            ("two of them", &code, format!("{}{other}", ran(json!("cntr_1"))), "0.06225"),
            ("used without its id", &code, ran(Value::Null), "0.03225"),
            (
                "seen while it runs",
                &code,
                event("response.code_interpreter_call.interpreting", json!({ "item_id": "ci_1" })),
                "0.03225",
            ),
            ("a shell in it", &shell, shelled(placed), "0.03225"),
            ("a shell somewhere", &shell, shelled(Value::Null), "0.03225"),
            ("a shell at the client's", &local, shelled(json!({ "type": "local" })), "0.00225"),
            ("a shell somewhere, none offered", &local, shelled(Value::Null), "0.00225"),
        ] {
            assert_eq!(
                cost(tools.clone(), &format!("{events}{}", completed(json!({})))).await,
                expected,
                "{name}"
            );
        }
    });
}

#[test]
fn what_is_charged_for_hosted_tools_is_kept_by_class_beside_the_tokens() {
    run(async {
        let tools = json!([
            { "type": "web_search" }, { "type": "file_search", "vector_store_ids": ["vs_1"] },
            { "type": "code_interpreter", "container": { "type": "auto", "memory_limit": "4g" } },
        ]);
        let searched = done(json!({ "type": "file_search_call", "id": "fs_1" }));
        let ran = done(json!({ "type": "code_interpreter_call", "id": "ci_1", "container_id": "cntr_1" }));
        let events = format!("{}{}{searched}{ran}", done(search("ws_1")), done(search("ws_2")));
        let shared = "[endpoints]\nshared_objects = true\n";
        let (house, _) = before(says(format!("{SSE}{events}{}", completed(json!({})))), shared).await;
        house.post("/v1/responses", &[], &asks(tools)).await;
        house.settled().await;
        let entry = &house.entries().await[0];
        assert_eq!(amount(&entry["tool_fees_usd"]).to_string(), "0.1425", "2 x 0.01, 0.0025, 0.12");
        let of = |class: &str| entry["usage"][class].as_u64();
        let calls = [of("web_search_calls"), of("file_search_calls"), of("container_4g_sessions")];
        assert_eq!(calls, [Some(2), Some(1), Some(1)], "{entry}");
        let db = rusqlite::Connection::open(house.folder.path().join("data/spendguard.db")).unwrap();
        let kept = r#"{"container_4g_sessions":1,"file_search_calls":1,"web_search_calls":2}"#;
        for table in ["entry", "rollup"] {
            let sql = format!("SELECT other_quantities FROM {table}");
            assert_eq!(db.query_row(&sql, [], |row| row.get::<_, String>(0)).unwrap(), kept, "{table}");
        }
    });
}

#[test]
fn a_picture_without_reported_tokens_is_not_free() {
    run(async {
        let tools = json!([{ "type": "image_generation", "model": "gpt-image-1" }]);
        let made = done(json!({ "type": "image_generation_call", "id": "ig_1", "result": "aGk=" }));
        let reported = json!({ "tool_usage": { "image_gen": { "input_tokens": 0, "output_tokens": 1000 } } });
        let charged = cost(tools.clone(), &format!("{made}{}", completed(reported))).await;
        let untold = cost(tools, &format!("{made}{}", completed(json!({})))).await;
        assert_eq!(charged, "0.04225");
        // 7,200 tokens of an image read, 6,240 of one made, and the 100 that the model wrote: the most of a call.
        assert_eq!(untold, "0.32435");
    });
}

#[test]
fn a_stream_with_more_hosted_calls_than_were_reserved_is_cut_and_charged() {
    run(async {
        let started = |id: &str| {
            event(
                "response.output_item.added",
                json!({ "item": { "type": "web_search_call", "id": id, "status": "in_progress" } }),
            )
        };
        let within = format!("{}{}", started("ws_1"), started("ws_2"));
        let beyond = format!("{within}{}", started("ws_3"));
        let config = "[[limit]]\nname = \"m\"\nwindow = \"month\"\nhard = 100\n";
        let mut asked = asks(json!([{ "type": "web_search" }]));
        asked["max_tool_calls"] = json!(2);
        for (events, is_cut) in [(&within, false), (&beyond, true)] {
            // The stream goes on, so that only the guard can have ended it.
            let script = says(format!("{SSE}{events}{}", completed(json!({}))));
            let script =
                if is_cut { crate::bad_upstream::says_and_stays(format!("{SSE}{events}")) } else { script };
            let (house, _) = before(script, config).await;
            let answer = house.post("/v1/responses", &[], &asked).await;
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            let last = text.trim_end().rsplit("\n\n").next().unwrap();
            assert_eq!(last.starts_with("event: error\ndata: {\"type\":\"error\""), is_cut, "{text}");
            assert_eq!(last.contains("more hosted tool calls"), is_cut, "{text}");
            house.settled().await;
            let entry = &house.entries().await[0];
            let (cost, held) = (amount(&entry["cost_usd"]), amount(&entry["held_usd"]));
            if is_cut {
                // The hold covers two calls; the third is charged beside it.
                assert_eq!(
                    (&entry["basis"], cost - held),
                    (&json!("assumed"), "0.01".parse().unwrap()),
                    "{entry}"
                );
            } else {
                assert_eq!(
                    (&entry["basis"], cost),
                    (&json!("reported"), "0.02225".parse().unwrap()),
                    "{entry}"
                );
            }
        }
    });
}

fn words(count: usize) -> String {
    "word ".repeat(count)
}

fn logs(id: &str, count: usize) -> String {
    let outputs = json!([{ "type": "logs", "logs": words(count) }]);
    let mut call =
        json!({ "type": "code_interpreter_call", "id": id, "container_id": "cntr_1", "code": "run()" });
    call["outputs"] = outputs;
    done(call)
}

fn shelled(count: usize) -> String {
    let output =
        json!([{ "stdout": words(count), "stderr": "", "outcome": { "type": "exit", "exit_code": 0 } }]);
    let call = json!({ "type": "shell_call", "id": "sh_1", "action": { "commands": ["cat"] } });
    let answer = json!({ "type": "shell_call_output", "id": "sho_1", "output": output });
    format!("{}{}", done(call), done(answer))
}

fn answered(output: &str) -> String {
    done(json!({ "type": "mcp_call", "id": "mcp_1", "name": "read", "arguments": "{}", "output": output }))
}

fn called(count: usize) -> String {
    answered(&words(count))
}

fn blank(bytes: usize) -> String {
    answered(&" ".repeat(bytes))
}

fn listed(count: usize) -> String {
    let tools = json!([{ "name": "read", "description": words(count), "input_schema": {} }]);
    done(json!({ "type": "mcp_list_tools", "id": "mcpl_1", "server_label": "s", "tools": tools }))
}

fn searched(count: usize) -> String {
    let results = json!([{ "file_id": "file_1", "text": words(count) }]);
    done(json!({ "type": "file_search_call", "id": "fs_1", "queries": ["x"], "results": results }))
}

#[test]
fn a_stream_whose_context_grows_beyond_its_hold_is_cut_before_the_next_turn() {
    run(async {
        // Two calls are paid for, each with 1,000 tokens: 3,000 beyond the first turn's, read again by each.
        let config = "[guard]\ntool_context_max = 1000\n[endpoints]\nshared_objects = true\n\
                      [[limit]]\nname = \"m\"\nwindow = \"month\"\nhard = 100\n";
        let code = json!([{ "type": "code_interpreter", "container": { "type": "auto" } }]);
        let shell = json!([{ "type": "shell", "environment": { "type": "container_auto" } }]);
        let server = json!([{ "type": "mcp", "server_label": "s", "server_url": "https://mcp.example" }]);
        let files = json!([{ "type": "file_search", "vector_store_ids": ["vs_1"] }]);
        let both = |first, second| format!("{}{}", logs("ci_1", first), logs("ci_2", second));
        for (name, tools, events, is_cut) in [
            ("as much as was held", &code, both(900, 900), false),
            ("bytes are not tokens", &code, both(990, 990), false),
            ("a large output after a small one", &code, both(100, 2_600), false),
            ("the last turn alone", &code, both(900, 2_600), true),
            ("one large output", &code, logs("ci_1", 6_000), true),
            ("the same output twice", &code, logs("ci_1", 990).repeat(9), false),
            ("a shell's output", &shell, shelled(6_000), true),
            ("an MCP call's output", &server, called(9_000), true),
            // These are counted beside the thread of the request.
            ("an MCP call's output of 100 KiB", &server, called(20_480), true),
            ("as much of few tokens", &server, blank(102_400), false),
            ("an MCP server's list", &server, listed(9_000), true),
            ("a short list", &server, listed(900), false),
            ("files that were found", &files, searched(6_000), true),
        ] {
            let mut asked = asks(tools.clone());
            asked["max_tool_calls"] = json!(2);
            let script = if is_cut {
                // The stream goes on, so that only the guard can have ended it.
                crate::bad_upstream::says_and_stays(format!("{SSE}{events}"))
            } else {
                says(format!("{SSE}{events}{}", completed(json!({}))))
            };
            let (house, _) = before(script, config).await;
            let answer = house.post("/v1/responses", &[], &asked).await;
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            let last = text.trim_end().rsplit("\n\n").next().unwrap();
            assert_eq!(last.starts_with("event: error\ndata: {\"type\":\"error\""), is_cut, "{name}: {last}");
            assert_eq!(last.contains("brought more"), is_cut, "{name}: {last}");
            house.settled().await;
            let entry = &house.entries().await[0];
            let (basis, is_held) = (&entry["basis"], entry["cost_usd"] == entry["held_usd"]);
            assert_eq!((basis == "assumed", is_held), (is_cut, is_cut), "{name}: {entry}");
        }
    });
}
