//! Spend limits and spend alerts.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{House, run};
use crate::organization::{alert, cents, chat_with, delete, get, ids, make_project, post, refused};

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
