-- The tables in PostgreSQL: those of `store::sqlite::schema` in their last version, but for `hold_batch`.
-- INTEGER is BIGINT here, also where a column is a flag (0 or 1), and texts are compared by their bytes.

-- Append-only. Old rows are pruned if operators say so.
CREATE TABLE entry (
    id BIGINT PRIMARY KEY,
    kind TEXT COLLATE "C" NOT NULL,
    created_ms BIGINT NOT NULL,
    admitted_ms BIGINT NOT NULL,
    project TEXT COLLATE "C" NOT NULL,
    api_key TEXT COLLATE "C" NOT NULL,
    end_user TEXT COLLATE "C" NOT NULL,
    tags TEXT COLLATE "C" NOT NULL,
    endpoint TEXT COLLATE "C" NOT NULL,
    model TEXT COLLATE "C" NOT NULL,
    priced_as TEXT COLLATE "C" NOT NULL,
    served_model TEXT COLLATE "C" NOT NULL,
    tier TEXT COLLATE "C" NOT NULL,
    basis TEXT COLLATE "C" NOT NULL,
    cost_nano BIGINT NOT NULL,
    tool_fees_nano BIGINT NOT NULL,
    held_nano BIGINT NOT NULL,
    held_input BIGINT NOT NULL,
    held_output BIGINT NOT NULL,
    input BIGINT NOT NULL,
    cached_input BIGINT NOT NULL,
    cache_write BIGINT NOT NULL,
    cache_write_12h BIGINT NOT NULL,
    audio_input BIGINT NOT NULL,
    audio_cached_input BIGINT NOT NULL,
    image_input BIGINT NOT NULL,
    image_cached_input BIGINT NOT NULL,
    output BIGINT NOT NULL,
    reasoning BIGINT NOT NULL,
    audio_output BIGINT NOT NULL,
    image_output BIGINT NOT NULL,
    price_version TEXT COLLATE "C" NOT NULL,
    status BIGINT NOT NULL,
    upstream_request_id TEXT COLLATE "C",
    object_id TEXT COLLATE "C",
    duration_ms BIGINT NOT NULL,
    ttft_ms BIGINT,
    stream BIGINT NOT NULL,
    disconnected BIGINT NOT NULL,
    corrects BIGINT,
    note TEXT COLLATE "C",
    -- Quantities of classes without a column of their own, as JSON (see `store::sql::quantities`).
    other_quantities TEXT COLLATE "C"
);
CREATE INDEX entry_admitted ON entry (admitted_ms);
-- The corrections of an entry, to be summed up before another is made.
CREATE INDEX entry_corrects ON entry (corrects) WHERE corrects IS NOT NULL;

-- Holds that outlive their requests, until the job that each is for has ended.
CREATE TABLE job (
    hold_id BIGINT PRIMARY KEY,
    kind TEXT COLLATE "C" NOT NULL,
    object_id TEXT COLLATE "C" NOT NULL,
    deadline_s BIGINT NOT NULL,
    hold TEXT COLLATE "C" NOT NULL,
    UNIQUE (kind, object_id)
);

-- A meter that has come to a mark, with the id of its line in the ledger, and what its limit was then. `is_routed` is 2
-- until the end of its hour if it waits to share the message of another, which `digest` then names.
CREATE TABLE crossing (
    id BIGINT PRIMARY KEY,
    mark TEXT COLLATE "C" NOT NULL,
    limit_name TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    threshold BIGINT NOT NULL,
    window_start_s BIGINT NOT NULL,
    window_end_s BIGINT NOT NULL,
    settled BIGINT NOT NULL,
    unit TEXT COLLATE "C" NOT NULL,
    period TEXT COLLATE "C" NOT NULL,
    hard BIGINT,
    at_ms BIGINT NOT NULL,
    is_routed BIGINT NOT NULL,
    digest BIGINT,
    UNIQUE (limit_name, subject, mark, threshold, window_start_s)
);
CREATE INDEX crossing_unrouted ON crossing (id) WHERE is_routed = 0;
CREATE INDEX crossing_own ON crossing (limit_name, mark, at_ms) WHERE is_routed = 1 AND digest IS NULL;
CREATE INDEX crossing_put_off ON crossing (at_ms) WHERE is_routed = 2;
CREATE INDEX crossing_digest ON crossing (digest) WHERE digest IS NOT NULL;

