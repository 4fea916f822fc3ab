-- What decides the cost of a job's outcome; when its outcome is to be asked for, in Unix milliseconds, and how often it was. A guard
-- that asks puts that time off first, so that no other asks meanwhile.
ALTER TABLE job ADD COLUMN terms TEXT COLLATE "C" NOT NULL DEFAULT '{}';
ALTER TABLE job ADD COLUMN poll_ms BIGINT NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN polls BIGINT NOT NULL DEFAULT 0;
CREATE INDEX job_due ON job (poll_ms);
