//! A key as the database has it.

use std::sync::atomic::AtomicI64;

use crate::domain::Pattern;
use crate::keys::{Key, KeyHash};
use crate::store::records::KeyRow;

/// A key as it is in force, last used at an instant in Unix milliseconds.
pub(super) fn key_of(row: KeyRow, last_used_ms: i64) -> Key {
    Key {
        id: row.id.into(),
        name: row.name.into(),
        project: row.project.into(),
        redacted: row.redacted.into(),
        models: row.models.iter().map(|text| Pattern::new(text)).collect(),
        pass_through: row.pass_through,
        created_s: row.created_s,
        expires_s: row.expires_s,
        revoked_s: row.revoked_s,
        hash: KeyHash(row.hash),
        old: row.old.map(|(hash, until_s)| (KeyHash(hash), until_s)),
        last_used_ms: AtomicI64::new(last_used_ms),
    }
}