-- One channel's part in an alert: `waiting`, `sent`, `given_up` or, if its channel is no longer configured, `dropped`.
-- `mail` is the recipient, if it is not one that the channel is configured for.
CREATE TABLE delivery (
    crossing BIGINT NOT NULL,
    channel TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    attempts BIGINT NOT NULL,
    next_ms BIGINT NOT NULL,
    error TEXT COLLATE "C",
    mail TEXT COLLATE "C",
    PRIMARY KEY (crossing, channel)
);
CREATE INDEX delivery_waiting ON delivery (channel, next_ms) WHERE state = 'waiting';

CREATE TABLE project (
    id TEXT COLLATE "C" PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL,
    created_s BIGINT NOT NULL,
    archived_s BIGINT
);

CREATE TABLE api_key (
    id TEXT COLLATE "C" PRIMARY KEY,
    hash BYTEA NOT NULL UNIQUE,
    name TEXT COLLATE "C" NOT NULL,
    project TEXT COLLATE "C" NOT NULL,
    redacted TEXT COLLATE "C" NOT NULL,
    models TEXT COLLATE "C" NOT NULL,
    pass_through BIGINT NOT NULL,
    created_s BIGINT NOT NULL,
    expires_s BIGINT,
    revoked_s BIGINT,
    old_hash BYTEA UNIQUE,
    old_hash_until_s BIGINT
);

CREATE TABLE limit_rule (
    name TEXT COLLATE "C" PRIMARY KEY,
    rule TEXT COLLATE "C" NOT NULL
);

-- The sums of quarters of an hour. Derived from `entry`.
CREATE TABLE rollup (
    start_s BIGINT NOT NULL,
    project TEXT COLLATE "C" NOT NULL,
    api_key TEXT COLLATE "C" NOT NULL,
    end_user TEXT COLLATE "C" NOT NULL,
    tags TEXT COLLATE "C" NOT NULL,
    endpoint TEXT COLLATE "C" NOT NULL,
    model TEXT COLLATE "C" NOT NULL,
    priced_as TEXT COLLATE "C" NOT NULL,
    served_model TEXT COLLATE "C" NOT NULL,
    requests BIGINT NOT NULL,
    cost_nano BIGINT NOT NULL,
    input BIGINT NOT NULL,
    cached_input BIGINT NOT NULL,
    cache_write BIGINT NOT NULL,
    cache_write_12h BIGINT NOT NULL,
    audio_input BIGINT NOT NULL,
    audio_cached_input BIGINT NOT NULL,
    image_input BIGINT NOT NULL,
    image_cached_input BIGINT NOT NULL,
    output BIGINT NOT NULL,
    reasoning BIGINT NOT NULL,
    audio_output BIGINT NOT NULL,
    image_output BIGINT NOT NULL,
    last_ms BIGINT NOT NULL,
    other_quantities TEXT COLLATE "C",
    PRIMARY KEY (start_s, project, api_key, end_user, tags, endpoint, model, priced_as, served_model)
);

-- The sums of days, all end users and tags in one. Derived from `rollup`.
CREATE TABLE rollup_day (LIKE rollup INCLUDING ALL);

-- The sums of days, each end user and set of tags apart. Derived from `rollup`.
CREATE TABLE rollup_day_user (LIKE rollup INCLUDING ALL);

-- What the sums of days sum up: all before the end of a span or, where its last quarter of an hour is too long to be
-- added at once, before the key of the row that is next.
CREATE TABLE rollup_day_span (
    start_s BIGINT PRIMARY KEY,
    end_s BIGINT NOT NULL,
    next TEXT COLLATE "C"
);

-- What was pruned, all together: one row, or none while nothing was.
CREATE TABLE pruned (
    id BIGINT PRIMARY KEY CHECK (id = 1),
    before_s BIGINT NOT NULL,
    entries BIGINT NOT NULL,
    last_id BIGINT NOT NULL,
    latest_ms BIGINT NOT NULL,
    requests BIGINT NOT NULL,
    cost_nano BIGINT NOT NULL,
    tokens BIGINT NOT NULL,
    other_quantities TEXT COLLATE "C"
);

