//! The dashboard as a browser uses it: sessions, forms, languages, pages.

mod browser;
mod changes;
mod jobs;
mod sockets;
mod stops;
mod tried;
mod usage;
mod visitors;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::json;

use crate::dashboard::browser::{Browser, field, seen, text};
use crate::harness::{ADMIN_TOKEN, House, call, run};

const PAGES: [&str; 14] = [
    "/",
    "/keys",
    "/keys/new",
    "/projects",
    "/projects/new",
    "/usage",
    "/limits",
    "/limits/new",
    "/billing",
    "/billing/add",
    "/activity",
    "/activity/sockets",
    "/activity/audit",
    "/settings",
];
const HOSTILE: &str = "<script>alert('x')</script> \"&\u{202e}gnp.exe \u{1f916} مرحبا";

#[test]
fn without_a_session_every_page_leads_to_the_log_in() {
    run(async {
        let house = House::with("").await;
        let mut browser = Browser::new(&house);
        for path in PAGES {
            let answer = browser.get(path).await;
            assert_eq!(answer.status, StatusCode::SEE_OTHER, "{path}");
            assert!(answer.header("location").starts_with("/login"), "{path} {answer:?}");
            assert!(answer.body.is_empty(), "{path}");
        }
        let made = browser.send(Method::POST, "/keys", "name=x&project=default").await;
        assert_eq!((made.status, made.header("location")), (StatusCode::SEE_OTHER, "/login?next=/keys"));
        assert_eq!(house.guard.ring().keys().len(), 1, "only the test's own key");
        browser.cookies.push(("spendguard_session".to_owned(), "x".repeat(20)));
        assert_eq!(browser.get("/").await.status, StatusCode::SEE_OTHER, "a made-up session is none");
    });
}

#[test]
fn a_session_begins_with_the_token_and_ends_with_signing_out() {
    run(async {
        let house = House::with("").await;
        let mut browser = Browser::new(&house);
        let path = "/login?next=//evil.example/";
        assert_eq!(field(&browser.page(path).await, "next"), "/", "the sign-in leads to no other site");
        let wrong = browser.sign_in("wrong").await;
        assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
        assert!(text(&wrong).contains("Incorrect token. Enter the admin token or an admin key."));
        assert!(!browser.cookies.iter().any(|(name, _)| name == "spendguard_session"));
        assert_eq!(browser.sign_in(ADMIN_TOKEN).await.status, StatusCode::SEE_OTHER);
        browser.page("/").await;
        assert_eq!(browser.get("/login").await.header("location"), "/", "already in");
        let old = browser.cookies.clone();
        assert_eq!(browser.submit("/", "/logout", &[]).await.header("location"), "/login");
        browser.cookies = old;
        assert_eq!(browser.get("/").await.header("location"), "/login", "the cookie is worth nothing now");
    });
}

#[test]
fn wrong_tokens_are_throttled_and_those_inside_stay_inside() {
    run(async {
        let house = House::with("").await;
        let mut inside = Browser::signed_in(&house).await;
        let mut browser = Browser::new(&house);
        for _ in 0..10 {
            assert_eq!(browser.sign_in("guess").await.status, StatusCode::UNAUTHORIZED);
        }
        let barred = browser.sign_in(ADMIN_TOKEN).await;
        assert_eq!(
            barred.status,
            StatusCode::TOO_MANY_REQUESTS,
            "the right one too, else one could guess on"
        );
        assert!(text(&barred).contains("Too many failed attempts"), "{barred:?}");
        let wait: u64 = barred.header("retry-after").parse().unwrap();
        assert!((1..=60).contains(&wait));
        inside.page("/").await;
        assert_eq!(house.admin(Method::GET, "/guard/v1/keys", None).await.status, StatusCode::OK);
    });
}

#[test]
fn a_form_without_its_token_changes_nothing() {
    run(async {
        let house = House::with("").await;
        let mut browser = Browser::signed_in(&house).await;
        let mut other = Browser::signed_in(&house).await;
        let foreign = field(&other.page("/keys/new").await, "csrf");
        let key = house.guard.ring().keys()[0].id.to_string();
        for csrf in ["", "csrf=&", &format!("csrf={foreign}&")] {
            for (path, fields) in [
                ("/keys", "name=x&project=default".to_owned()),
                ("/keys/revoke", format!("id={key}")),
                ("/limits", "is=new&name=m&per=organization&unit=usd&window=month&hard=0".to_owned()),
                ("/limits/remove", "name=m".to_owned()),
                ("/logout", String::new()),
            ] {
                let answer = browser.send(Method::POST, path, &format!("{csrf}{fields}")).await;
                assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path} {csrf}");
            }
        }
        browser.page("/").await;
        assert_eq!((house.guard.ring().keys().len(), house.books.limits().len()), (1, 0));
        assert!(house.guard.ring().keys()[0].revoked_s.is_none());
        let untied = browser.send(Method::POST, "/login", &format!("token={ADMIN_TOKEN}&csrf=x")).await;
        assert_eq!(untied.status, StatusCode::FORBIDDEN);
    });
}

