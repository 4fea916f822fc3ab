//! OpenAI's admin API: projects, keys, spend limits, admin keys, usage, audit.

mod admin_keys;
mod audit;
mod spending;
mod usage;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use spendguard::startup::{self, Opened};
use spendguard::store::{Durability, Store, StoreError};

use crate::harness::{ADMIN_TOKEN, Answer, House, call, chat, run};

/// A request to a path under `/v1/organization`.
async fn ask(house: &House, method: Method, path: &str, body: Option<Value>) -> Answer {
    house.admin(method, &format!("/v1/organization/{path}"), body).await
}

async fn get(house: &House, path: &str) -> Value {
    let answer = ask(house, Method::GET, path, None).await;
    assert_eq!(answer.status, StatusCode::OK, "{path}: {answer:?}");
    answer.json()
}

async fn post(house: &House, path: &str, body: Value) -> Value {
    let answer = ask(house, Method::POST, path, Some(body)).await;
    assert_eq!(answer.status, StatusCode::OK, "{path}: {answer:?}");
    answer.json()
}

async fn delete(house: &House, path: &str) -> Value {
    let answer = ask(house, Method::DELETE, path, None).await;
    assert_eq!(answer.status, StatusCode::OK, "{path}: {answer:?}");
    answer.json()
}

/// The status and code of a refusal.
async fn refused(house: &House, method: Method, path: &str, body: Option<Value>) -> (u16, String) {
    let answer = ask(house, method, path, body).await;
    let error = &answer.json()["error"];
    assert!(error["message"].is_string() && error["type"] == "invalid_request_error", "{path}: {answer:?}");
    (answer.status.as_u16(), answer.code())
}

async fn with_token(house: &House, token: &str, method: Method, path: &str) -> StatusCode {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    call(&house.admin, method, path, &headers, Bytes::from("{}")).await.status
}

async fn chat_with(house: &House, key: &str, model: &str) -> Answer {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let body = Bytes::from(chat(json!({ "model": model })).to_string());
    call(&house.proxy, Method::POST, "/v1/chat/completions", &headers, body).await
}

async fn make_project(house: &House, name: &str) -> String {
    post(house, "projects", json!({ "name": name })).await["id"].as_str().unwrap().to_owned()
}

