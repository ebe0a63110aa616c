-- Trials that a study took over from others before its first one, complete and pruned; null: it has
-- not been asked to. They are counted as others are, and what reads the counts takes them off.
ALTER TABLE trialfleet_studies ADD COLUMN taken bigint[];
