-- What a scan has found in a file whose lines can make a batch.
ALTER TABLE object ADD COLUMN batch_input TEXT COLLATE "C";
