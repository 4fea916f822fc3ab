-- What several guards need beside the ledger. All numbers are BIGINT, all texts compare byte by byte.

-- One row: locked by every change of keys, projects, limits and switches.
CREATE TABLE rules (
    id BIGINT PRIMARY KEY CHECK (id = 1),
    version BIGINT NOT NULL
);
INSERT INTO rules VALUES (1, 1);

-- A guard from its start to its end. Of a name, one epoch at most is alive. Times are the database's.
CREATE TABLE node (
    epoch BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL,
    version TEXT COLLATE "C" NOT NULL,
    since_ms BIGINT NOT NULL,
    seen_ms BIGINT NOT NULL,
    state TEXT COLLATE "C" NOT NULL
);
CREATE UNIQUE INDEX node_alive ON node (name) WHERE state = 'alive';

-- A connection on which a guard admits. Locked by each of its groups, and by who changes the rules or gives
-- the guard up: what a group reads of it holds until the group is committed.
CREATE TABLE lane (
    epoch BIGINT NOT NULL,
    lane BIGINT NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    rules_version BIGINT NOT NULL,
    group_id BIGINT NOT NULL,
    PRIMARY KEY (epoch, lane)
);

-- Holds of requests that are open, each with the epoch of the guard that runs its request.
CREATE TABLE hold (
    id BIGINT PRIMARY KEY CHECK (id > 0),
    epoch BIGINT NOT NULL,
    cost_nano BIGINT NOT NULL,
    holds TEXT COLLATE "C" NOT NULL
);
CREATE INDEX hold_epoch ON hold (epoch);

-- What each limit counts: settled is the sum of entries, held the sum of open holds.
CREATE TABLE meter (
    limit_name TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    start_s BIGINT NOT NULL,
    end_s BIGINT NOT NULL,
    settled BIGINT NOT NULL,
    held BIGINT NOT NULL,
    PRIMARY KEY (limit_name, subject, start_s)
) WITH (fillfactor = 50);
CREATE INDEX meter_end ON meter (end_s);

-- The limits in force, with ids in place of names: those that meters are kept for.
CREATE TABLE active_limit (
    name TEXT COLLATE "C" PRIMARY KEY,
    rule TEXT COLLATE "C" NOT NULL
);

-- The limits of the configuration file that was read last, as they are written there.
CREATE TABLE file_limit (
    name TEXT COLLATE "C" PRIMARY KEY,
    rule TEXT COLLATE "C" NOT NULL
);

-- The version of the rules that a key was last changed in: other guards read it again then.
ALTER TABLE api_key ADD COLUMN changed BIGINT NOT NULL DEFAULT 0;
CREATE INDEX api_key_changed ON api_key (changed);

-- The segments of prepaid credit; no row before the first grant.
CREATE TABLE credit (
    id BIGINT PRIMARY KEY CHECK (id = 1),
    segments TEXT COLLATE "C" NOT NULL
);

-- Ids of holds and entries.
CREATE SEQUENCE entry_id;

-- The version of all tables.
CREATE TABLE schema_version (
    id BIGINT PRIMARY KEY CHECK (id = 1),
    version BIGINT NOT NULL
);
INSERT INTO schema_version VALUES (1, 1);
