//! Webhooks and Slack are asked at the address that is written, to the letter.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use http::{Method, StatusCode, Uri};

use crate::harness::{House, run};

/// The paths and queries that something was posted to.
#[derive(Clone, Default)]
struct Received(Arc<Mutex<Vec<String>>>);

async fn listen(asked: &Received) -> String {
    async fn take(State(Received(asked)): State<Received>, uri: Uri) -> StatusCode {
        asked.lock().unwrap().push(uri.to_string());
        StatusCode::OK
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = axum::Router::new().fallback(take).with_state(asked.clone());
    // The test's own task; it ends with the test's runtime.
    tokio::task::spawn_local(async move { axum::serve(listener, router).await.unwrap() });
    format!("http://{address}")
}

#[test]
fn an_address_is_used_as_it_is_written_with_a_slash_at_its_end_or_without_a_path() {
    run(async {
        let asked = Received::default();
        let origin = listen(&asked).await;
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let secret = file("secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let mut config = String::new();
        for path in ["/hooks/spend/", "", "/", "?team=1", "/a//b/?x=/", "/hook"] {
            config +=
                &format!("[[alerts.webhook]]\nurl = \"{origin}{path}\"\nsecret = {{ file = {secret:?} }}\n");
        }
        for (name, path) in [("one", ""), ("two", "/services/T0/B0/x/")] {
            let url = file(name, &format!("{origin}{path}"));
            config += &format!("[[alerts.slack]]\nurl = {{ file = {url:?} }}\n");
        }
        let house = House::with(&config).await;
        let tested = house.admin(Method::POST, "/guard/v1/alerts/test", None);
        let tested = tokio::time::timeout(Duration::from_secs(20), tested).await.unwrap().json();
        assert!(tested["data"].as_array().unwrap().iter().all(|test| test["state"] == "sent"), "{tested:#}");
        let expected =
            ["/hooks/spend/", "/", "/", "/?team=1", "/a//b/?x=/", "/hook", "/", "/services/T0/B0/x/"];
        assert_eq!(*asked.0.lock().unwrap(), expected);
    });
}
