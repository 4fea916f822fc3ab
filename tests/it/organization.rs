//! OpenAI's admin API: projects, keys, spend limits, admin keys, usage, audit.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use spendguard::guard::{Guard, recovery};
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
fn a_spend_limit_set_as_openai_does_it_really_refuses() {
    run(async {
        let house = House::with("").await;
        let none = refused(&house, Method::GET, "spend_limit", None).await;
        assert_eq!(none, (404, "not_found".to_owned()));
        let set = post(&house, "spend_limit", cents(10_000)).await;
        assert_eq!(
            set,
            json!({ "object": "organization.spend_limit", "threshold_amount": 10_000, "currency": "USD",
                "interval": "month", "enforcement": { "status": "inactive" } })
        );
        assert_eq!(get(&house, "spend_limit").await, set);
        assert_eq!(house.meter("organization-spend-limit").await["remaining"], "100");
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK);
        // What was spent already is above a cent when the correction is in.
        let id = house.entries().await[0]["id"].as_str().unwrap().to_owned();
        let body = json!({ "amount_usd": "0.05", "note": "a test" });
        house.admin(Method::POST, &format!("/guard/v1/ledger/{id}/adjust"), Some(body)).await;
        let lowered = post(&house, "spend_limit", cents(1)).await;
        assert_eq!(lowered["enforcement"]["status"], "enforcing");
        let no = house.chat(&[], json!({})).await;
        assert_eq!((no.status.as_u16(), no.code()), (429, "organization_spend_limit_exceeded".to_owned()));
        assert_eq!(no.header("x-spendguard-limit"), "organization-spend-limit");
        let gone = delete(&house, "spend_limit").await;
        assert_eq!(gone, json!({ "object": "organization.spend_limit.deleted", "deleted": true }));
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK);
        assert_eq!(refused(&house, Method::DELETE, "spend_limit", None).await.0, 404);
    });
}

#[test]
fn a_projects_spend_limit_holds_for_its_keys_alone() {
    run(async {
        let house = House::with("").await;
        let id = make_project(&house, "Small").await;
        let account =
            post(&house, &format!("projects/{id}/service_accounts"), json!({ "name": "bot" })).await;
        let key = account["api_key"]["value"].as_str().unwrap().to_owned();
        assert_eq!(chat_with(&house, &key, "gpt-4o-mini").await.status, StatusCode::OK);
        let path = format!("projects/{id}/spend_limit");
        let set = post(&house, &path, cents(1)).await;
        assert_eq!(set["object"], "project.spend_limit");
        // One cent is spent by a correction, so that nothing fits any more.
        let entry = house.entries().await[0]["id"].as_str().unwrap().to_owned();
        let body = json!({ "amount_usd": "0.01", "note": "a test" });
        house.admin(Method::POST, &format!("/guard/v1/ledger/{entry}/adjust"), Some(body)).await;
        let no = chat_with(&house, &key, "gpt-4o-mini").await;
        assert_eq!((no.status.as_u16(), no.code()), (429, "project_spend_limit_exceeded".to_owned()));
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK, "another project");
        assert_eq!(delete(&house, &path).await["object"], "project.spend_limit.deleted");
        assert_eq!(refused(&house, Method::GET, "projects/nobody/spend_limit", None).await.0, 404);
    });
}