#[test]
fn every_page_is_whole_in_every_language_and_in_no_other() {
    run(async {
        let house = House::with("[[limit]]\nname = \"m\"\nwindow = \"month\"\nhard = 10\nsoft = [1]\n").await;
        house.chat(&[], json!({})).await;
        house.settled().await;
        let mut browser = Browser::signed_in(&house).await;
        // What the other languages must not say.
        let english = [
            "Overview",
            "API keys",
            "Usage",
            "Limits",
            "Activity",
            "Settings",
            "Sign out",
            "Skip to content",
        ];
        let georgian =
            |text: &str| text != "ქართული" && text.contains(|c: char| ('\u{10d0}'..='\u{10ff}').contains(&c));
        let japanese =
            |text: &str| text != "日本語" && text.contains(|c: char| ('\u{3040}'..='\u{9fff}').contains(&c));
        for (language, heading) in
            [("en", "Overview"), ("ka", "მიმოხილვა"), ("ja", "概要"), ("pl", "Przegląd")]
        {
            browser.language = language;
            assert!(seen(&browser.page("/").await).contains(&heading.to_owned()), "{language}");
            for path in PAGES {
                let page = browser.page(path).await;
                assert!(page.contains(&format!("<html lang=\"{language}\"")), "{language} {path}");
                let seen = seen(&page);
                let foreign = |text: &&String| {
                    (language != "en" && english.contains(&text.as_str()))
                        || (language != "ka" && georgian(text))
                        || (language != "ja" && japanese(text))
                };
                assert_eq!(seen.iter().find(foreign), None, "{language} {path}");
                assert!(!page.contains("{n}") && !page.contains("{what}"), "{language} {path}");
            }
        }
        let chosen = browser.get("/language/ja?next=/usage").await;
        assert_eq!(chosen.header("location"), "/usage");
        assert!(browser.page("/").await.contains("<html lang=\"ja\""), "a choice outdoes the browser's wish");
    });
}

#[test]
fn every_answer_keeps_strangers_scripts_out() {
    run(async {
        let house = House::with("").await;
        let mut browser = Browser::signed_in(&house).await;
        let assets = ["/assets/style.css", "/assets/script.js", "/assets/icon.svg"];
        for path in PAGES.into_iter().chain(assets).chain(["/login"]) {
            let answer = browser.get(path).await;
            let policy = answer.header("content-security-policy");
            assert!(policy.starts_with("default-src 'none'"), "{path}: {policy}");
            assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"), "{policy}");
            assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
            if answer.header("content-type").starts_with("text/html") {
                let page = text(&answer);
                assert_eq!(answer.header("cache-control"), "no-store", "{path}");
                for inline in [" style=", "<style", " onclick=", "javascript:", "=\"http", "=\"//"] {
                    assert!(!page.contains(inline), "{path} has {inline}");
                }
                assert_eq!(page.matches("<script").count(), 1, "{path}");
            }
        }
    });
}

#[test]
fn hostile_names_are_shown_as_they_are_and_break_nothing() {
    run(async {
        let house = House::with("").await;
        let long = "x".repeat(10_000);
        house.make_key(json!({ "name": HOSTILE })).await;
        let project = json!({ "name": HOSTILE, "id": "evil" });
        house.admin(Method::POST, "/guard/v1/projects", Some(project)).await;
        house.make_key(json!({ "name": "y".repeat(256), "project_id": "evil" })).await;
        for user in [HOSTILE, &long] {
            house.chat(&[], json!({ "user": user })).await;
        }
        let only = json!({ "key": ["test"], "tag": { HOSTILE: [HOSTILE, &long] } });
        for (name, only) in [("m", json!({ "key": ["test", HOSTILE] })), ("n", only)] {
            let rule = json!({ "per": "user", "window": "month", "hard": "1", "only": only });
            let made = house.admin(Method::PUT, &format!("/guard/v1/limits/{name}"), Some(rule)).await;
            assert_eq!(made.status, StatusCode::OK, "{made:?}");
        }
        house.settled().await;
        let mut browser = Browser::signed_in(&house).await;
        let paths = PAGES.into_iter().chain(["/usage?by=user", "/usage?by=key", "/limits/edit?name=n"]);
        let mut shown = 0;
        for path in paths {
            let page = browser.page(path).await;
            assert!(!page.contains("<script>"), "{path}");
            shown += page.matches("&lt;script&gt;alert(").count();
            assert!(
                path.starts_with("/limits/edit") || !page.contains(&long),
                "{path} cuts what is too long"
            );
        }
        assert!(shown >= 5, "the names were there to be escaped: {shown}");
        for query in [
            "/usage?by=%3Cscript%3E&since=x&until=%00",
            "/usage?key=%22%3E%3Cscript%3E",
            "/keys?q=%22%3E%3Cscript%3E",
            "/activity?key=%22%3E%3Cscript%3E&kind=x",
            "/activity?before=x",
            "/limits?from=99999999",
            "/keys?from=-1",
        ] {
            assert!(!browser.page(query).await.contains("<script>"), "{query}");
        }
        for missing in ["/keys/revoke?id=nobody", "/limits/edit?name=nothing", "/limits/remove?name=nothing"]
        {
            assert_eq!(browser.get(missing).await.status, StatusCode::NOT_FOUND, "{missing}");
        }
    });
}

