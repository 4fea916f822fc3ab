//! Models that a request may run beside the one it names: a stored prompt that
//! names the model in the request's place, and the model of the image tool.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Answer, House, call, run};
use crate::scripted::{Received, Reply, guard_before, response};

const ALLOWED: &str = "[guard]\nstored_prompts = \"allow\"\n";
const SHARED: &str = "[endpoints]\nshared_objects = true\n";

/// A guard before an upstream that answers every request as this model.
async fn answering(config: &str, model: &'static str) -> (House, Received) {
    guard_before(config, move |_, _| Reply::Json(response(model, 1_000_000, 0))).await
}

async fn respond(house: &House, body: Value) -> Answer {
    house.post("/v1/responses", &[], &body).await
}

fn limit(name: &str, more: &str) -> String {
    format!("[[limit]]\nname = \"{name}\"\nwindow = \"month\"\n{more}\n")
}

fn message(answer: &Answer) -> String {
    answer.json()["error"]["message"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_stored_prompt_without_a_model_is_refused_where_a_limit_needs_the_model() {
    run(async {
        let prompt = json!({ "prompt": { "id": "pmpt_1" }, "max_output_tokens": 16 });
        for (rule, is_refused) in [
            ("only = { model = [\"gpt-4o\"] }\nhard = 1.0", true),
            ("only = { model = [\"gpt-4o\"] }\nunit = \"tokens\"\nhard = 1000", true),
            ("hard = 1.0", true),
            ("per = \"model\"\nunit = \"requests\"\nhard = 5", true),
            ("per = \"model\"\nunit = \"requests\"\nwindow = \"minute\"\nhard = 5", true),
            ("unit = \"requests\"\nhard = 5", false),
            ("only = { model = [\"gpt-4o\"] }\nsoft = [1.0]", false),
            ("only = { model = [\"gpt-4o\"] }\nhard = 1.0\nmode = \"shadow\"", false),
        ] {
            let rule =
                if rule.contains("window") { rule.to_owned() } else { format!("{rule}\nwindow = \"month\"") };
            let config = format!("[[limit]]\nname = \"m\"\n{rule}\n{ALLOWED}");
            let (house, asked) = answering(&config, "gpt-4o").await;
            for model in [None, Some(Value::Null)] {
                let mut body = prompt.clone();
                body.as_object_mut().unwrap().extend(model.map(|model| ("model".to_owned(), model)));
                let answer = respond(&house, body).await;
                if is_refused {
                    assert_eq!(answer.status, StatusCode::FORBIDDEN, "{rule}: {answer:?}");
                    assert!(message(&answer).contains("Name a model in the request"), "{answer:?}");
                    assert_eq!(answer.json()["error"]["param"], "model");
                } else {
                    assert_eq!(answer.status, StatusCode::OK, "{rule}: {answer:?}");
                }
            }
            assert_eq!(asked.borrow().is_empty(), is_refused, "{rule}");
        }
        let (house, _) = answering(ALLOWED, "gpt-4o").await;
        let capped = [("x-spendguard-max-cost-usd", "5")];
        let answer = house.post("/v1/responses", &capped, &prompt).await;
        assert!(message(&answer).contains("Name a model in the request"), "{answer:?}");
    });
}

#[test]
fn a_stored_prompt_without_a_model_counts_on_every_limit_that_only_alerts_of_a_model() {
    run(async {
        let names = ["gpt-4o", "gpt-4o-2024-08-06", "gpt-5"];
        let rules =
            names.map(|model| limit(model, &format!("only = {{ model = [\"{model}*\"] }}\nsoft = [1.0]")));
        let (house, _) = answering(&format!("{}{ALLOWED}", rules.concat()), "gpt-4o").await;
        let answer = respond(&house, json!({ "prompt": { "id": "pmpt_1" } })).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        for name in names {
            // By the price of the model that answered: a million tokens of gpt-4o.
            assert_eq!(house.meter(name).await["settled"], "2.5", "{name}");
        }
        let entries = house.entries().await;
        let settled = entries.iter().find(|entry| entry["kind"] == "settle").unwrap();
        assert_eq!(settled["model"], "*");
    });
}

#[test]
fn a_stored_prompt_does_not_step_around_a_keys_models() {
    run(async {
        let (house, asked) = answering(ALLOWED, "gpt-4o").await;
        let of = async |models: Value| {
            let key = house.make_key(json!({ "name": "k", "models": models })).await;
            format!("Bearer {}", key["value"].as_str().unwrap())
        };
        let ask = async |bearer: &str, body: Value| {
            let (headers, body) = ([("authorization", bearer)], bytes::Bytes::from(body.to_string()));
            call(&house.proxy, Method::POST, "/v1/responses", &headers, body).await
        };
        let unnamed = json!({ "prompt": { "id": "pmpt_1" } });
        let named = json!({ "prompt": { "id": "pmpt_1" }, "model": "gpt-5" });
        let answer = ask(&of(json!(["gpt-5*", "gpt-image-1.5", "gpt-image-2"])).await, unnamed.clone()).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{answer:?}");
        assert!(message(&answer).contains("Name a model in the request"), "{answer:?}");
        // The template may carry an image tool, whose model must be permitted as well.
        let answer = ask(&of(json!(["gpt-5*"])).await, named.clone()).await;
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::FORBIDDEN, "model_not_found"));
        assert!(message(&answer).contains("`gpt-image-"), "{answer:?}");
        assert!(asked.borrow().is_empty());
        let answer = ask(&of(json!(["gpt-5*", "gpt-image-1.5", "gpt-image-2"])).await, named.clone()).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let answer = ask(&of(json!(["*"])).await, unnamed.clone()).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let deny = async |model: &str| {
            let rule = json!({ "mode": "deny_list", "model_ids": [model] });
            let path = "/v1/organization/projects/default/model_permissions";
            let set = house.admin(Method::POST, path, Some(rule)).await;
            assert_eq!(set.status, StatusCode::OK, "{set:?}");
        };
        let any = of(json!([])).await;
        deny("gpt-4o").await;
        let answer = ask(&any, unnamed).await;
        assert!(message(&answer).contains("Name a model in the request"), "{answer:?}");
        assert_eq!(ask(&any, named.clone()).await.status, StatusCode::OK);
        deny("gpt-image-2").await;
        assert_eq!(ask(&any, named).await.status, StatusCode::FORBIDDEN, "the template may draw with it");
    });
}