#[test]
fn what_is_no_spend_limit_is_refused_and_loses_nothing() {
    run(async {
        let file = "[[limit]]\nname = \"organization-spend-limit\"\nwindow = \"month\"\nhard = 3\n";
        let house = House::with(file).await;
        assert_eq!(get(&house, "spend_limit").await["threshold_amount"], 300);
        assert_eq!(refused(&house, Method::POST, "spend_limit", Some(cents(5))).await.1, "conflict");
        assert_eq!(refused(&house, Method::DELETE, "spend_limit", None).await.1, "conflict");
        for (field, value, status) in [
            ("threshold_amount", json!(0), 400),
            ("threshold_amount", json!(922_337_203_686_i64), 400),
            ("threshold_amount", json!(24.5), 422),
            ("currency", json!("EUR"), 400),
            ("interval", json!("day"), 400),
            ("surplus", json!(1), 422),
        ] {
            let mut body = cents(5);
            body[field] = value;
            let no = refused(&house, Method::POST, "projects/default/spend_limit", Some(body)).await;
            assert_eq!(no.0, status, "{field}");
        }
        // Thresholds and zone that it was given elsewhere stay when the cap is changed here.
        let name = "project-default-spend-limit";
        let rule = json!({ "per": "project", "only": { "project": ["default"] }, "window": "month", "hard": "7.5",
            "soft": ["50%"], "zone": "Asia/Tbilisi" });
        house.admin(Method::PUT, &format!("/guard/v1/limits/{name}"), Some(rule)).await;
        assert_eq!(get(&house, "projects/default/spend_limit").await["threshold_amount"], 750);
        post(&house, "projects/default/spend_limit", cents(922_337_203_685)).await;
        let now = house.admin(Method::GET, &format!("/guard/v1/limits/{name}"), None).await.json();
        assert_eq!((&now["soft"], &now["zone"]), (&json!(["50%"]), &json!("Asia/Tbilisi")));
        assert_eq!(now["hard"], "9223372036.85");
        let other = json!({ "per": "key", "window": "day", "hard": "1" });
        house.admin(Method::PUT, &format!("/guard/v1/limits/{name}"), Some(other)).await;
        assert_eq!(refused(&house, Method::GET, "projects/default/spend_limit", None).await.1, "conflict");
    });
}

#[test]
fn a_spend_alert_is_a_threshold_that_is_crossed_and_never_refuses() {
    run(async {
        let house = House::with("").await;
        let made = post(&house, "spend_alerts", alert(1)).await;
        let id = made["id"].as_str().unwrap().to_owned();
        assert_eq!(
            (&made["object"], &made["threshold_amount"]),
            (&json!("organization.spend_alert"), &json!(1))
        );
        assert_eq!(made["notification_channel"], alert(1)["notification_channel"]);
        house.chat(&[], json!({})).await;
        let entry = house.entries().await[0]["id"].as_str().unwrap().to_owned();
        let body = json!({ "amount_usd": "0.01", "note": "a test" });
        house.admin(Method::POST, &format!("/guard/v1/ledger/{entry}/adjust"), Some(body)).await;
        let crossed = house.admin(Method::GET, "/guard/v1/ledger?kind=threshold", None).await.json();
        assert!(crossed["data"][0]["note"].as_str().unwrap().contains(&id), "{crossed}");
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK);
        for method in [Method::PUT, Method::DELETE] {
            let rule = json!({ "window": "day", "hard": "1" });
            let no = house.admin(method, &format!("/guard/v1/limits/{id}"), Some(rule)).await;
            assert_eq!(no.status, StatusCode::CONFLICT, "an alert has one owner");
        }
        let changed = post(&house, &format!("spend_alerts/{id}"), alert(250)).await;
        assert_eq!(changed["threshold_amount"], 250);
        assert_eq!(get(&house, &format!("spend_alerts/{id}")).await, changed);
        let limit = house.admin(Method::GET, &format!("/guard/v1/limits/{id}"), None).await.json();
        assert_eq!((&limit["soft"], &limit["hard"]), (&json!(["2.5"]), &Value::Null));
        let gone = delete(&house, &format!("spend_alerts/{id}")).await;
        assert_eq!(gone, json!({ "object": "organization.spend_alert.deleted", "id": id, "deleted": true }));
        assert_eq!(refused(&house, Method::GET, &format!("spend_alerts/{id}"), None).await.0, 404);
        assert_eq!(house.admin(Method::GET, &format!("/guard/v1/limits/{id}"), None).await.status, 404);
    });
}

