//! Where the SQL of the engines differs.

use crate::store::sql::Db;

impl Db<'_> {
    /// What rows are ordered by that shall come in the order in which they were inserted: those
    /// of `admin_key`, `service_account` and `spend_alert`.
    pub(crate) fn insertion_order(self) -> &'static str {
        match self {
            Self::Sqlite(_) => "rowid",
            Self::Postgres(_) | Self::Batch(_) => "place",
        }
    }

    /// The column that counts the changes of a conversation, which only guards that share it need.
    pub(crate) fn changes_of_objects(self) -> &'static str {
        if matches!(self, Self::Sqlite(_)) { "0" } else { "changes" }
    }

    /// Stands behind `entry` where a query is to use the index on `admitted_ms`.
    pub(crate) fn by_time(self) -> &'static str {
        match self {
            Self::Sqlite(_) => " INDEXED BY entry_admitted",
            Self::Postgres(_) | Self::Batch(_) => "",
        }
    }

    /// Whether the table of entries itself excludes two of one id, whenever they were admitted.
    pub(crate) fn has_unique_ids(self) -> bool {
        matches!(self, Self::Sqlite(_))
    }

    /// Stands behind a query for rows that are to be removed, where others may write them.
    pub(crate) fn skip_locked(self) -> &'static str {
        if let Self::Sqlite(_) = self { "" } else { " FOR UPDATE SKIP LOCKED" }
    }

    /// Whether the sparse columns of sums are added to by the statement that writes them.
    pub(crate) fn merges_quantities(self) -> bool {
        match self {
            Self::Sqlite(_) => false,
            Self::Postgres(_) | Self::Batch(_) => true,
        }
    }

    /// The query for the stored holds of requests: for each row an id, and the lines of one
    /// hold or of several.
    pub(crate) fn holds_of_requests(self) -> &'static str {
        match self {
            Self::Sqlite(_) => "SELECT first_id, holds FROM hold_batch ORDER BY first_id",
            Self::Postgres(_) | Self::Batch(_) => "SELECT id, holds FROM hold ORDER BY id",
        }
    }
}
