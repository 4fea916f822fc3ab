//! A guard with two limits that nothing reaches, and a key.

use std::path::Path;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use serde_json::json;

use super::asking::client;
use super::running::{self, Running};

const LIMITS: &str = "
[[limit]]\nname = \"org-month\"\nwindow = \"month\"\nhard = 1000000
[[limit]]\nname = \"keys\"\nper = \"key\"\nwindow = \"day\"\nhard = 1000000\n";

/// A guard in front of an upstream, with a key of this secret.
pub(crate) async fn guard(folder: &Path, upstream: &str, token: &str, secret: &str) -> Running {
    let guard = Running::of(running::guard(folder, LIMITS, token, upstream));
    let bearer = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
    let json_type = HeaderValue::from_static("application/json");
    let headers = HeaderMap::from_iter([(AUTHORIZATION, bearer), (CONTENT_TYPE, json_type)]);
    let made = Bytes::from(json!({ "name": "bench", "secret": secret }).to_string());
    let made = client(&guard.admin).send(Method::POST, "/guard/v1/keys", headers, made).await.unwrap();
    assert_eq!(made.status(), 201);
    guard
}