#[test]
fn a_new_secret_is_shown_once_and_gone_after_a_reload() {
    run(async {
        let house = House::with("").await;
        let mut browser = Browser::signed_in(&house).await;
        let fields =
            [("name", "from the form"), ("project", "default"), ("days", "30"), ("models", "gpt-4o*")];
        let made = browser.submit("/keys/new", "/keys", &fields).await;
        let shown_at = made.header("location").to_owned();
        assert!(
            made.status == StatusCode::SEE_OTHER && shown_at.starts_with("/keys/created?id=key_"),
            "{made:?}"
        );
        let mut other = Browser::signed_in(&house).await;
        assert_eq!(other.get(&shown_at).await.header("location"), "/keys", "only to who made it");
        let page = browser.page(&shown_at).await;
        let secret = page.split("value=\"sk-guard-").nth(1).unwrap().split('"').next().unwrap();
        let secret = format!("sk-guard-{secret}");
        assert_eq!(browser.get(&shown_at).await.header("location"), "/keys", "gone after a reload");
        let list = browser.page("/keys").await;
        assert!(list.contains("from the form") && !list.contains(&secret));
        let bearer = format!("Bearer {secret}");
        let headers = [("authorization", bearer.as_str())];
        let models = || call(&house.proxy, Method::GET, "/v1/models", &headers, Bytes::new());
        assert_eq!(models().await.status, StatusCode::OK);
        let id = shown_at.split('=').nth(1).unwrap();
        let key = house.guard.ring().by_id(id).unwrap();
        assert_eq!(key.expires_s, Some(key.created_s + 30 * 86_400));
        assert!(key.allows("gpt-4o-mini") && !key.allows("o3"));
        let asked = browser.page(&format!("/keys/revoke?id={id}")).await;
        assert!(asked.contains("from the form"));
        browser.submit(&format!("/keys/revoke?id={id}"), "/keys/revoke", &[("id", id)]).await;
        assert_eq!(models().await.status, StatusCode::UNAUTHORIZED);
        let unnamed = browser.submit("/keys/new", "/keys", &[("name", " "), ("project", "default")]).await;
        assert_eq!(unnamed.status, StatusCode::UNPROCESSABLE_ENTITY);
    });
}

