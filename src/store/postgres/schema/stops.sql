-- The kill switch of each spender, and the last time that each fuse has blown for it, with the id of its line in the
-- ledger. A kill switch has an empty fuse.
CREATE TABLE stop (
    id BIGINT PRIMARY KEY,
    spender_kind TEXT COLLATE "C" NOT NULL,
    spender TEXT COLLATE "C" NOT NULL,
    fuse TEXT COLLATE "C" NOT NULL,
    note TEXT COLLATE "C",
    actor_name TEXT COLLATE "C" NOT NULL,
    since_ms BIGINT NOT NULL,
    until_ms BIGINT,
    lifted_ms BIGINT,
    spent_nano BIGINT,
    limit_nano BIGINT,
    UNIQUE (spender_kind, spender, fuse)
);
