-- The owner for whom tokens that bear no owner open the study too: who had the study when such
-- tokens were given out. Another owner, a study made anew, is not opened by them.
ALTER TABLE trialfleet_studies ADD COLUMN bare_tokens_owner text;
UPDATE trialfleet_studies SET bare_tokens_owner = owner WHERE owner IS NOT NULL;
