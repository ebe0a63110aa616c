-- The storage knows itself: whoever served this database recognizes it, and an empty one.
CREATE TABLE trialfleet_storage (
    identity uuid NOT NULL DEFAULT gen_random_uuid(),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO trialfleet_storage DEFAULT VALUES;

-- Which steps were applied. "oldest" is the oldest version whose proxies may go on meanwhile.
CREATE TABLE trialfleet_migrations (
    version int PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
ALTER TABLE trialfleet_schema ADD COLUMN oldest int NOT NULL DEFAULT 6;

-- What makes two studies the same (objectives, objective, search space), as a digest: null for a
-- study that never said. "owner" is the uid of the Kubernetes object that the study belongs to.
ALTER TABLE trialfleet_studies ADD COLUMN definition text, ADD COLUMN owner text;

-- Sessions that ended long ago are purged.
CREATE INDEX trialfleet_sessions_ended ON trialfleet_sessions (ended_at)
    WHERE ended_at IS NOT NULL;

-- Which of its session's writes ended a trial. A write that is sent again is recognized by its
-- number: that the trial has the state which it asks for does not prove that it was applied.
ALTER TABLE trialfleet_runs ADD COLUMN ended bigint;
