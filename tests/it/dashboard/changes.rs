//! What operators change here: the organization, projects; and what they see of it.

use std::sync::Arc;

use http::{Method, StatusCode};
use serde_json::json;
use spendguard::domain::limit::Source;

use crate::alerts::{self, Receiver};
use crate::dashboard::browser::{Browser, seen, text};
use crate::harness::{House, run};

#[test]
fn the_organization_is_named_here_unless_the_file_names_it() {
    run(async {
        let receiver = Receiver::default();
        let (house, _secret) = alerts::house(&[&receiver], "").await;
        let mut browser = Browser::signed_in(&house).await;
        let saved = browser.submit("/settings", "/settings/organization", &[("name", " Acme ")]).await;
        assert_eq!(saved.header("location"), "/settings?saved=name", "{saved:?}");
        assert!(seen(&browser.page("/usage").await).contains(&"Acme".to_owned()), "on every page");
        assert_eq!(house.directory.organization_named_by(), Some(Source::Api));
        let tested = text(&browser.submit("/settings", "/settings/test", &[("channel", "webhook-1")]).await);
        assert!(tested.contains("The channel accepted the test"), "{tested}");
        let sent = receiver.after(1).await;
        assert_eq!(
            (sent.len(), &sent[0].1["data"]["organization"]),
            (1, &json!("Acme")),
            "messages have it too"
        );
        let trail = browser.page("/activity/audit").await;
        assert!(trail.contains("title=\"organization.updated\""), "{trail}");
        let folder = house.close().await;
        let database = rusqlite::Connection::open(folder.path().join("data/spendguard.db")).unwrap();
        let sql = "SELECT value FROM setting WHERE name = 'organization.name'";
        let kept: String = database.query_row(sql, [], |row| row.get(0)).unwrap();
        assert_eq!(kept, "Acme", "it is kept");

        let house = House::with("[organization]\nname = \"Of the file\"\n").await;
        let mut browser = Browser::signed_in(&house).await;
        let page = browser.page("/settings").await;
        assert!(
            page.contains("From configuration file") && !page.contains("action=\"/settings/organization\"")
        );
        let refused = browser.submit("/settings", "/settings/organization", &[("name", "Acme")]).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(&*house.directory.organization(), "Of the file");
    });
}

#[test]
fn each_channel_shows_how_it_does_and_says_what_came_of_a_test() {
    run(async {
        let (good, bad) =
            (Receiver::default(), Receiver { refuses: Arc::new(true.into()), ..Receiver::default() });
        let limit = "[[limit]]\nname = \"m\"\nwindow = \"month\"\nsoft = [0.000001]\n";
        let (house, _secret) = alerts::house(&[&good, &bad], limit).await;
        let mut browser = Browser::signed_in(&house).await;
        let shown = |page: &str, wanted: &str| seen(page).iter().filter(|text| *text == wanted).count();
        let page = browser.page("/settings").await;
        assert_eq!((shown(&page, "Nothing sent yet"), shown(&page, "Send a test")), (2, 2));
        house.chat(&[], json!({})).await;
        good.after(1).await;
        bad.after(1).await;
        let page = browser.page("/settings").await;
        assert_eq!((shown(&page, "Delivered"), shown(&page, "Last attempt failed")), (1, 1), "{page}");
        assert!(page.contains("it answered 500") && page.contains("1 waiting"), "{page}");
        let tested = text(&browser.submit("/settings", "/settings/test", &[("channel", "webhook-2")]).await);
        assert!(tested.contains("The test could not be sent:"), "{tested}");
        assert_eq!(good.after(1).await.len(), 1, "only the one that was asked");
        let none = browser.submit("/settings", "/settings/test", &[("channel", "webhook-3")]).await;
        assert_eq!(none.status, StatusCode::NOT_FOUND);
    });
}

