-- The newest failed trials of a study, of which a summary tells why they failed.
CREATE INDEX trialfleet_trials_failed ON trials (study_id, trial_id) WHERE state = 'FAIL';

-- Whether a worker ever had a session: its end means another thing if it had none.
CREATE INDEX trialfleet_sessions_names ON trialfleet_sessions (worker);
