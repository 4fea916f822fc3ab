-- A guard draws its epoch itself.
ALTER TABLE node ALTER COLUMN epoch DROP IDENTITY;

-- The buckets of rates: all tokens or requests that were ever taken, and all that came back, in parts of one; and when
-- that was, by the database's clock. A bucket without a row is full.
CREATE TABLE rate (
    limit_name TEXT COLLATE "C" NOT NULL,
    subject TEXT COLLATE "C" NOT NULL,
    taken NUMERIC(39) NOT NULL,
    gone NUMERIC(39) NOT NULL,
    at_ms BIGINT NOT NULL,
    PRIMARY KEY (limit_name, subject)
) WITH (fillfactor = 50);