#[test]
fn spend_alerts_are_listed_by_pages_and_by_whose_they_are() {
    run(async {
        let house = House::with("").await;
        let mut made = Vec::new();
        for amount in 1..=5 {
            made.push(post(&house, "spend_alerts", alert(amount)).await["id"].as_str().unwrap().to_owned());
        }
        let of_project = post(&house, "projects/default/spend_alerts", alert(9)).await;
        assert_eq!(of_project["object"], "project.spend_alert");
        assert_eq!(
            ids(&get(&house, "projects/default/spend_alerts").await),
            [of_project["id"].as_str().unwrap()]
        );
        let page = get(&house, "spend_alerts?limit=2").await;
        assert_eq!((ids(&page), &page["has_more"]), (made[..2].to_vec(), &json!(true)));
        assert_eq!((&page["first_id"], &page["last_id"]), (&json!(made[0]), &json!(made[1])));
        let next = get(&house, &format!("spend_alerts?limit=3&after={}", made[1])).await;
        assert_eq!((ids(&next), &next["has_more"]), (made[2..].to_vec(), &json!(false)));
        let back = get(&house, &format!("spend_alerts?limit=2&before={}", made[4])).await;
        assert_eq!((ids(&back), &back["has_more"]), (made[2..4].to_vec(), &json!(true)));
        let newest = get(&house, "spend_alerts?limit=1&order=desc").await;
        assert_eq!(ids(&newest), made[4..]);
        for query in
            ["limit=0", "limit=101", "limit=x", "order=up", "after=nobody", "before=nobody", "page=1"]
        {
            assert_eq!(
                refused(&house, Method::GET, &format!("spend_alerts?{query}"), None).await.0,
                400,
                "{query}"
            );
        }
        let other = format!("spend_alerts/{}", of_project["id"].as_str().unwrap());
        assert_eq!(refused(&house, Method::GET, &other, None).await.0, 404, "it is the project's");
        for (path, value) in [
            ("/notification_channel/type", json!("pager")),
            ("/notification_channel/recipients", json!([])),
            ("/notification_channel/recipients", json!(["nobody"])),
            ("/notification_channel/recipients", json!(["a@b\r\nBcc: c@d"])),
            ("/notification_channel/subject_prefix", json!("a\r\nBcc: c@d")),
        ] {
            let mut body = alert(5);
            *body.pointer_mut(path).unwrap() = value;
            assert_eq!(refused(&house, Method::POST, "spend_alerts", Some(body)).await.0, 400, "{path}");
        }
    });
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
        assert_eq!(key["owner"]["type"], Value::Null, "nobody is made up");
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
fn an_admin_key_is_shown_once_and_opens_both_apis_until_it_is_gone() {
    run(async {
        let house = House::with("").await;
        let made = post(&house, "admin_api_keys", json!({ "name": "ci" })).await;
        let (id, secret) = (made["id"].as_str().unwrap(), made["value"].as_str().unwrap());
        assert!(secret.starts_with("sk-admin-"), "{secret}");
        assert_eq!((&made["object"], &made["role"]), (&json!("organization.admin_api_key"), &json!("full")));
        for path in ["/v1/organization/projects", "/guard/v1/keys"] {
            assert_eq!(with_token(&house, secret, Method::GET, path).await, StatusCode::OK, "{path}");
        }
        let list = get(&house, "admin_api_keys").await;
        assert_eq!((ids(&list), list["data"][0].get("value")), (vec![id.to_owned()], None));
        assert_eq!(list["data"][0]["redacted_value"], format!("sk-admin-…{}", &secret[secret.len() - 4..]));
        assert!(list["data"][0]["last_used_at"].is_i64());
        assert_eq!(get(&house, &format!("admin_api_keys/{id}")).await["name"], "ci");
        let archive = "/v1/organization/projects/default/archive";
        assert_eq!(with_token(&house, secret, Method::POST, archive).await, StatusCode::CONFLICT);
        let gone = delete(&house, &format!("admin_api_keys/{id}")).await;
        assert_eq!(
            gone,
            json!({ "object": "organization.admin_api_key.deleted", "id": id, "deleted": true })
        );
        let now = with_token(&house, secret, Method::GET, "/guard/v1/keys").await;
        assert_eq!(now, StatusCode::UNAUTHORIZED);
        assert_eq!(refused(&house, Method::DELETE, &format!("admin_api_keys/{id}"), None).await.0, 404);
        let client = house.key.clone();
        let no = with_token(&house, &client, Method::GET, "/v1/organization/projects").await;
        assert_eq!(no, StatusCode::UNAUTHORIZED, "a client's key is no admin key");
        for body in [
            json!({ "name": "" }),
            json!({ "name": "x", "role": "king" }),
            json!({ "name": "x", "expires_in_seconds": 0 }),
        ] {
            assert_eq!(refused(&house, Method::POST, "admin_api_keys", Some(body)).await.0, 400);
        }
    });
}

#[test]
fn a_read_only_admin_key_looks_and_changes_nothing() {
    run(async {
        let house = House::with("").await;
        let made = post(&house, "admin_api_keys", json!({ "name": "auditor", "role": "read_only" })).await;
        let secret = made["value"].as_str().unwrap().to_owned();
        for path in ["/v1/organization/audit_logs", "/guard/v1/limits", "/guard/v1/ledger"] {
            assert_eq!(with_token(&house, &secret, Method::GET, path).await, StatusCode::OK, "{path}");
        }
        let before = get(&house, "audit_logs").await;
        for (method, path) in [
            (Method::POST, "/v1/organization/spend_limit"),
            (Method::POST, "/v1/organization/admin_api_keys"),
            (Method::DELETE, "/v1/organization/spend_limit"),
            (Method::POST, "/guard/v1/keys"),
            (Method::PUT, "/guard/v1/limits/x"),
            (Method::PATCH, "/guard/v1/keys/x"),
            (Method::POST, "/v1/organization/nothing"),
        ] {
            let status = with_token(&house, &secret, method.clone(), path).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path}");
        }
        assert_eq!(get(&house, "audit_logs").await, before);
    });
}