fn ids(list: &Value) -> Vec<String> {
    list["data"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

fn cents(amount: i64) -> Value {
    json!({ "threshold_amount": amount, "currency": "USD", "interval": "month" })
}

fn alert(amount: i64) -> Value {
    let mut body = cents(amount);
    body["notification_channel"] =
        json!({ "type": "email", "recipients": ["finance@example.com"], "subject_prefix": "[spend]" });
    body
}

#[test]
fn a_project_is_made_renamed_and_archived() {
    run(async {
        let house = House::with("[[project]]\nid = \"of-file\"\nname = \"Of file\"\n").await;
        let made = post(&house, "projects", json!({ "name": "Chatbot", "residency": null })).await;
        let id = made["id"].as_str().unwrap().to_owned();
        assert_eq!((&made["object"], &made["status"]), (&json!("organization.project"), &json!("active")));
        let path = format!("projects/{id}");
        assert_eq!(post(&house, &path, json!({ "name": "Chat" })).await["name"], "Chat");
        assert_eq!(get(&house, &path).await["name"], "Chat");
        let pages = [get(&house, "projects?limit=2").await, get(&house, "projects").await];
        assert_eq!((&pages[0]["has_more"], pages[1]["data"].as_array().unwrap().len()), (&json!(true), 3));
        let archived = post(&house, &format!("{path}/archive"), json!({})).await;
        assert!(archived["status"] == "archived" && archived["archived_at"].is_i64(), "{archived}");
        assert!(!ids(&get(&house, "projects").await).contains(&id));
        assert!(ids(&get(&house, "projects?include_archived=true").await).contains(&id));
        for (path, body, code) in [
            ("projects", json!({ "name": "x", "residency": "EU_STORAGE_PROCESSING" }), "not_supported"),
            ("projects", json!({ "name": "" }), "invalid_request"),
            ("projects", json!({}), "invalid_request"),
            ("projects/of-file", json!({ "name": "x" }), "conflict"),
            ("projects/nobody", json!({ "name": "x" }), "not_found"),
            ("projects/of-file/archive", json!({}), "conflict"),
        ] {
            assert_eq!(refused(&house, Method::POST, path, Some(body)).await.1, code, "{path}");
        }
        let late = refused(&house, Method::POST, &format!("{path}/spend_limit"), Some(cents(5))).await;
        assert_eq!(late.1, "conflict", "it is archived");
    });
}

#[test]
fn a_service_accounts_key_is_shown_once_and_goes_with_it() {
    run(async {
        let house = House::with("").await;
        let id = make_project(&house, "Bots").await;
        let accounts = format!("projects/{id}/service_accounts");
        let made = post(&house, &accounts, json!({ "name": "bot", "expires_in_seconds": 60 })).await;
        let (account, key) = (made["id"].as_str().unwrap(), &made["api_key"]);
        assert_eq!((&made["role"], &key["name"]), (&json!("member"), &json!("Secret Key")));
        assert_eq!(key["object"], "organization.project.service_account.api_key");
        let secret = key["value"].as_str().unwrap().to_owned();
        let second = post(&house, &format!("{accounts}/{account}/api_keys"), json!({ "name": "two" })).await;
        let keys = get(&house, &format!("projects/{id}/api_keys")).await;
        assert_eq!(keys["data"].as_array().unwrap().len(), 2);
        // Those of one second are in no order.
        let is_first = |listed: &&Value| listed["id"] == key["id"];
        let listed = keys["data"].as_array().unwrap().iter().find(is_first).unwrap();
        assert_eq!(listed["owner"]["service_account"]["id"], json!(account));
        assert!(listed["expires_at"].is_i64());
        assert!(!keys.to_string().contains(&secret), "{keys}");
        assert_eq!(chat_with(&house, &secret, "gpt-4o-mini").await.status, StatusCode::OK);
        let first = key["id"].as_str().unwrap();
        let shown = get(&house, &format!("projects/{id}/api_keys/{first}")).await;
        assert!(shown["last_used_at"].is_i64(), "{shown}");
        let one = format!("projects/{id}/api_keys/{}", second["id"].as_str().unwrap());
        assert_eq!(delete(&house, &one).await["object"], "organization.project.api_key.deleted");
        assert_eq!(refused(&house, Method::GET, &one, None).await.0, 404);
        assert_eq!(ids(&get(&house, &accounts).await), [account]);
        let renamed = post(&house, &format!("{accounts}/{account}"), json!({ "name": "robot" })).await;
        assert_eq!(renamed["name"], "robot");
        let gone = delete(&house, &format!("{accounts}/{account}")).await;
        assert_eq!(gone["object"], "organization.project.service_account.deleted");
        assert_eq!(chat_with(&house, &secret, "gpt-4o-mini").await.status, StatusCode::UNAUTHORIZED);
        assert_eq!(refused(&house, Method::GET, &format!("{accounts}/{account}"), None).await.0, 404);
        let alone = json!({ "name": "x", "create_service_account_only": true });
        assert_eq!(post(&house, &accounts, alone).await["api_key"], Value::Null);
        let owner = json!({ "role": "owner" });
        let path = format!("{accounts}/{}", ids(&get(&house, &accounts).await)[0]);
        assert_eq!(refused(&house, Method::POST, &path, Some(owner)).await.1, "not_supported");
    });
}

#[test]
fn a_projects_keys_are_its_own_and_have_no_scopes() {
    run(async {
        let house = House::with("").await;
        let other = make_project(&house, "Other").await;
        let keys = get(&house, "projects/default/api_keys").await;
        let id = ids(&keys)[0].clone();
        let key = &keys["data"][0];
        assert_eq!((&key["name"], &key["owner_project_access"]), (&json!("test"), &json!("active")));
        assert_eq!(key["owner"]["type"], Value::Null, "no owner is made up");
        let changed =
            post(&house, &format!("projects/default/api_keys/{id}"), json!({ "expires_in_seconds": 90 }))
                .await;
        assert!(changed["expires_at"].is_i64());
        let scopes = json!({ "scopes": ["api.all.read"] });
        let path = format!("projects/default/api_keys/{id}");
        assert_eq!(refused(&house, Method::POST, &path, Some(scopes)).await.1, "not_supported");
        let elsewhere = format!("projects/{other}/api_keys/{id}");
        for method in [Method::GET, Method::DELETE] {
            assert_eq!(refused(&house, method, &elsewhere, None).await.0, 404);
        }
        let none = get(&house, "projects/default/api_keys?owner_project_access=inactive").await;
        assert!(ids(&none).is_empty());
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK);
    });
}

#[test]
fn a_rate_limit_of_a_project_and_a_model_really_refuses() {
    run(async {
        let house = House::with("").await;
        let path = "projects/default/rate_limits";
        assert!(ids(&get(&house, path).await).is_empty());
        let rate = format!("{path}/rl-gpt-4o-mini");
        let body = json!({ "max_requests_per_1_minute": 1, "max_tokens_per_1_minute": 100_000 });
        let set = post(&house, &rate, body).await;
        assert_eq!(
            set,
            json!({ "object": "project.rate_limit", "id": "rl-gpt-4o-mini", "model": "gpt-4o-mini",
                "max_requests_per_1_minute": 1, "max_tokens_per_1_minute": 100_000, "max_requests_per_1_day": null })
        );
        assert_eq!(get(&house, path).await["data"], json!([set]));
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK);
        let no = house.chat(&[], json!({})).await;
        assert_eq!((no.status.as_u16(), no.code()), (429, "rate_limit_exceeded".to_owned()));
        assert_eq!(no.header("x-spendguard-limit"), "project-default-gpt-4o-mini-rpm");
        assert_eq!(house.chat(&[], json!({ "model": "gpt-4o" })).await.status, StatusCode::OK);
        let raised = post(&house, &rate, json!({ "max_requests_per_1_minute": 50 })).await;
        assert_eq!(raised["max_tokens_per_1_minute"], 100_000, "what is not given stays");
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK);
        for (id, body, status) in [
            ("rl-x", json!({ "max_images_per_1_minute": 5 }), 400),
            ("rl-x", json!({ "max_requests_per_1_minute": -1 }), 400),
            ("rl-x", json!({}), 400),
            ("rl-", json!({ "max_requests_per_1_minute": 1 }), 404),
            ("rl-gpt*", json!({ "max_requests_per_1_minute": 1 }), 404),
        ] {
            let no = refused(&house, Method::POST, &format!("{path}/{id}"), Some(body)).await;
            assert_eq!(no.0, status, "{id}");
        }
    });
}