#[test]
fn without_a_stored_prompt_a_response_has_to_name_its_model() {
    run(async {
        let (house, asked) = answering(&format!("{ALLOWED}{SHARED}"), "gpt-4o").await;
        let continued = json!({ "previous_response_id": "resp_1", "input": "x" });
        let talked = json!({ "conversation": "conv_1", "input": "x" });
        let prompted = |model: &str| json!({ "prompt": { "id": "pmpt_1" }, "model": model });
        for body in [continued, talked, prompted(""), prompted("  "), json!({ "input": "x", "model": null })]
        {
            let answer = respond(&house, body.clone()).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}: {answer:?}");
            assert_eq!(answer.json()["error"]["param"], "model", "{body}");
        }
        assert!(asked.borrow().is_empty());
    });
}

/// An answer on gpt-5 that made one picture of a thousand tokens, or none.
fn drawn(pictures: usize) -> Value {
    let mut answer = response("gpt-5", 1_000, 100);
    let picture =
        json!({ "type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "aGk=" });
    answer["output"] = json!(vec![picture; pictures]);
    let tokens = 1_000 * pictures;
    answer["tool_usage"] = json!({ "image_gen": { "input_tokens": 0, "output_tokens": tokens } });
    answer
}

fn draws(tool: Value) -> Value {
    let mut image = json!({ "type": "image_generation" });
    image.as_object_mut().unwrap().extend(tool.as_object().cloned().unwrap());
    json!({ "model": "gpt-5", "input": "x", "tools": [image], "max_output_tokens": 16, "max_tool_calls": 1 })
}

#[test]
fn a_limit_on_the_image_tools_model_is_held_and_counts_what_made_a_picture() {
    run(async {
        let named = json!({ "model": "gpt-image-1" });
        let dated = json!({ "model": "GPT-image-1-2025-04-23" });
        let unnamed = json!({});
        let other = json!({ "model": "gpt-image-2" });
        for (tool, pictures, settled) in [
            (&named, 1, "0.04225"),
            (&dated, 1, "0.04225"),
            // By the dearest model that makes images and is still served: since 2026-12-01, when gpt-image-1.5
            // was shut down, that is gpt-image-2, at 30 dollars for a million tokens.
            (&unnamed, 1, "0.03225"),
            (&named, 0, "0"),
            (&other, 1, "0"),
        ] {
            let config = limit("pictures", "only = { model = [\"gpt-image-1\"] }\nhard = 1.0");
            let (house, _) = guard_before(&config, move |_, _| Reply::Json(drawn(pictures))).await;
            let answer = respond(&house, draws(tool.clone())).await;
            assert_eq!(answer.status, StatusCode::OK, "{tool}: {answer:?}");
            house.settled().await;
            assert_eq!(house.meter("pictures").await["settled"], settled, "{tool}, {pictures} pictures");
            assert_eq!(house.meter("pictures").await["held"], "0");
            let verified = house.admin(Method::GET, "/guard/v1/ledger/verify", None).await;
            assert_eq!(verified.json()["ok"], true, "{verified:?}");
        }
        // What may not fit is not sent.
        let config = limit("pictures", "only = { model = [\"gpt-image-1\"] }\nhard = 0.05");
        let (house, asked) = guard_before(&config, move |_, _| Reply::Json(drawn(1))).await;
        let answer = respond(&house, draws(named)).await;
        assert_eq!(answer.code(), "request_cost_exceeds_limit", "{answer:?}");
        assert_eq!(respond(&house, draws(other)).await.status, StatusCode::OK);
        assert_eq!(asked.borrow().len(), 1);
    });
}

#[test]
fn an_image_tool_counts_on_the_meters_of_both_models() {
    run(async {
        let config = limit("each", "per = \"model\"\nhard = 1.0");
        let (house, asked) = guard_before(&config, move |_, _| Reply::Json(drawn(1))).await;
        let answer = respond(&house, draws(json!({ "model": "gpt-image-1" }))).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        house.settled().await;
        let meters = async |house: &House| {
            let limits = house.admin(Method::GET, "/guard/v1/limits/each", None).await.json();
            let meters = limits["meters"].as_array().cloned().unwrap_or_default();
            let mut meters: Vec<(String, String)> = meters
                .iter()
                .map(|meter| {
                    [&meter["subject"], &meter["settled"]]
                        .map(|text| text.as_str().unwrap().to_owned())
                        .into()
                })
                .collect();
            meters.sort();
            meters
        };
        let both = ["gpt-5", "gpt-image-1"].map(|model| (model.to_owned(), "0.04225".to_owned()));
        assert_eq!(meters(&house).await, both);
        // Which meter it would be is not known where the tool names no model.
        let answer = respond(&house, draws(json!({}))).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{answer:?}");
        assert!(message(&answer).contains("Name the image_generation tool's model"), "{answer:?}");
        assert_eq!(asked.borrow().len(), 1);
        // A restart learns of both meters from the ledger, and a new limit of one.
        let folder = house.close().await;
        let more = limit("pictures", "only = { model = [\"gpt-image-1\"] }\nsoft = [1.0]");
        let house = House::reopened(folder, &format!("{config}{more}")).await;
        assert_eq!(meters(&house).await, both);
        assert_eq!(house.meter("pictures").await["settled"], "0.04225");
    });
}
