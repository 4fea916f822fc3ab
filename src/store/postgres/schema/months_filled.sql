-- Its months are made.
INSERT INTO entry SELECT * FROM entry_whole;
DROP TABLE entry_whole;
-- Made of what is there already, which is faster. All endings of a hold have the time of its admission, so that the key
-- lets in one of them.
ALTER TABLE entry ADD PRIMARY KEY (id, admitted_ms);
CREATE INDEX entry_admitted ON entry (admitted_ms);
-- The corrections of an entry, to be summed up before another is made.
CREATE INDEX entry_corrects ON entry (corrects) WHERE corrects IS NOT NULL;