#[test]
fn an_admin_key_ends_with_its_time() {
    run(async {
        let house = House::with("").await;
        let made = post(&house, "admin_api_keys", json!({ "name": "brief", "expires_in_seconds": 2 })).await;
        let secret = made["value"].as_str().unwrap();
        assert_eq!(with_token(&house, secret, Method::GET, "/guard/v1/keys").await, StatusCode::OK);
        tokio::time::sleep(Duration::from_millis(2_100)).await;
        let late = with_token(&house, secret, Method::GET, "/guard/v1/keys").await;
        assert_eq!(late, StatusCode::UNAUTHORIZED);
        assert_eq!(get(&house, "admin_api_keys").await["data"][0]["expires_at"], made["expires_at"]);
    });
}

/// Two chats and an embedding, by two projects: the id of the second one, and
/// that of its key.
async fn spend(house: &House) -> (String, String) {
    let other = make_project(house, "Other").await;
    let account = post(house, &format!("projects/{other}/service_accounts"), json!({ "name": "b" })).await;
    let key = account["api_key"]["value"].as_str().unwrap();
    house.chat(&[], json!({})).await;
    chat_with(house, key, "gpt-4o").await;
    let input = json!({ "model": "text-embedding-3-small", "input": "hello" });
    house.post("/v1/embeddings", &[], &input).await;
    house.settled().await;
    (other, account["api_key"]["id"].as_str().unwrap().to_owned())
}

#[test]
fn usage_is_that_of_the_ledger_in_buckets_of_every_width() {
    run(async {
        let house = House::with("").await;
        spend(&house).await;
        let entries = house.entries().await;
        let sum = |of: &dyn Fn(&Value) -> bool, field: &str| -> u64 {
            entries.iter().filter(|e| of(e)).map(|e| e["usage"][field].as_u64().unwrap()).sum()
        };
        let is_chat = |e: &Value| e["endpoint"] == "/v1/chat/completions";
        for width in ["1m", "1h", "1d"] {
            let page = get(&house, &format!("usage/completions?start_time=0&bucket_width={width}")).await;
            assert!(page["has_more"] == true && page["data"][0]["results"] == json!([]), "{page}");
            let now = house.guard.clock().now_s();
            let query = format!("usage/completions?start_time={}&bucket_width={width}", now - 30);
            let page = get(&house, &query).await;
            let results: Vec<&Value> = page["data"]
                .as_array()
                .unwrap()
                .iter()
                .flat_map(|b| b["results"].as_array().unwrap())
                .collect();
            let total = |field: &str| -> u64 { results.iter().map(|r| r[field].as_u64().unwrap()).sum() };
            assert_eq!(total("num_model_requests"), 2, "{width} {page}");
            assert_eq!(total("input_tokens"), sum(&is_chat, "input_tokens"), "{width}");
            assert_eq!(total("output_tokens"), sum(&is_chat, "output_tokens"), "{width}");
            let parts =
                ["input_uncached_tokens", "input_cached_tokens", "input_cache_write_tokens"].map(total);
            assert_eq!(parts.iter().sum::<u64>(), total("input_tokens"), "{width}");
        }
    });
}

