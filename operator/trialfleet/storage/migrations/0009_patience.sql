-- Trials in a row that improve nothing, after which a study ends; null: that ends none.
ALTER TABLE trialfleet_studies ADD COLUMN patience integer;
