//! Prepaid credit: the account, and grants to it.

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::admin::Admin;
use crate::admin::error::ApiError;
use crate::admin::extract::Body;
use crate::admin::view::credits::{CreditsView, GrantView};
use crate::domain::Money;
use crate::guard::audit::Actor;
use crate::ledger::account::GrantReading;
use crate::ledger::credit::Ungranted;
use crate::rulebook::credit::CreditError;

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewGrant {
    /// A decimal text, from `credit.minimum` to a million.
    #[schema(example = "25.00")]
    amount_usd: String,
    /// The reason or the purpose.
    #[serde(default)]
    #[schema(max_length = 1000)]
    note: String,
    /// When the rest of it expires, in Unix seconds. If omitted, it never expires.
    expires_at: Option<i64>,
}

/// Shows prepaid credit: the account in figures, and its grants.
#[utoipa::path(get, path = "/credits", responses((status = 200, body = CreditsView)))]
pub(crate) async fn show(State(admin): State<Admin>) -> Json<CreditsView> {
    Json(CreditsView::of(admin.rulebook.credit()))
}

/// Grants prepaid credit. From the first grant on, requests without credit are refused.
#[utoipa::path(post, path = "/credits", request_body = NewGrant, responses((status = 201, body = GrantView)))]
pub(crate) async fn grant(
    State(admin): State<Admin>,
    Extension(actor): Extension<Actor>,
    Body(body): Body<NewGrant>,
) -> Result<(StatusCode, Json<GrantView>), ApiError> {
    let NewGrant { amount_usd, note, expires_at } = body;
    let amount: Money = amount_usd
        .parse()
        .map_err(|error| ApiError::bad(Some("amount_usd"), format!("{amount_usd:?} is {error}")))?;
    let grant = admin.rulebook.grant(amount, note, expires_at, &actor).await?;
    let left = grant.amount;
    let unspent = GrantReading { grant, used: Money::ZERO, left, is_expired: false };
    Ok((StatusCode::CREATED, Json(GrantView::of(&unspent))))
}

impl From<CreditError> for ApiError {
    fn from(error: CreditError) -> Self {
        let message = error.to_string();
        match error {
            CreditError::TooLittle(_) | CreditError::TooMuch | CreditError::BeyondGrant { .. } => {
                Self::bad(Some("amount_usd"), message)
            }
            CreditError::LongNote => Self::bad(Some("note"), message),
            CreditError::Ungranted(Ungranted::Expired(_) | Ungranted::TooLate) => {
                Self::bad(Some("expires_at"), message)
            }
            CreditError::Ungranted(Ungranted::TooMany) => Self::conflict(message),
            CreditError::Store(error) => error.into(),
        }
    }
}
