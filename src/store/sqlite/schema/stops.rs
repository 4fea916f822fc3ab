//! What may not spend.

/// The kill switch of each spender, and the last time that each fuse has blown for it, with the id of
/// its line in the ledger. A kill switch has an empty `fuse`.
pub(super) const STOPS: &str = "
CREATE TABLE stop (
    id INTEGER PRIMARY KEY,
    spender_kind TEXT NOT NULL,
    spender TEXT NOT NULL,
    fuse TEXT NOT NULL,
    note TEXT,
    actor_name TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
    until_ms INTEGER,
    lifted_ms INTEGER,
    spent_nano INTEGER,
    limit_nano INTEGER,
    UNIQUE (spender_kind, spender, fuse)
) STRICT;
";
