//! The shapes of prepaid credit.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::Money;
use crate::ledger::account::GrantReading;
use crate::ledger::entry::grant_id;
use crate::rulebook::credit::Credit;

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Credits)]
pub(crate) struct CreditsView {
    object: &'static str,
    /// Credit that is neither spent nor expired; negative if more was spent than granted.
    balance_usd: String,
    granted_usd: String,
    /// Spent since the first grant.
    used_usd: String,
    /// The rest of grants at the time they expired.
    expired_usd: String,
    /// The most that open requests may still cost. It is not subtracted from the balance.
    held_usd: String,
    /// `enforce` or `shadow`; absent before the first grant.
    mode: Option<&'static str>,
    /// Newest first.
    grants: Vec<GrantView>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CreditGrant)]
pub(crate) struct GrantView {
    object: &'static str,
    id: String,
    /// Negative if it takes credit back.
    amount_usd: String,
    used_usd: String,
    note: String,
    created_at: i64,
    expires_at: Option<i64>,
    /// The grant that it corrects and with which it expires.
    corrects: Option<String>,
    /// `active`, `used`, `expired` or `correction`.
    status: &'static str,
}

impl CreditsView {
    pub(crate) fn of(credit: Option<Credit>) -> Self {
        let mode = credit.as_ref().map(|credit| credit.mode.name());
        let (balance, grants) = credit.map(|credit| (credit.balance, credit.grants)).unwrap_or_default();
        Self {
            object: "guard.credits",
            balance_usd: balance.left().to_string(),
            granted_usd: balance.granted.to_string(),
            used_usd: balance.used.to_string(),
            expired_usd: balance.expired.to_string(),
            held_usd: balance.held.to_string(),
            mode,
            grants: grants.iter().rev().map(GrantView::of).collect(),
        }
    }
}

impl GrantView {
    pub(crate) fn of(reading: &GrantReading) -> Self {
        let GrantReading { grant, used, left, is_expired } = reading;
        Self {
            object: "guard.credit_grant",
            id: grant_id(grant.id),
            amount_usd: grant.amount.to_string(),
            used_usd: used.to_string(),
            note: grant.note.clone(),
            created_at: grant.created_ms.div_euclid(1_000),
            expires_at: grant.expires_s,
            corrects: grant.corrects.map(grant_id),
            status: if grant.corrects.is_some() {
                "correction"
            } else if *left <= Money::ZERO {
                "used"
            } else if *is_expired {
                "expired"
            } else {
                "active"
            },
        }
    }
}
