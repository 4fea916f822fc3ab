//! Who changed what.

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use crate::harness::{ADMIN_TOKEN, House, call, run};
use crate::organization::{alert, cents, delete, get, ids, make_project, post, refused};

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