#[test]
fn costs_are_those_of_the_ledger_and_both_can_be_grouped_and_narrowed() {
    run(async {
        let house = House::with("").await;
        let (other, key) = spend(&house).await;
        let entries = house.entries().await;
        let day = house.guard.clock().now_s() / 86_400 * 86_400;
        let costs = get(&house, &format!("costs?start_time={day}")).await;
        let cost: Vec<&Value> = entries.iter().map(|e| &e["cost_usd"]).collect();
        let nano = |text: &str| text.parse::<spendguard::domain::Money>().unwrap().nano();
        let whole: i64 = cost.iter().map(|cost| nano(cost.as_str().unwrap())).sum();
        let amount = &costs["data"][0]["results"][0]["amount"];
        assert_eq!((nano(&amount["value"].to_string()), &amount["currency"]), (whole, &json!("usd")));
        let by =
            get(&house, &format!("costs?start_time={day}&group_by[]=project_id&group_by[]=line_item")).await;
        assert_eq!(by["data"][0]["results"].as_array().unwrap().len(), 3, "{by}");
        let one =
            get(&house, &format!("costs?start_time={day}&line_items[]=gpt-4o&group_by=line_item")).await;
        assert_eq!(one["data"][0]["results"][0]["line_item"], "gpt-4o");
        let of = |query: &str| format!("usage/completions?start_time={day}&{query}");
        let grouped = get(&house, &of("group_by=project_id&group_by=model&group_by=batch")).await;
        let results = grouped["data"][0]["results"].as_array().unwrap();
        let mine = results.iter().find(|r| r["project_id"] == json!(other)).unwrap();
        assert_eq!((&mine["batch"], &mine["api_key_id"]), (&json!(false), &Value::Null));
        for (query, requests) in [
            (format!("project_ids[]={other}"), json!(1)),
            (format!("project_ids[]={other}&project_ids[]=default"), json!(2)),
            ("models=gpt-4o".to_owned(), json!(1)),
            (format!("api_key_ids={key}"), json!(1)),
            ("models=nothing".to_owned(), Value::Null),
            ("batch=true".to_owned(), Value::Null),
            ("batch=false".to_owned(), json!(2)),
        ] {
            let page = get(&house, &of(&query)).await;
            assert_eq!(page["data"][0]["results"][0]["num_model_requests"], requests, "{query}");
        }
        let embeddings = get(&house, &format!("usage/embeddings?start_time={day}")).await;
        let result = &embeddings["data"][0]["results"][0];
        assert_eq!((&result["num_model_requests"], result.get("output_tokens")), (&json!(1), None));
        let images = get(&house, &format!("usage/images?start_time={day}&sizes[]=1024x1024")).await;
        assert_eq!(images["data"][0]["results"], json!([]));
    });
}

#[test]
fn usage_is_paged_by_buckets_and_bad_questions_are_refused() {
    run(async {
        let house = House::with("").await;
        let day = 1_700_000_000 / 86_400 * 86_400;
        let query = format!("costs?start_time={}&end_time={}&limit=2", day + 5, day + 3 * 86_400 + 1);
        let (mut starts, mut page) = (Vec::new(), get(&house, &query).await);
        loop {
            let buckets = page["data"].as_array().unwrap();
            assert!(!buckets.is_empty(), "no page is in vain");
            starts.extend(buckets.iter().map(|bucket| bucket["start_time"].as_i64().unwrap()));
            let Some(next) = page["next_page"].as_str() else { break };
            assert_eq!(page["has_more"], true);
            page = get(&house, &format!("{query}&page={next}")).await;
        }
        assert_eq!(starts, (0..4).map(|n| day + n * 86_400).collect::<Vec<_>>());
        assert_eq!(page["has_more"], false);
        for (query, status) in [
            ("costs", 400),
            ("costs?start_time=soon", 400),
            ("costs?start_time=-1", 400),
            ("costs?start_time=0&bucket_width=1h", 400),
            ("costs?start_time=0&limit=181", 400),
            ("costs?start_time=0&limit=0", 400),
            ("costs?start_time=0&page=page_7", 400),
            ("costs?start_time=0&page=page_999999999999999999", 400),
            ("costs?start_time=0&group_by=user_id", 400),
            ("costs?start_time=0&models=x", 400),
            ("usage/completions?start_time=0&group_by=service_tier", 400),
            ("usage/completions?start_time=0&user_ids=x", 400),
            ("usage/completions?start_time=0&bucket_width=1d&limit=32", 400),
            ("usage/completions?start_time=0&surplus=1", 400),
            ("usage/nothing?start_time=0", 404),
        ] {
            assert_eq!(refused(&house, Method::GET, query, None).await.0, status, "{query}");
        }
        let many = "&project_ids=x".repeat(101);
        assert_eq!(refused(&house, Method::GET, &format!("costs?start_time=0{many}"), None).await.0, 400);
    });
}

