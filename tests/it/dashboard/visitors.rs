//! Who may do what: admin keys, those that only look, and first steps.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::dashboard::browser::{Browser, field, seen, text};
use crate::dashboard::{HOSTILE, PAGES};
use crate::harness::{House, run};

async fn admin_key(house: &House, role: &str) -> Value {
    let body = json!({ "name": "auditor", "role": role });
    let answer = house.admin(Method::POST, "/v1/organization/admin_api_keys", Some(body)).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()
}

async fn signed_in_with<'a>(house: &'a House, key: &Value) -> Browser<'a> {
    let mut browser = Browser::new(house);
    let answer = browser.sign_in(key["value"].as_str().unwrap()).await;
    assert_eq!((answer.status, answer.header("location")), (StatusCode::SEE_OTHER, "/"), "{answer:?}");
    browser
}

#[test]
fn a_read_only_admin_key_sees_every_page_and_changes_nothing() {
    run(async {
        let house = House::with("").await;
        let project = json!({ "name": "P", "id": "p" });
        house.admin(Method::POST, "/guard/v1/projects", Some(project)).await;
        let rule = json!({ "window": "month", "hard": "5" });
        house.admin(Method::PUT, "/guard/v1/limits/m", Some(rule)).await;
        let key = house.guard.ring().keys()[0].id.to_string();
        let mut browser = signed_in_with(&house, &admin_key(&house, "read_only").await).await;
        for path in PAGES {
            let page = browser.page(path).await;
            for change in [
                "/revoke?",
                "/archive?",
                "/rename?",
                "/edit?",
                "/remove?",
                "/stop?",
                "action=\"/first-steps\"",
            ] {
                assert!(!page.contains(change), "{path} offers {change}");
            }
        }
        let csrf = field(&browser.page("/keys").await, "csrf");
        for (path, fields) in [
            ("/keys", "name=x&project=default".to_owned()),
            ("/keys/revoke", format!("id={key}")),
            ("/projects", "name=x".to_owned()),
            ("/projects", "id=p&name=x".to_owned()),
            ("/projects/archive", "id=p".to_owned()),
            ("/limits", "is=new&name=n&per=organization&unit=usd&window=month&hard=0".to_owned()),
            ("/limits/remove", "name=m".to_owned()),
            ("/limits/stop", "subject=organization".to_owned()),
            ("/limits/allow", "subject=organization".to_owned()),
            ("/limits/reset", "id=1".to_owned()),
            ("/settings/organization", "name=x".to_owned()),
            ("/settings/test", "channel=email".to_owned()),
            ("/first-steps", "step=all".to_owned()),
        ] {
            let answer = browser.send(Method::POST, path, &format!("csrf={csrf}&{fields}")).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}");
            assert!(text(&answer).contains("read-only"), "{path}");
        }
        let guard = &house.guard;
        assert_eq!(
            (guard.ring().keys().len(), guard.ring().projects().len(), house.books.limits().len()),
            (1, 2, 1)
        );
        assert!(
            guard.ring().keys()[0].revoked_s.is_none()
                && guard.ring().project("p").unwrap().archived_s.is_none()
        );
        assert_eq!(
            (&*house.directory.organization(), house.directory.first_steps_aside().len()),
            ("My organization", 0)
        );
        let out = browser.submit("/", "/logout", &[]).await;
        assert_eq!(out.header("location"), "/login", "but it may sign out");
    });
}

#[test]
fn an_admin_key_changes_things_in_its_own_name_until_it_is_gone() {
    run(async {
        let house = House::with("").await;
        let key = admin_key(&house, "full").await;
        let mut browser = signed_in_with(&house, &key).await;
        let made = browser.submit("/projects/new", "/projects", &[("name", "Rockets")]).await;
        assert_eq!(made.header("location"), "/projects", "{made:?}");
        let trail = browser.page("/activity/audit").await;
        assert!(trail.contains("title=\"project.created\"") && trail.contains(">auditor<"), "{trail}");
        let path = format!("/v1/organization/admin_api_keys/{}", key["id"].as_str().unwrap());
        house.admin(Method::DELETE, &path, None).await;
        let answer = browser.get("/projects").await;
        assert_eq!(
            (answer.status, answer.header("location")),
            (StatusCode::SEE_OTHER, "/login?next=/projects")
        );
        let again = browser.sign_in(key["value"].as_str().unwrap()).await;
        assert_eq!(again.status, StatusCode::UNAUTHORIZED);
    });
}

