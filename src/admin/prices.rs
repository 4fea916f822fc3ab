//! The price sheet in force.

use std::path::Path;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::Admin;
use crate::pricing::sheet::Sheet;

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Prices)]
pub(crate) struct PricesView {
    object: &'static str,
    /// The version that entries name: the sheet's date, a hash of the operator's changes to it, and the
    /// region.
    version: String,
    /// When the sheet was made.
    as_of: i64,
    age_days: i64,
    /// Whether it is so old that prices have probably changed since.
    stale: bool,
    /// The number of models with a price.
    models: usize,
    /// The file that it was read from; null for the built-in sheet.
    file: Option<String>,
}

/// Shows which price sheet is in force, and how old it is.
#[utoipa::path(get, path = "/prices", responses((status = 200, body = PricesView)))]
pub(crate) async fn show(State(admin): State<Admin>) -> Json<PricesView> {
    let in_force = admin.in_force.load();
    let file = in_force.sheet_file.as_deref();
    Json(PricesView::of(&in_force.sheet, file, admin.guard.clock().now_s()))
}

impl PricesView {
    /// Describes a sheet as of an instant in Unix seconds.
    pub(crate) fn of(sheet: &Sheet, file: Option<&Path>, now_s: i64) -> Self {
        Self {
            object: "guard.prices",
            version: sheet.version().to_string(),
            as_of: sheet.as_of_s(),
            age_days: sheet.age_s(now_s).div_euclid(86_400),
            stale: sheet.is_stale(now_s),
            models: sheet.models(now_s).len(),
            file: file.map(|file| file.display().to_string()),
        }
    }
}
