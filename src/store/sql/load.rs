//! What a guard reads once, at its start, and again whenever another guard has changed it.

use crate::store::records::Stored;
use crate::store::sql::{Db, Result, keys, organization, stops};

/// All of it but keys, of which there may be a million.
pub(crate) fn stored(db: Db<'_>) -> Result<Stored> {
    Ok(Stored {
        projects: keys::projects(db)?,
        model_rules: organization::model_rules(db)?,
        limits: keys::limit_rules(db)?,
        file_limits: Vec::new(),
        alerts: organization::alerts(db)?,
        admin_keys: organization::admin_keys(db)?,
        accounts: organization::accounts(db)?,
        stops: stops::stops(db)?,
        settings: keys::settings(db)?,
    })
}
