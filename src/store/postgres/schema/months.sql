-- From here on, entries are in a partition for each month (see `months`). What there was is kept aside meanwhile.
ALTER TABLE entry RENAME TO entry_whole;
ALTER INDEX entry_pkey RENAME TO entry_whole_pkey;
ALTER INDEX entry_admitted RENAME TO entry_whole_admitted;
ALTER INDEX entry_corrects RENAME TO entry_whole_corrects;
CREATE TABLE entry (LIKE entry_whole) PARTITION BY RANGE (admitted_ms);
-- For a month that has no partition.
CREATE TABLE entry_default PARTITION OF entry DEFAULT;
