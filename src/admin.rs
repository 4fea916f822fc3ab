//! The admin listener: the dashboard, the admin API, metrics, health.
//!
//! Everything under `/guard/v1`, and the paths under `/v1` that OpenAI has too,
//! requires the admin token or an admin key; the dashboard requires a session that
//! was opened with one of them. The API's errors have OpenAI's envelope, and
//! `/openapi.json` is its document. Requests through the proxy do not pass here.

mod alerts;
mod api;
mod attempts;
mod credits;
mod dashboard;
mod document;
mod error;
mod extract;
mod forecast;
mod host;
mod keys;
mod ledger;
mod limits;
pub mod metrics;
mod nodes;
mod organization;
mod paging;
pub(crate) mod prices;
mod sockets;
mod stops;
mod storage;
mod trials;
mod usage;
mod view;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio_util::task::TaskTracker;

use crate::admin::attempts::Attempts;
use crate::admin::error::ApiError;
use crate::alerts::Outbox;
use crate::books::Books;
use crate::books::forecast::Forecaster;
use crate::directory::Directory;
use crate::directory::admin_keys::{AdminKey, Role};
use crate::guard::Guard;
use crate::guard::audit::Actor;
use crate::keys::{KeyHash, is_admin_secret};
use crate::pricing::sheet::Sheet;
use crate::rulebook::Rulebook;
use crate::stops::Stops;
use crate::store::StoreError;

/// The largest body of an admin request.
const BODY_BYTES_MAX: usize = 1 << 20;

/// The part that changes with the configuration.
#[derive(Clone, Debug)]
pub struct InForce {
    /// The resolved settings, for people.
    pub text: String,
    /// The time zone of days.
    pub zone: Arc<str>,
    /// Names that the listener is reached by, beside its address; in lower case.
    pub hosts: Vec<String>,
    /// Whether an alert is sent when a cap is likely to be reached.
    pub alerts_forecast: bool,
    /// How long entries are kept; forever without a value.
    pub keep: Option<Duration>,
    /// The price sheet.
    pub sheet: Arc<Sheet>,
    /// The file that it was read from, if it is not the built-in one.
    pub sheet_file: Option<PathBuf>,
}

/// What the admin API works on.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Admission.
    pub guard: Arc<Guard>,
    /// Keys, projects, the organization.
    pub directory: Arc<Directory>,
    /// Limits and credit.
    pub rulebook: Arc<Rulebook>,
    /// Questions about the past.
    pub books: Arc<Books>,
    /// Kill switches and fuses.
    pub stops: Arc<Stops>,
    /// SHA-256 of the admin token.
    pub token: KeyHash,
    /// Recent attempts with a wrong token.
    pub attempts: Arc<Attempts>,
    /// Whether `/metrics` needs no token.
    pub metrics_open: bool,
    /// Sends alerts to operators.
    pub outbox: Arc<Outbox>,
    /// Projections of spending.
    pub forecaster: Arc<Forecaster>,
    /// The address that it listens on.
    pub address: IpAddr,
    /// The base URL that clients use in place of OpenAI's.
    pub proxy_url: Arc<str>,
    /// Whether it is reached over TLS, so that cookies must be too.
    pub tls: bool,
    /// The part of the state that the configuration put in force.
    pub in_force: Arc<ArcSwap<InForce>>,
    /// Owner of changes that are being made.
    pub tracker: TaskTracker,
}

/// All routes of the admin listener.
pub fn router(admin: Admin) -> Router {
    let (api, document) = api::routes();
    let api = api.layer(axum::middleware::from_fn_with_state(admin.clone(), authorized));
    Router::new()
        .merge(api)
        .merge(document)
        .merge(dashboard::router(admin.clone()))
        .route("/metrics", get(metrics::metrics))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .fallback(|| async { ApiError::not_found("no such path") })
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        .layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(axum::middleware::from_fn_with_state(admin.clone(), host::known))
        .with_state(admin)
}

