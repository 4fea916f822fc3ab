//! A stop binds from the next request on a socket on.

use http::StatusCode;
use serde_json::json;

use super::{create, opened, response, say};
use crate::harness::{House, run};
use crate::kill_switch::switch_on;

#[test]
fn the_next_request_on_an_open_socket_is_refused_under_a_stop_and_the_socket_stays_open() {
    run(async {
        let house = House::with("").await;
        let mut socket = opened(&house, &[]).await;
        say(&mut socket, &create(json!({}))).await;
        assert_eq!(response(&mut socket).await.last().unwrap()["type"], "response.completed");
        switch_on(&house, "default", None).await;
        for _ in 0..2 {
            say(&mut socket, &create(json!({}))).await;
            let events = response(&mut socket).await;
            assert_eq!(events.len(), 1, "{events:?}");
            assert_eq!(
                (&events[0]["type"], &events[0]["status"]),
                (&json!("error"), &json!(429)),
                "{events:?}"
            );
            assert_eq!(events[0]["error"]["code"], "kill_switch");
            assert_eq!(events[0]["error"]["headers"]["x-should-retry"], "false", "{events:?}");
        }
        let off = house.admin(http::Method::DELETE, "/guard/v1/kill-switches/default", None).await;
        assert_eq!(off.status, StatusCode::NO_CONTENT);
        say(&mut socket, &create(json!({}))).await;
        assert_eq!(response(&mut socket).await.last().unwrap()["type"], "response.completed");
    });
}