#[test]
fn a_limit_made_by_the_form_refuses_requests_until_it_is_removed() {
    run(async {
        let house = House::with("[[limit]]\nname = \"of-file\"\nwindow = \"day\"\nhard = 3\n").await;
        let mut browser = Browser::signed_in(&house).await;
        let limit = |hard, soft, is, name| {
            [
                ("is", is),
                ("name", name),
                ("per", "organization"),
                ("unit", "usd"),
                ("window", "month"),
                ("hard", hard),
                ("soft", soft),
            ]
        };
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK);
        let made = browser.submit("/limits/new", "/limits", &limit("0.000001", "50%", "new", "m")).await;
        assert_eq!(made.header("location"), "/limits", "{made:?}");
        let refused = house.chat(&[], json!({})).await;
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (StatusCode::TOO_MANY_REQUESTS, "organization_spend_limit_exceeded")
        );
        assert!(browser.page("/activity").await.contains(">spend_limit_exceeded<"));
        let again = browser.submit("/limits/new", "/limits", &limit("5", "", "new", "m")).await;
        assert_eq!(again.status, StatusCode::UNPROCESSABLE_ENTITY, "a new one does not take another's place");
        assert_eq!(house.books.limits().iter().find(|(l, _)| &*l.name == "m").unwrap().0.hard, Some(1_000));
        let edited = browser.submit("/limits/edit?name=m", "/limits", &limit("5", "", "", "m")).await;
        assert_eq!(edited.status, StatusCode::SEE_OTHER);
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK, "a raised cap admits at once");
        for (hard, soft) in [("", ""), ("-1", ""), ("1,000", ""), ("ten", ""), ("1", "101%"), ("", "50%")] {
            let wrong = browser.submit("/limits/new", "/limits", &limit(hard, soft, "new", "x")).await;
            assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY, "{hard:?} {soft:?}");
            assert!(text(&wrong).contains("role=\"alert\""));
        }
        let mut of_tag = limit("1", "", "new", "runs").to_vec();
        of_tag[2].1 = "tag";
        let unnamed = browser.submit("/limits/new", "/limits", &of_tag).await;
        assert_eq!(unnamed.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(text(&unnamed).contains("Enter the name of a tag"), "{unnamed:?}");
        of_tag.push(("tag_name", " run "));
        assert_eq!(browser.submit("/limits/new", "/limits", &of_tag).await.status, StatusCode::SEE_OTHER);
        assert!(browser.page("/limits").await.contains("Value of the tag run, within each key"));
        assert!(browser.page("/limits/edit?name=runs").await.contains("value=\"run\""));
        let of_file = browser.submit("/limits/new", "/limits", &limit("9", "", "", "of-file")).await;
        assert_eq!(of_file.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(browser.page("/limits").await.contains("From configuration file"));
        assert_eq!(browser.get("/limits/edit?name=of-file").await.status, StatusCode::NOT_FOUND);
        browser.submit("/limits/remove?name=m", "/limits/remove", &[("name", "m")]).await;
        assert!(!house.books.limits().iter().any(|(limit, _)| &*limit.name == "m"));
    });
}

#[test]
fn usage_and_activity_show_what_was_spent_page_by_page() {
    run(async {
        let house = House::with("").await;
        let mut cost = String::new();
        for _ in 0..35 {
            cost = house.chat(&[], json!({ "user": "ann" })).await.header("x-spendguard-cost-usd").to_owned();
        }
        house.settled().await;
        let mut browser = Browser::signed_in(&house).await;
        let usage = browser.page("/usage?by=user").await;
        assert!(usage.contains(">ann<") && seen(&usage).contains(&"35".to_owned()), "{usage}");
        let activity = browser.page("/activity").await;
        assert_eq!(activity.matches("<tr title=\"ent_").count(), 30);
        assert!(activity.contains(&cost), "{cost}");
        let older = activity.split("rel=\"next\" href=\"").nth(1).unwrap().split('"').next().unwrap();
        let older = browser.page(older).await;
        assert_eq!(older.matches("<tr title=\"ent_").count(), 5);
        assert!(!older.contains("rel=\"next\""));
        let none = browser.page("/activity?kind=adjust").await;
        assert!(none.contains("No results") && !none.contains("<tr title="));
    });
}

#[test]
fn credit_is_added_and_its_history_shown() {
    run(async {
        let house = House::with("").await;
        let mut browser = Browser::signed_in(&house).await;
        assert!(browser.page("/billing").await.contains("No prepaid credit"));
        for amount in ["", "4.99", "-5", "1,000", "1e3", "2000000", "NaN"] {
            let sent = browser.submit("/billing/add", "/billing", &[("amount", amount), ("note", "n")]).await;
            assert_eq!(sent.status, StatusCode::UNPROCESSABLE_ENTITY, "{amount}");
            assert!(text(&sent).contains("Enter an amount from $5.00"), "{amount}: {}", text(&sent));
        }
        assert!(house.rulebook.credit().is_none());
        let sent = [("amount", "25.5"), ("note", HOSTILE), ("days", "30")];
        let made = browser.submit("/billing/add", "/billing", &sent).await;
        assert_eq!((made.status, made.header("location")), (StatusCode::SEE_OTHER, "/billing"));
        let page = browser.page("/billing").await;
        assert!(!page.contains("<script>alert"), "{page}");
        for word in ["$25.50", "Active", "Credit balance", "Credit history"] {
            assert!(page.contains(word), "{word}: {page}");
        }
        let lines = browser.page("/activity?kind=grant").await;
        assert!(lines.contains("$25.50 granted") && !lines.contains("href=\"/activity?key="), "{lines}");
        let reading = &house.rulebook.credit().unwrap().grants[0];
        assert_eq!(reading.grant.note, HOSTILE);
        let lives_s = reading.grant.expires_s.unwrap() - reading.grant.created_ms / 1_000;
        assert!((30 * 86_400 - 1..=30 * 86_400 + 1).contains(&lives_s), "{lives_s}");
    });
}