async fn authorized(State(admin): State<Admin>, mut request: Request, next: Next) -> Response {
    let visitor = match admin.visitor(request.headers()).await {
        Ok(Some(visitor)) => visitor,
        Ok(None) => return admin.refusal(request.headers()),
        Err(error) => return ApiError::from(error).into_response(),
    };
    let changes_nothing = request.method().is_safe() || trials::is_trial(&request);
    if !visitor.may_change() && !changes_nothing {
        return ApiError::read_only().into_response();
    }
    admin.note_use(&visitor).await;
    request.extensions_mut().insert(visitor.actor());
    if changes_nothing {
        return next.run(request).await;
    }
    made_whole(&admin, request, next).await
}

/// Completes a change even if its client disconnects.
async fn made_whole(admin: &Admin, request: Request, next: Next) -> Response {
    let made = admin.tracker.spawn(next.run(request)).await;
    made.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

/// A caller with a valid token.
enum Visitor {
    WithToken,
    WithKey(Arc<AdminKey>),
}

impl Visitor {
    fn may_change(&self) -> bool {
        !matches!(self, Self::WithKey(key) if key.role == Role::ReadOnly)
    }

    fn actor(&self) -> Actor {
        match self {
            Self::WithToken => Actor::configured(),
            Self::WithKey(key) => key.actor(),
        }
    }
}

impl Admin {
    /// The owner of the token that a request carries.
    async fn visitor(&self, headers: &HeaderMap) -> Result<Option<Visitor>, StoreError> {
        let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = value.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        self.visitor_with_token(token.trim()).await
    }

    /// The owner of a token. An admin key that is not known here may have been made on another
    /// guard a moment ago; an error if that can't be known.
    async fn visitor_with_token(&self, token: &str) -> Result<Option<Visitor>, StoreError> {
        let hash = KeyHash::of(token.as_bytes());
        let may_be_new = self.known_visitor(&hash).is_none() && is_admin_secret(token);
        if may_be_new && !self.guard.core().look_for_rules().await {
            return Err(StoreError::Unavailable);
        }
        self.visitor_with(&hash).await
    }

    /// The owner of the token with that hash. What is in memory is brought up to date for it: an
    /// admin key that was deleted on another guard owns nothing, and what is shown is of the whole
    /// ledger. Who owns no token causes nothing. An error if it can't be known whether an admin key
    /// still stands.
    async fn visitor_with(&self, hash: &KeyHash) -> Result<Option<Visitor>, StoreError> {
        if self.known_visitor(hash).is_none() {
            return Ok(None);
        }
        let is_whole = self.guard.core().see_whole().await;
        match self.known_visitor(hash) {
            Some(Visitor::WithKey(_)) if !is_whole => Err(StoreError::Unavailable),
            visitor => Ok(visitor),
        }
    }

    /// The owner of the token with that hash, by what is in memory: the configured token, or an
    /// admin key.
    fn known_visitor(&self, hash: &KeyHash) -> Option<Visitor> {
        if hash.is(&self.token) {
            return Some(Visitor::WithToken);
        }
        self.directory.admin_key_of(hash).map(Visitor::WithKey)
    }

    async fn note_use(&self, visitor: &Visitor) {
        if let Visitor::WithKey(key) = visitor {
            self.directory.note_admin_key_use(key).await;
        }
    }

    /// Answers a request without a valid token. Answers to wrong tokens are paced,
    /// since they may be guesses.
    fn refusal(&self, headers: &HeaderMap) -> Response {
        if !headers.contains_key(header::AUTHORIZATION) {
            return ApiError::unauthorized().into_response();
        }
        let Some(seconds) = self.attempts.failed(self.guard.clock().now_ms()) else {
            tracing::warn!(event = "admin_wrong_token", "a request to the admin API had a wrong token");
            return ApiError::unauthorized().into_response();
        };
        let mut answer = ApiError::too_many_attempts(seconds).into_response();
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        answer
    }
}

async fn readyz(State(admin): State<Admin>) -> Response {
    if admin.guard.core().is_healthy() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, "the ledger can't be written\n").into_response()
}
