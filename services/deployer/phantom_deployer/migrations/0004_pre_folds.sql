-- Windows that do not change any more are merged by the hour: how long one is, and up to where an endpoint's are merged.
ALTER TABLE evidence_windows ADD COLUMN length_s integer NOT NULL DEFAULT 5;
ALTER TABLE evidence_closed ADD COLUMN folded_until timestamptz;
