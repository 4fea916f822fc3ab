//! A limit is tried on the past before it is saved.

use http::StatusCode;
use serde_json::json;

use super::browser::{Browser, text};
use crate::harness::{House, run};

#[test]
fn the_dashboard_tries_a_limit_and_saves_nothing_of_it() {
    run(async {
        let house = House::with("").await;
        for _ in 0..3 {
            house.chat(&[], json!({})).await;
        }
        house.settled().await;
        let mut browser = Browser::signed_in(&house).await;
        let form = |hard| {
            let fields =
                [("is", "new"), ("name", "m"), ("per", "key"), ("unit", "requests"), ("window", "month")];
            [&fields[..], &[("hard", hard), ("soft", "")]].concat()
        };
        assert!(browser.page("/limits/new").await.contains("formaction=\"/limits/try\""));
        let shown = browser.submit("/limits/new", "/limits/try", &form("1")).await;
        assert_eq!(shown.status, StatusCode::OK);
        let page = text(&shown);
        assert!(page.contains("id=\"trial\"") && page.contains("<strong>2</strong>"), "{page}");
        assert!(page.contains("value=\"1\""), "the form as it was: {page}");
        assert!(house.books.limits().is_empty());
        let wrong = browser.submit("/limits/new", "/limits/try", &form("-1")).await;
        assert_eq!(wrong.status, StatusCode::UNPROCESSABLE_ENTITY);
        let saved = browser.submit("/limits/new", "/limits", &form("1")).await;
        assert_eq!(saved.status, StatusCode::SEE_OTHER);
        assert_eq!(house.books.limits().len(), 1);
    });
}