-- A grant of prepaid credit has the id of its line in the ledger, and the latest instant that a request had been admitted
-- at. Append-only.
CREATE TABLE credit_grant (
    id BIGINT PRIMARY KEY,
    amount_nano BIGINT NOT NULL,
    note TEXT COLLATE "C" NOT NULL,
    created_ms BIGINT NOT NULL,
    expires_s BIGINT,
    latest_ms BIGINT NOT NULL,
    corrects BIGINT
);

-- What operators set of the organization itself, one text for each name.
CREATE TABLE setting (
    name TEXT COLLATE "C" PRIMARY KEY,
    value TEXT COLLATE "C" NOT NULL
);

-- Lists of the organization's API are in the order of `place`, which is that of the rowid in SQLite.
CREATE TABLE admin_key (
    place BIGINT GENERATED ALWAYS AS IDENTITY,
    id TEXT COLLATE "C" PRIMARY KEY,
    hash BYTEA NOT NULL UNIQUE,
    name TEXT COLLATE "C" NOT NULL,
    redacted TEXT COLLATE "C" NOT NULL,
    role TEXT COLLATE "C" NOT NULL,
    created_s BIGINT NOT NULL,
    expires_s BIGINT,
    used_s BIGINT
);

CREATE TABLE service_account (
    place BIGINT GENERATED ALWAYS AS IDENTITY,
    id TEXT COLLATE "C" PRIMARY KEY,
    project TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    api_keys TEXT COLLATE "C" NOT NULL,
    created_s BIGINT NOT NULL
);

CREATE TABLE spend_alert (
    place BIGINT GENERATED ALWAYS AS IDENTITY,
    id TEXT COLLATE "C" PRIMARY KEY,
    project TEXT COLLATE "C",
    channel TEXT COLLATE "C" NOT NULL
);

CREATE TABLE model_rule (
    project TEXT COLLATE "C" PRIMARY KEY,
    mode TEXT COLLATE "C" NOT NULL,
    models TEXT COLLATE "C" NOT NULL
);

-- One row for each change that an operator made. Append-only.
CREATE TABLE audit (
    id BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    at_ms BIGINT NOT NULL,
    actor TEXT COLLATE "C" NOT NULL,
    actor_name TEXT COLLATE "C" NOT NULL,
    event TEXT COLLATE "C" NOT NULL,
    project TEXT COLLATE "C",
    resource TEXT COLLATE "C" NOT NULL,
    before TEXT COLLATE "C",
    after TEXT COLLATE "C"
);
CREATE INDEX audit_at ON audit (at_ms);
CREATE INDEX audit_actor ON audit (actor);
CREATE INDEX audit_resource ON audit (resource);

-- What upstream keeps, and which project each belongs to. The tokens of a context are those of its rendering; `memory` is
-- the largest of its containers, with `≤` before it where the index may not know each of them.
CREATE TABLE object (
    kind TEXT COLLATE "C" NOT NULL,
    id TEXT COLLATE "C" NOT NULL,
    project TEXT COLLATE "C" NOT NULL,
    api_key TEXT COLLATE "C" NOT NULL,
    context_tokens BIGINT,
    memory TEXT COLLATE "C",
    idle_s BIGINT NOT NULL,
    created_s BIGINT NOT NULL,
    used_s BIGINT NOT NULL,
    expires_s BIGINT,
    rendering TEXT COLLATE "C",
    pictures BIGINT,
    PRIMARY KEY (kind, id)
);
CREATE INDEX object_expires ON object (expires_s) WHERE expires_s IS NOT NULL;

-- The items of stored answers, by a number made of their period and id (see `store::sql::objects`).
CREATE TABLE object_item (
    id BIGINT PRIMARY KEY,
    project TEXT COLLATE "C" NOT NULL,
    context_tokens BIGINT,
    rendering TEXT COLLATE "C",
    pictures BIGINT,
    memory TEXT COLLATE "C" NOT NULL DEFAULT ''
);