/// A change of every kind: the admin key that made some, the key that some are
/// of, and the project that others are about.
async fn change_everything(house: &House) -> (Value, Value, String) {
    let made = post(house, "admin_api_keys", json!({ "name": "ops" })).await;
    let bearer = format!("Bearer {}", made["value"].as_str().unwrap());
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let body = |value: Value| Bytes::from(value.to_string());
    let path = "/v1/organization/spend_limit";
    call(&house.admin, Method::POST, path, &headers, body(cents(500))).await;
    call(&house.admin, Method::POST, path, &headers, body(cents(700))).await;
    let key = house.make_key(json!({ "name": "k" })).await;
    let id = key["id"].as_str().unwrap();
    house.admin(Method::PATCH, &format!("/guard/v1/keys/{id}"), Some(json!({ "name": "kk" }))).await;
    house.admin(Method::POST, &format!("/guard/v1/keys/{id}/rotate"), None).await;
    house.admin(Method::DELETE, &format!("/guard/v1/keys/{id}"), None).await;
    house.admin(Method::DELETE, &format!("/guard/v1/keys/{id}"), None).await;
    house.chat(&[], json!({})).await;
    let entry = house.entries().await[0]["id"].as_str().unwrap().to_owned();
    let adjustment = json!({ "amount_usd": "0.01", "note": "why" });
    house.admin(Method::POST, &format!("/guard/v1/ledger/{entry}/adjust"), Some(adjustment)).await;
    let project = make_project(house, "P").await;
    let rates = format!("projects/{project}/rate_limits/rl-gpt-4o");
    post(house, &rates, json!({ "max_requests_per_1_minute": 5 })).await;
    let models = json!({ "mode": "deny_list", "model_ids": ["x"] });
    post(house, &format!("projects/{project}/model_permissions"), models).await;
    let alert_id = post(house, &format!("projects/{project}/spend_alerts"), alert(5)).await["id"].clone();
    delete(house, &format!("projects/{project}/spend_alerts/{}", alert_id.as_str().unwrap())).await;
    post(house, &format!("projects/{project}/service_accounts"), json!({ "name": "b" })).await;
    post(house, &format!("projects/{project}/archive"), json!({})).await;
    house.admin(Method::POST, "/guard/v1/keys", Some(json!({ "name": "", "secret": "x" }))).await;
    (made, key, project)
}

