//! Open sockets, as operators see them.

use serde_json::json;

use crate::dashboard::browser::{Browser, seen};
use crate::harness::{House, run};
use crate::sockets::{next, say};

#[test]
fn open_sockets_are_counted_by_key_and_shown_with_their_runs() {
    run(async {
        let house = House::with("[tags]\nrun = [\"session-id\"]\n").await;
        let mut browser = Browser::signed_in(&house).await;
        let shown = seen(&browser.page("/activity/sockets").await);
        assert!(shown.contains(&"No open WebSockets".to_owned()), "{shown:?}");
        let hostile = [("session-id", "<i>run 7</i>")];
        let path = "/v1/realtime?model=gpt-realtime";
        let mut socket = crate::realtime::connected_at(&house, path, &house.key, &hostile).await.unwrap();
        assert_eq!(next(&mut socket).await["type"], "session.created");
        say(&mut socket, &json!({ "type": "response.create" })).await;
        while next(&mut socket).await["type"] != "response.done" {}
        let key = house.guard.ring().keys()[0].id.to_string();
        let link = format!("/activity/sockets?key={key}");
        for page in ["/keys", "/activity/sockets", &link] {
            let text = browser.page(page).await;
            assert!(text.contains(&format!("href=\"{link}\"")), "{page}: {text}");
            assert!(seen(&text).contains(&"1 open WebSocket".to_owned()), "{page}");
        }
        let text = browser.page(&link).await;
        let shown = seen(&text);
        for part in ["/v1/realtime", "run", "&lt;i&gt;run 7&lt;/i&gt;"] {
            assert!(shown.contains(&part.to_owned()), "{part}: {shown:?}");
        }
        assert!(text.contains(&format!("/limits/stop?subject={key}")), "its key can be stopped here");
        let others = seen(&browser.page("/activity/sockets?key=key_unknown").await);
        assert!(others.contains(&"No open WebSockets".to_owned()), "{others:?}");
        let is_shared = house.guard.core().is_shared();
        assert_eq!(text.contains("Each one knows only its own WebSockets"), is_shared);
    });
}
