-- Turns on a conversation, of all guards: how many have ever begun or ended, and those that are open, as a JSON object of
-- their numbers and the times at which they began, in Unix milliseconds.
ALTER TABLE object ADD COLUMN changes BIGINT NOT NULL DEFAULT 0;
ALTER TABLE object ADD COLUMN open_turns TEXT COLLATE "C" NOT NULL DEFAULT '{}';