#[test]
fn a_project_is_made_given_keys_renamed_and_archived() {
    run(async {
        let house = House::with("[[project]]\nid = \"of-file\"\nname = \"Of the file\"\n").await;
        let mut browser = Browser::signed_in(&house).await;
        browser.submit("/projects/new", "/projects", &[("name", "Rockets")]).await;
        let projects = house.guard.ring().projects();
        let id = projects.iter().find(|project| &*project.name == "Rockets").unwrap().id.to_string();
        let form = browser.page(&format!("/keys/new?project={id}")).await;
        assert!(form.contains(&format!("<option value=\"{id}\" selected>")), "{form}");
        let made = browser.submit("/keys/new", "/keys", &[("name", "engine"), ("project", &id)]).await;
        let page = browser.page(made.header("location")).await;
        let secret = page.split("value=\"sk-guard-").nth(1).unwrap().split('"').next().unwrap();
        let bearer = format!("Bearer sk-guard-{secret}");
        let headers = [("authorization", bearer.as_str())];
        let chat = || {
            let body = crate::harness::chat(json!({})).to_string();
            crate::harness::call(&house.proxy, Method::POST, "/v1/chat/completions", &headers, body.into())
        };
        let cost = chat().await.header("x-spendguard-cost-usd").to_owned();
        assert!(!cost.is_empty());
        house.settled().await;
        let row = |page: &str| {
            let at = page.find(&format!(">{id}<")).unwrap();
            page[page[..at].rfind("<tr>").unwrap()..].split("</tr>").next().unwrap().to_owned()
        };
        let list = row(&browser.page("/projects").await);
        let cells = seen(&list);
        assert!(cells.contains(&"1".to_owned()) && list.contains(&format!("${cost}")), "{cost} {list}");
        let from = format!("/projects/rename?id={id}");
        browser.submit(&from, "/projects", &[("id", &id), ("name", "Boats")]).await;
        assert_eq!(&*house.guard.ring().project_name(&id), "Boats");
        let asked = browser.page(&format!("/projects/archive?id={id}")).await;
        assert!(asked.contains("Boats") && asked.contains("1 key"), "{asked}");
        browser.submit("/projects", "/projects/archive", &[("id", &id)]).await;
        assert!(seen(&row(&browser.page("/projects").await)).contains(&"Archived".to_owned()));
        assert_eq!(chat().await.status, StatusCode::UNAUTHORIZED, "its keys are refused");
        assert!(!browser.page("/keys/new").await.contains(&id), "and no more are made in it");
        for path in [format!("/projects/rename?id={id}"), "/projects/rename?id=of-file".to_owned()] {
            assert_eq!(browser.get(&path).await.status, StatusCode::NOT_FOUND, "{path}");
        }
        let of_file = browser.submit("/projects", "/projects", &[("id", "of-file"), ("name", "Mine")]).await;
        assert_eq!(of_file.status, StatusCode::NOT_FOUND);
        assert_eq!(&*house.guard.ring().project_name("of-file"), "Of the file");
    });
}

#[test]
fn the_audit_trail_says_who_changed_what_from_what_to_what_page_by_page() {
    run(async {
        let house = House::with("").await;
        let rule = |hard: u32| Some(json!({ "window": "month", "hard": hard.to_string(), "soft": [] }));
        for hard in 1..=40 {
            house.admin(Method::PUT, "/guard/v1/limits/m", rule(hard)).await;
        }
        let mut browser = Browser::signed_in(&house).await;
        let page = browser.page("/activity/audit").await;
        assert_eq!(page.matches("<tr title=\"limit.updated\"").count(), 30);
        let cells = seen(&page);
        let change = cells.windows(4).find(|cells| cells[0] == "hard").unwrap();
        assert_eq!(change, ["hard", "39", "→", "40"], "the newest first");
        assert!(cells.contains(&"Admin token".to_owned()));
        let older = page.split("rel=\"next\" href=\"").nth(1).unwrap().split('"').next().unwrap();
        let older = browser.page(older).await;
        assert_eq!(older.matches("<tr title=\"limit.updated\"").count(), 9);
        assert_eq!(older.matches("<tr title=\"limit.created\"").count(), 1);
        for query in ["before=x", "before=-1", "before=99999999999999999999"] {
            browser.page(&format!("/activity/audit?{query}")).await;
        }
    });
}

#[test]
fn activity_shows_who_was_refused_last_and_by_what() {
    run(async {
        let house = House::with("[[limit]]\nname = \"none\"\nwindow = \"month\"\nhard = 0\n").await;
        let mut browser = Browser::signed_in(&house).await;
        assert!(!browser.page("/activity").await.contains("id=\"refusal-"));
        for _ in 0..60 {
            assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::TOO_MANY_REQUESTS);
        }
        let page = browser.page("/activity").await;
        assert!(page.contains("id=\"refusal-60\"") && !page.contains("id=\"refusal-50\""), "the latest few");
        let cells = seen(&page);
        let named = |text: &str| cells.iter().filter(|cell| *cell == text).count();
        assert_eq!((named("test"), named("spend_limit_exceeded")), (5, 6), "{cells:?}");
        assert_eq!(house.guard.rejections().len(), 50, "no more are remembered");
    });
}