#[test]
fn every_change_is_in_the_audit_log_with_who_and_what() {
    run(async {
        let house = House::with("").await;
        let (made, key, project) = change_everything(&house).await;
        let (ops, secret) = (made["id"].as_str().unwrap(), made["value"].as_str().unwrap());
        let id = key["id"].as_str().unwrap();
        let logs = get(&house, "audit_logs?limit=100").await;
        let events: Vec<&str> =
            logs["data"].as_array().unwrap().iter().rev().map(|log| log["type"].as_str().unwrap()).collect();
        assert_eq!(
            events,
            [
                "api_key.created", // the house's own
                "tenant.admin_api_key.created",
                "limit.created",
                "limit.updated",
                "api_key.created",
                "api_key.updated",
                "api_key.updated",
                "api_key.deleted",
                "ledger.adjusted",
                "project.created",
                "rate_limit.updated",
                "model_permissions.updated",
                "spend_alert.created",
                "spend_alert.deleted",
                "service_account.created",
                "api_key.created",
                "project.archived",
            ]
        );
        for secret in [secret, key["value"].as_str().unwrap(), ADMIN_TOKEN] {
            assert!(!logs.to_string().contains(secret));
        }
        let of_ops = get(&house, &format!("audit_logs?actor_ids[]={ops}")).await;
        let newest = &of_ops["data"][0];
        assert_eq!(of_ops["data"].as_array().unwrap().len(), 2);
        assert_eq!(newest["actor"]["api_key"], json!({ "id": ops, "name": "ops" }));
        assert_eq!((&newest["before"]["hard"], &newest["after"]["hard"]), (&json!("5"), &json!("7")));
        assert_eq!(
            newest["limit.updated"],
            json!({ "id": "organization-spend-limit", "changes_requested": { "hard": "7" } })
        );
        assert_eq!(logs["data"][0]["actor"]["api_key"]["id"], "configured");
        let of_key = get(&house, &format!("audit_logs?resource_ids[]={id}")).await;
        assert_eq!(of_key["data"].as_array().unwrap().len(), 4);
        assert_eq!(of_key["data"][2]["api_key.updated"]["changes_requested"], json!({ "name": "kk" }));
        let renamed = get(&house, &format!("audit_logs?project_ids[]={project}")).await;
        assert_eq!(renamed["data"].as_array().unwrap().len(), 8);
        assert_eq!(renamed["data"][0]["project"], json!({ "id": project, "name": "P" }));
    });
}

#[test]
fn audit_logs_are_paged_newest_first_and_filtered_by_time_and_kind() {
    run(async {
        let house = House::with("").await;
        for name in ["a", "b", "c", "d"] {
            make_project(&house, name).await;
        }
        let all = ids(&get(&house, "audit_logs").await);
        assert_eq!(all.len(), 5);
        let page = get(&house, "audit_logs?limit=2").await;
        assert_eq!((ids(&page), &page["has_more"]), (all[..2].to_vec(), &json!(true)));
        let next = get(&house, &format!("audit_logs?limit=3&after={}", all[1])).await;
        assert_eq!((ids(&next), &next["has_more"]), (all[2..].to_vec(), &json!(false)));
        let back = get(&house, &format!("audit_logs?limit=2&before={}", all[4])).await;
        assert_eq!((ids(&back), &back["has_more"]), (all[2..4].to_vec(), &json!(true)));
        let kind =
            get(&house, "audit_logs?event_types[]=project.created&event_types[]=project.archived").await;
        assert_eq!(ids(&kind), all[..4]);
        let now = house.guard.clock().now_s();
        for (query, count) in [
            (format!("effective_at[gt]={now}"), 0),
            (format!("effective_at[lte]={now}"), 5),
            (format!("effective_at[lt]={}", now - 60), 0),
            (format!("effective_at[gte]={}", now - 60), 5),
        ] {
            assert_eq!(ids(&get(&house, &format!("audit_logs?{query}")).await).len(), count, "{query}");
        }
        for query in [
            "limit=101",
            "after=x",
            "effective_at[gt]=x",
            "surplus=1",
            "actor_emails[]=a@b",
            "tenant_only=true",
            "after=audit_log-1&before=audit_log-2",
        ] {
            assert_eq!(
                refused(&house, Method::GET, &format!("audit_logs?{query}"), None).await.0,
                400,
                "{query}"
            );
        }
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
        let config = recovery::Config { open_requests_max: 1, zone: "UTC".into() };
        let (guard, _clerk) = Guard::open(store, &config, Arc::default(), Arc::default()).unwrap();
        let key = spendguard::keys::KeyHash::of(admin["value"].as_str().unwrap().as_bytes());
        assert_eq!(guard.admin_key_of(&key).unwrap().role.name(), "read_only");
        let known = guard.spend_alerts(None).await.remove(0);
        assert_eq!((json!(known.id), known.threshold.nano()), (alert["id"].clone(), 1_230_000_000));
        assert_eq!(known.channel.recipients, ["finance@example.com"]);
        assert_eq!(json!(guard.accounts("default")[0].keys), json!([account["api_key"]["id"]]));
        assert!(!guard.ring().allows("default", "gpt-4o", None));
    });
}
