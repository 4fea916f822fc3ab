//! The stylesheet, the script and the icon, from within the binary.

use std::sync::LazyLock;

use axum::Router;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::routing::get;

use crate::admin::dashboard::{Dashboard, harden};
use crate::domain::id;
use crate::keys::KeyHash;

const STYLE: &str = include_str!("assets/style.css");
const SCRIPT: &str = include_str!("assets/script.js");
const ICON: &str = include_str!("assets/icon.svg");

/// Changes with the files, so that browsers may keep them for good.
pub(super) static VERSION: LazyLock<String> =
    LazyLock::new(|| id::base62(KeyHash::of([STYLE, SCRIPT, ICON].concat().as_bytes()).0, 10));

pub(super) fn routes() -> Router<Dashboard> {
    Router::new()
        .route("/assets/style.css", get(|| async { file("text/css; charset=utf-8", STYLE) }))
        .route("/assets/script.js", get(|| async { file("text/javascript; charset=utf-8", SCRIPT) }))
        .route("/assets/icon.svg", get(|| async { file("image/svg+xml", ICON) }))
}

fn file(kind: &'static str, text: &'static str) -> (HeaderMap, &'static str) {
    let mut headers = HeaderMap::new();
    harden(&mut headers, "public, max-age=31536000, immutable");
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    (headers, text)
}
