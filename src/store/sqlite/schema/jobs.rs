//! Jobs at upstream, and the holds that they have.

/// Holds that outlive their requests, until the job that each is for has ended.
pub(super) const JOBS: &str = "
CREATE TABLE job (
    hold_id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    object_id TEXT NOT NULL,
    deadline_s INTEGER NOT NULL,
    hold TEXT NOT NULL,
    UNIQUE (kind, object_id)
) STRICT;
";

/// What decides the cost of a job's outcome. Before it no operation began a job.
pub(super) const JOB_TERMS: &str = "ALTER TABLE job ADD COLUMN terms TEXT NOT NULL DEFAULT '{}';";