#[test]
fn model_permissions_are_asked_on_every_request() {
    run(async {
        let house = House::with("").await;
        let path = "projects/default/model_permissions";
        assert_eq!(refused(&house, Method::GET, path, None).await.0, 404);
        let only = json!({ "mode": "allow_list", "model_ids": ["gpt-4o"] });
        let set = post(&house, path, only).await;
        assert_eq!(
            set,
            json!({ "object": "project.model_permissions", "mode": "allow_list", "model_ids": ["gpt-4o"] })
        );
        let no = house.chat(&[], json!({})).await;
        assert_eq!((no.status.as_u16(), no.code()), (403, "model_not_found".to_owned()));
        assert_eq!(house.chat(&[], json!({ "model": "gpt-4o" })).await.status, StatusCode::OK);
        post(&house, path, json!({ "mode": "deny_list", "model_ids": ["gpt-4o"] })).await;
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK);
        for model in ["gpt-4o", "gpt-4o-2031-01-01"] {
            let no = house.chat(&[], json!({ "model": model })).await;
            assert_eq!(no.status, StatusCode::FORBIDDEN, "{model}: a snapshot is denied with its model");
        }
        assert_eq!(get(&house, path).await["mode"], "deny_list");
        for body in [
            json!({ "mode": "deny", "model_ids": [] }),
            json!({ "mode": "deny_list", "model_ids": ["gpt-4*"] }),
        ] {
            assert_eq!(refused(&house, Method::POST, path, Some(body)).await.0, 400);
        }
        assert_eq!(delete(&house, path).await["object"], "project.model_permissions.deleted");
        assert_eq!(refused(&house, Method::DELETE, path, None).await.0, 404);
        assert_eq!(house.chat(&[], json!({ "model": "gpt-4o" })).await.status, StatusCode::OK);
    });
}

