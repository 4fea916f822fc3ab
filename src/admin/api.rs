//! The routes of the admin API, which are its OpenAPI document too.
//!
//! A handler states its path, its input and its answer in its own `utoipa::path`;
//! here it is only named. Nothing is routed in any other way, so that what is
//! served and what is documented are one thing.

use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router, extract::State};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::admin::{
    Admin, alerts, credits, document, forecast, keys, ledger, limits, nodes, organization, prices, sockets,
    stops, storage, trials, usage,
};

fn documented() -> OpenApiRouter<Admin> {
    let guard = OpenApiRouter::new()
        .routes(routes!(keys::create, keys::list))
        .routes(routes!(keys::show, keys::change, keys::revoke))
        .routes(routes!(keys::rotate))
        .routes(routes!(keys::create_project, keys::projects))
        .routes(routes!(keys::archive_project))
        .routes(routes!(limits::list))
        .routes(routes!(limits::show, limits::put, limits::remove))
        .routes(routes!(limits::explain))
        .routes(routes!(trials::try_limits))
        .routes(routes!(stops::list))
        .routes(routes!(stops::switch_on, stops::switch_off))
        .routes(routes!(stops::fuses))
        .routes(routes!(stops::reset))
        .routes(routes!(ledger::list))
        .routes(routes!(ledger::verify))
        .routes(routes!(ledger::adjust))
        .routes(routes!(usage::usage))
        .routes(routes!(forecast::show))
        .routes(routes!(credits::show, credits::grant))
        .routes(routes!(alerts::list))
        .routes(routes!(alerts::test))
        .routes(routes!(prices::show))
        .routes(routes!(nodes::list))
        .routes(routes!(sockets::list))
        .routes(routes!(storage::show))
        .routes(routes!(storage::prune))
        .routes(routes!(config));
    OpenApiRouter::new().nest("/guard/v1", guard).nest("/v1/organization", organization::routes())
}

/// The routes that require a token, and the one that describes them, which requires none.
pub(super) fn routes() -> (Router<Admin>, Router<Admin>) {
    let (api, document) = documented().split_for_parts();
    let text = document::complete(document).to_pretty_json().unwrap_or_default();
    let json = [(header::CONTENT_TYPE, "application/json")];
    let shown = get(async move || (json, text.clone()).into_response());
    (api, Router::new().route("/openapi.json", shown))
}

/// What is in force.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Config)]
struct ConfigView {
    object: &'static str,
    /// Every key in force, as TOML that loads again. Secrets are references to where they are kept; stars stand for
    /// parts of addresses that may be secret.
    text: String,
}

/// Shows the configuration that is in force.
#[utoipa::path(get, path = "/config", responses((status = 200, body = ConfigView)))]
async fn config(State(admin): State<Admin>) -> Json<ConfigView> {
    Json(ConfigView { object: "guard.config", text: admin.in_force.load().text.clone() })
}
