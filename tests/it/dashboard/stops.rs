//! What operators stop here, and allow again.

use http::{Method, StatusCode};
use serde_json::json;

use crate::dashboard::browser::{Browser, seen};
use crate::harness::{House, run};

#[test]
fn a_key_a_project_and_the_organization_are_stopped_and_allowed_again_where_they_are_listed() {
    run(async {
        let house = House::with("").await;
        let keys = house.admin(Method::GET, "/guard/v1/keys", None).await.json();
        let key = keys["data"][0]["id"].as_str().unwrap().to_owned();
        let mut browser = Browser::signed_in(&house).await;
        for (subject, page) in
            [(key.as_str(), "/keys"), ("default", "/projects"), ("organization", "/limits")]
        {
            let link = format!("/limits/stop?subject={subject}");
            assert!(browser.page(page).await.contains(&link), "{page}");
            let stopped = browser.submit(&link, "/limits/stop", &[("subject", subject)]).await;
            assert_eq!(
                (stopped.status, stopped.header("location")),
                (StatusCode::SEE_OTHER, page),
                "{stopped:?}"
            );
            assert_eq!(house.chat(&[], json!({})).await.code(), "kill_switch");
            let overview = seen(&browser.page("/").await);
            assert!(overview.contains(&"Spending is stopped.".to_owned()), "{overview:?}");
            let link = format!("/limits/allow?subject={subject}");
            assert!(browser.page(page).await.contains(&link), "{page}");
            let allowed = browser.submit(&link, "/limits/allow", &[("subject", subject)]).await;
            assert_eq!(allowed.header("location"), page, "{allowed:?}");
            assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK);
        }
        assert!(!browser.page("/").await.contains("Spending is stopped."));
        let trail = browser.page("/activity/audit").await;
        assert!(trail.contains("title=\"kill_switch.off\""), "{trail}");
        let unknown = browser.submit("/limits", "/limits/stop", &[("subject", "key_unknown")]).await;
        assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    });
}

#[test]
fn a_blown_fuse_is_shown_with_who_has_spent_and_is_reset() {
    run(async {
        let fuse = "[[fuse]]\nname = \"runaway\"\nusd = 0.000001\nwithin = \"10m\"\ncool_down = \"1h\"\n";
        let house = House::with(fuse).await;
        let mut browser = Browser::signed_in(&house).await;
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK);
        house.settled().await;
        let id = loop {
            let stops = house.admin(Method::GET, "/guard/v1/stops", None).await.json();
            if let Some(id) = stops["data"][0]["id"].as_str() {
                break id.strip_prefix("stop_").unwrap().to_owned();
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        };
        for page in ["/", "/limits"] {
            let shown = browser.page(page).await;
            assert!(shown.contains("runaway") && shown.contains("$0.000001"), "{shown}");
        }
        let link = format!("/limits/reset?id={id}");
        assert!(browser.page("/limits").await.contains(&link));
        let reset = browser.submit(&link, "/limits/reset", &[("id", &id)]).await;
        assert_eq!(reset.header("location"), "/limits", "{reset:?}");
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK);
        let again = browser.submit("/limits", "/limits/reset", &[("id", &id)]).await;
        assert_eq!(again.status, StatusCode::NOT_FOUND);
    });
}
