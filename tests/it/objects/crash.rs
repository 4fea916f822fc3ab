//! A client never knows an id that the guard has forgotten.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::upstream::{self, Kept};
use super::{PROJECTS, response};
use crate::harness::{Answer, call, run};
use crate::process::{Place, Serving};

const ROUNDS: usize = 8;

async fn key(serving: &Serving, project: &str) -> String {
    let body = json!({ "name": project, "project_id": project });
    let made = serving.ask(Method::POST, "/guard/v1/keys", Some(body)).await;
    made["value"].as_str().unwrap().to_owned()
}

async fn ask(serving: &Serving, key: &str, (method, path): (Method, &str), body: Value) -> Answer {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    call(&serving.proxy, method, path, &headers, body).await
}

/// Reads a stream until it has named its response; returns the id.
async fn named(serving: &Serving, key: &str) -> String {
    let mut headers = HeaderMap::new();
    headers.insert("authorization", format!("Bearer {key}").parse().unwrap());
    let body = response(json!({ "stream": true, "metadata": { "hang": "yes" } }));
    let answer =
        serving.proxy.send(Method::POST, "/v1/responses", headers, body.to_string().into()).await.unwrap();
    let (mut body, mut text) = (answer.into_body(), String::new());
    loop {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        text.push_str(&String::from_utf8_lossy(&frame));
        if let Some(from) = text.find("\"resp_") {
            return text[from + 1..].split('"').next().unwrap().to_owned();
        }
    }
}

#[test]
fn kill_9_forgets_no_id_that_a_client_has_seen() {
    run(async {
        let kept = Arc::new(Kept::default());
        let place = Place::new(&upstream::serve(&kept).await, PROJECTS);
        let mut serving = place.serve();
        let (a, b) = (key(&serving, "a").await, key(&serving, "b").await);
        for round in 0..ROUNDS {
            let whole = ask(&serving, &a, (Method::POST, "/v1/responses"), response(json!({}))).await.json();
            let conv = ask(&serving, &a, (Method::POST, "/v1/conversations"), json!({})).await.json();
            let streamed = named(&serving, &a).await;
            serving.process.kill();
            serving = place.serve();
            let item = &whole["output"][1]["id"];
            for (path, of) in [
                ("responses", whole["id"].as_str()),
                ("responses", Some(&*streamed)),
                ("conversations", conv["id"].as_str()),
            ] {
                let path = format!("/v1/{path}/{}", of.unwrap());
                let own = ask(&serving, &a, (Method::GET, &path), Value::Null).await;
                assert_eq!(own.status, StatusCode::OK, "round {round}, {path}: {own:?}");
                let foreign = ask(&serving, &b, (Method::GET, &path), Value::Null).await;
                assert_eq!(foreign.status, StatusCode::NOT_FOUND, "round {round}, {path}");
            }
            let named = response(json!({ "input": [{ "type": "item_reference", "id": item }] }));
            let next = ask(&serving, &a, (Method::POST, "/v1/responses"), named.clone()).await;
            assert_eq!(next.status, StatusCode::OK, "round {round}: {next:?}");
            let foreign = ask(&serving, &b, (Method::POST, "/v1/responses"), named).await;
            assert_eq!(foreign.status, StatusCode::NOT_FOUND);
        }
        serving.verify().await;
    });
}

#[test]
fn what_keeps_a_container_alive_is_charged_by_its_memory() {
    run(async {
        let kept = Arc::new(Kept::default());
        let place = Place::new(&upstream::serve(&kept).await, PROJECTS);
        let mut serving = place.serve();
        let a = key(&serving, "a").await;
        let tool =
            json!({ "type": "code_interpreter", "container": { "type": "auto", "memory_limit": "64g" } });
        let made =
            ask(&serving, &a, (Method::POST, "/v1/responses"), response(json!({ "tools": [tool] }))).await;
        let container = made.json()["output"][2]["container_id"].as_str().unwrap().to_owned();
        let path = format!("/v1/containers/{container}");
        // Four reads, each a quarter of an hour after the last use.
        for _ in 0..4 {
            serving.stop();
            let db = rusqlite::Connection::open(place.database()).unwrap();
            let moved =
                db.execute("UPDATE object SET used_s = used_s - 900 WHERE kind = 'container'", []).unwrap();
            assert_eq!(moved, 1);
            drop(db);
            serving = place.serve();
            assert_eq!(ask(&serving, &a, (Method::GET, &path), Value::Null).await.status, StatusCode::OK);
        }
        let entries = serving.ask(Method::GET, "/guard/v1/ledger?kind=settle&limit=100", None).await;
        let of_container = |entry: &&Value| entry["endpoint"] == "/v1/containers/{}";
        let costs: Vec<f64> = entries["data"]
            .as_array()
            .unwrap()
            .iter()
            .filter(of_container)
            .map(|entry| entry["cost_usd"].as_str().unwrap().parse().unwrap())
            .collect();
        assert_eq!(costs.len(), 4);
        // 15 minutes of 64 GB are 1.44 USD; the restarts may have taken some minutes.
        assert!(costs.iter().all(|cost| (1.44..1.93).contains(cost)), "{costs:?}");
        serving.verify().await;
    });
}
