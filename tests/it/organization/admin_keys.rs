//! Admin keys: shown once, of a role, for a time.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::json;

use crate::harness::{House, run};
use crate::organization::{delete, get, ids, post, refused, with_token};

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
        let asked = with_token(&house, &secret, Method::POST, "/guard/v1/limits/try").await;
        assert_ne!(asked, StatusCode::FORBIDDEN, "to try a limit changes nothing");
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