#[test]
fn first_steps_are_ticked_as_they_are_taken_and_go_when_all_are_done_or_skipped() {
    run(async {
        let house = House::with("").await;
        let mut browser = Browser::signed_in(&house).await;
        let ticked = |page: &str| seen(page).iter().filter(|text| *text == "Done").count();
        let page = browser.page("/").await;
        assert!(page.contains("Set up your guard") && page.contains("OPENAI_BASE_URL=http://127.0.0.1:"));
        assert_eq!(ticked(&page), 1, "the test has made a key");
        browser.submit("/settings", "/settings/organization", &[("name", "Acme")]).await;
        house.chat(&[], json!({})).await;
        assert_eq!(ticked(&browser.page("/").await), 3);
        let csrf = field(&browser.page("/").await, "csrf");
        let unknown = browser.send(Method::POST, "/first-steps", &format!("csrf={csrf}&step=x")).await;
        assert_eq!(unknown.status, StatusCode::NOT_FOUND);
        browser.submit("/", "/first-steps", &[("step", "limits")]).await;
        assert!(browser.page("/").await.contains("Set up your guard"), "credit is still to be added");
        browser.submit("/", "/first-steps", &[("step", "credit")]).await;
        assert!(!browser.page("/").await.contains("Set up your guard"));
        assert!(browser.page("/activity/audit").await.contains("first_steps_aside"), "it is a change, too");

        let house = House::with("").await;
        let mut browser = Browser::signed_in(&house).await;
        browser.submit("/", "/first-steps", &[("step", "all")]).await;
        assert!(!browser.page("/").await.contains("Set up your guard"), "hidden at once");
    });
}

#[test]
fn forms_of_settings_and_projects_need_their_token_too() {
    run(async {
        let house = House::with("").await;
        let mut browser = Browser::signed_in(&house).await;
        let mut other = Browser::signed_in(&house).await;
        let foreign = field(&other.page("/settings").await, "csrf");
        for csrf in ["", "csrf=&", &format!("csrf={foreign}&")] {
            for (path, fields) in [
                ("/projects", "name=x"),
                ("/projects/archive", "id=default"),
                ("/settings/organization", "name=x"),
                ("/settings/test", "channel=webhook-1"),
                ("/first-steps", "step=all"),
            ] {
                let answer = browser.send(Method::POST, path, &format!("{csrf}{fields}")).await;
                assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path} {csrf}");
            }
        }
        assert_eq!(
            (house.guard.ring().projects().len(), &*house.directory.organization()),
            (1, "My organization")
        );
        assert!(house.directory.first_steps_aside().is_empty());
    });
}

#[test]
fn hostile_names_of_organization_projects_and_operators_are_shown_and_not_run() {
    run(async {
        let house = House::with("").await;
        let body = json!({ "name": HOSTILE, "role": "full" });
        let key = house.admin(Method::POST, "/v1/organization/admin_api_keys", Some(body)).await.json();
        let mut browser = signed_in_with(&house, &key).await;
        let long = "z".repeat(10_000);
        for name in ["", " ", &long, "line\nbreak"] {
            for (from, to) in [("/settings", "/settings/organization"), ("/projects/new", "/projects")] {
                let answer = browser.submit(from, to, &[("name", name)]).await;
                assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{to} {name}");
                assert!(text(&answer).contains("Enter a name of 1 to 256 characters"), "{to}");
            }
        }
        browser.submit("/settings", "/settings/organization", &[("name", HOSTILE)]).await;
        browser.submit("/projects/new", "/projects", &[("name", HOSTILE)]).await;
        assert_eq!(&*house.directory.organization(), HOSTILE);
        let mut shown = 0;
        for path in PAGES {
            let page = browser.page(path).await;
            assert!(!page.contains("<script>") && !page.contains(&long), "{path}");
            shown += page.matches("&lt;script&gt;alert(").count();
        }
        assert!(shown >= PAGES.len() + 3, "on every page, and in lists: {shown}");
    });
}
