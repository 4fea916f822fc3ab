//! What corrections and digests of messages are looked up by.

/// The corrections of an entry, to be summed up before another is made.
pub(super) const CORRECTIONS: &str =
    "CREATE INDEX entry_corrects ON entry (corrects) WHERE corrects IS NOT NULL;";

/// The crossing in whose message this one is included. Until the end of its hour
/// it waits for that, with `is_routed` 2.
pub(super) const DIGEST: &str = "
ALTER TABLE crossing ADD COLUMN digest INTEGER;
CREATE INDEX crossing_own ON crossing (limit_name, mark, at_ms) WHERE is_routed = 1 AND digest IS NULL;
CREATE INDEX crossing_put_off ON crossing (at_ms) WHERE is_routed = 2;
CREATE INDEX crossing_digest ON crossing (digest) WHERE digest IS NOT NULL;
";