#[test]
fn what_the_guard_has_not_is_an_error_in_openais_envelope() {
    run(async {
        let house = House::with("").await;
        for path in ["users", "invites", "projects/default/users", "projects/default/certificates", "nothing"]
        {
            assert_eq!(
                refused(&house, Method::GET, path, None).await,
                (404, "not_found".to_owned()),
                "{path}"
            );
        }
        let no = refused(&house, Method::DELETE, "projects", None).await;
        assert_eq!(no, (405, "method_not_allowed".to_owned()));
        let unknown = call(&house.admin, Method::GET, "/v1/organization/users", &[], Bytes::new()).await;
        assert_eq!(unknown.status, StatusCode::UNAUTHORIZED, "a stranger learns nothing");
        let long = Bytes::from(vec![b' '; 2 << 20]);
        let bearer = format!("Bearer {ADMIN_TOKEN}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let large = call(&house.admin, Method::POST, "/v1/organization/projects", &headers, long).await;
        assert_eq!(large.status, StatusCode::PAYLOAD_TOO_LARGE);
    });
}

/// The store of a guard that has just ended; its writer's thread ends last.
async fn reopened(data: &Path) -> Store {
    for _ in 0..500 {
        match Store::open(data, Durability::Process) {
            Err(StoreError::Locked { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
            opened => return opened.unwrap(),
        }
    }
    panic!("the guard has not ended");
}

#[test]
fn all_of_it_survives_a_restart_and_no_secret_is_in_a_file() {
    run(async {
        let house = House::with("").await;
        let admin = post(&house, "admin_api_keys", json!({ "name": "ops", "role": "read_only" })).await;
        let account = post(&house, "projects/default/service_accounts", json!({ "name": "bot" })).await;
        let alert = post(&house, "spend_alerts", alert(123)).await;
        post(&house, "projects/default/rate_limits/rl-gpt-4o", json!({ "max_requests_per_1_minute": 7 }))
            .await;
        let models = json!({ "mode": "deny_list", "model_ids": ["gpt-4o"] });
        post(&house, "projects/default/model_permissions", models).await;
        let folder = house.close().await;
        let data = folder.path().join("data");
        let mut seen = String::new();
        for file in std::fs::read_dir(&data).unwrap() {
            seen.push_str(&String::from_utf8_lossy(&std::fs::read(file.unwrap().path()).unwrap()));
        }
        for secret in [&admin["value"], &account["api_key"]["value"]] {
            assert!(!seen.contains(secret.as_str().unwrap()), "{secret}");
        }
        let store = reopened(&data).await;
        let config = startup::Config { open_requests_max: 1, zone: "UTC".into() };
        let (opened, _writer) = startup::open(store, &config, Arc::default(), Arc::default()).unwrap();
        let key = spendguard::keys::KeyHash::of(admin["value"].as_str().unwrap().as_bytes());
        let Opened { guard, directory, rulebook, .. } = opened;
        assert_eq!(directory.admin_key_of(&key).unwrap().role.name(), "read_only");
        let known = rulebook.spend_alerts(None).await.remove(0);
        assert_eq!((json!(known.id), known.threshold.nano()), (alert["id"].clone(), 1_230_000_000));
        assert_eq!(known.channel.recipients, ["finance@example.com"]);
        assert_eq!(json!(directory.accounts("default")[0].keys), json!([account["api_key"]["id"]]));
        assert!(!guard.ring().allows("default", "gpt-4o", None));
    });
}
