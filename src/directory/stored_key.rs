//! A key and a project as the database has them.

use std::sync::atomic::AtomicI64;

use crate::domain::Pattern;
use crate::keys::{Key, KeyHash, Project};
use crate::store::records::{KeyRow, ProjectRow};

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

/// A project as it is in force.
pub(super) fn project_of(row: ProjectRow) -> Project {
    Project {
        id: row.id.into(),
        name: row.name.into(),
        created_s: row.created_s,
        archived_s: row.archived_s,
        from_file: false,
    }
}
