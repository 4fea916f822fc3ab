//! The admin listener: the dashboard, the admin API, metrics, health.
//!
//! Everything under `/guard/v1` wants the admin token, and the dashboard a
//! session that was opened with it. The API's errors have OpenAI's envelope. Nothing here is on a request's way through the proxy.

mod dashboard;
mod error;
mod keys;
mod ledger;
mod limits;
pub mod metrics;
mod usage;
mod view;

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use tokio_util::task::TaskTracker;

use crate::admin::error::ApiError;
use crate::guard::Guard;
use crate::keys::KeyHash;

/// The largest body of an admin request.
const BODY_BYTES_MAX: usize = 1 << 20;

/// What changes with the configuration.
#[derive(Clone, Debug)]
pub struct InForce {
    /// The resolved settings, for people.
    pub text: String,
    /// The time zone of days.
    pub zone: Arc<str>,
    /// When the price sheet was made, in Unix seconds.
    pub prices_as_of_s: i64,
}

/// What the admin API works on.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The guard.
    pub guard: Arc<Guard>,
    /// SHA-256 of the admin token.
    pub token: KeyHash,
    /// Whether `/metrics` needs no token.
    pub metrics_open: bool,
    /// Whether it is reached over TLS, so that cookies must be too.
    pub tls: bool,
    /// What the configuration put in force.
    pub in_force: Arc<ArcSwap<InForce>>,
    /// Owner of changes that are being made.
    pub tracker: TaskTracker,
}

/// All routes of the admin listener.
pub fn router(admin: Admin) -> Router {
    let api = Router::new()
        .route("/keys", post(keys::create).get(keys::list))
        .route("/keys/{id}", get(keys::show).patch(keys::change).delete(keys::revoke))
        .route("/keys/{id}/rotate", post(keys::rotate))
        .route("/projects", post(keys::create_project).get(keys::projects))
        .route("/projects/{id}/archive", post(keys::archive_project))
        .route("/limits", get(limits::list))
        .route("/limits/{name}", get(limits::show).put(limits::put).delete(limits::remove))
        .route("/limits/{name}/explain", get(limits::explain))
        .route("/ledger", get(ledger::list))
        .route("/ledger/verify", get(ledger::verify))
        .route("/ledger/{id}/adjust", post(ledger::adjust))
        .route("/usage", get(usage::usage))
        .route("/config", get(config))
        .layer(axum::middleware::from_fn_with_state(admin.clone(), authorized));
    Router::new()
        .nest("/guard/v1", api)
        .merge(dashboard::router(admin.clone()))
        .route("/metrics", get(metrics::metrics))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .fallback(|| async { ApiError::not_found("no such path") })
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        .layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(admin)
}

async fn authorized(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    if !admin.is_authorized(request.headers()) {
        return ApiError::unauthorized().into_response();
    }
    if request.method().is_safe() {
        return next.run(request).await;
    }
    made_whole(&admin, request, next).await
}

/// Makes a change whole, whether or not its client waits for the end.
async fn made_whole(admin: &Admin, request: Request, next: Next) -> Response {
    let made = admin.tracker.spawn(next.run(request)).await;
    made.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

impl Admin {
    fn is_authorized(&self, headers: &axum::http::HeaderMap) -> bool {
        let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = value.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        self.is_token(token.trim())
    }

    fn is_token(&self, given: &str) -> bool {
        KeyHash::of(given.as_bytes()).is(&self.token)
    }
}

async fn readyz(State(admin): State<Admin>) -> Response {
    if admin.guard.is_healthy() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, "the ledger can't be written\n").into_response()
}

async fn config(State(admin): State<Admin>) -> Json<serde_json::Value> {
    Json(serde_json::json!({ "object": "guard.config", "text": admin.in_force.load().text }))
}
