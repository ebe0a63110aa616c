-- Trialfleet's own part of the database, beside Optuna's tables.
--
-- Everything is prefixed trialfleet_. Nothing of Optuna's is changed but for two indexes and
-- the triggers on "trials" and one on "trial_params". The triggers keep counts, best trials and
-- parameters whoever writes: our proxies, a stock RDBStorage, or a person with psql.

CREATE TABLE trialfleet_schema (version int NOT NULL);

-- What ends a study, and what becomes of its lost trials. A study that only stock Optuna
-- knows has no row: no budget, no retries.
CREATE TABLE trialfleet_studies (
    study_id int PRIMARY KEY REFERENCES studies ON DELETE CASCADE,
    max_trials int,
    max_failed int,
    timeout_s float8,
    goals jsonb NOT NULL DEFAULT '[]',
    retries int NOT NULL DEFAULT 0,
    enqueued boolean NOT NULL DEFAULT false,
    sessions_opened int NOT NULL DEFAULT 0,
    started_at timestamptz,
    stopped boolean NOT NULL DEFAULT false
);

CREATE TABLE trialfleet_sessions (
    session_id bytea PRIMARY KEY,
    worker text NOT NULL,
    study_id int, -- outlives the study: its sessions may still close, and repeat their writes
    ordinal int NOT NULL,
    time_to_live_s float8 NOT NULL,
    expires_at timestamptz NOT NULL,
    ended_at timestamptz,
    -- Whether it runs its trials one after the other, in the order of their openings.
    sequential boolean NOT NULL,
    -- The last write of the session that is no write to one of its own trials, and its answer:
    -- a write that is sent again gets the answer of the first.
    sequence bigint NOT NULL DEFAULT 0,
    answer bigint
) WITH (fillfactor = 50);
CREATE INDEX trialfleet_sessions_worker ON trialfleet_sessions (worker) WHERE ended_at IS NULL;
CREATE INDEX trialfleet_sessions_study ON trialfleet_sessions (study_id) WHERE ended_at IS NULL;

-- A session that opens trials lives, and need not say so besides: its life begins anew when an eighth
-- of it is over. One that is locked is kept alive, or given up, by somebody else.
CREATE FUNCTION trialfleet_renew(sessions bytea[]) RETURNS void LANGUAGE sql AS $$
    UPDATE trialfleet_sessions s
    SET expires_at = clock_timestamp() + make_interval(secs => s.time_to_live_s)
    FROM (
        SELECT a.session_id FROM trialfleet_sessions a
        WHERE a.session_id = ANY (sessions) AND a.ended_at IS NULL AND a.expires_at
            < clock_timestamp() + make_interval(secs => a.time_to_live_s * 0.875)
        FOR NO KEY UPDATE SKIP LOCKED) AS aging
    WHERE s.session_id = aging.session_id
$$;

-- Which session runs, or ran, a trial.
CREATE TABLE trialfleet_runs (
    trial_id int PRIMARY KEY REFERENCES trials ON DELETE CASCADE,
    session_id bytea NOT NULL,
    opened bigint NOT NULL,    -- sequence number of the write that opened it
    sequence bigint NOT NULL,  -- of the last report, or of the opening
    taken_away boolean NOT NULL DEFAULT false,
    lost boolean NOT NULL DEFAULT false,
    UNIQUE (session_id, opened)
);

-- Runs that were handed back, each with the write that did it: what its worker sends again is
-- recognized although another runs the trial by then.
CREATE TABLE trialfleet_returns (
    session_id bytea,
    opened bigint,
    trial_id int NOT NULL REFERENCES trials ON DELETE CASCADE,
    sequence bigint NOT NULL,
    PRIMARY KEY (session_id, opened)
);
CREATE INDEX trialfleet_returns_trial ON trialfleet_returns (trial_id);

-- The first distribution of each parameter: the one that later ones must be compatible with.
CREATE TABLE trialfleet_params (
    study_id int REFERENCES studies ON DELETE CASCADE,
    param_name varchar(512),
    distribution_json text NOT NULL,
    PRIMARY KEY (study_id, param_name)
);

-- How many trials are in each state, spread over rows so that concurrent transactions don't
-- wait for each other: the sum over a study's rows is the count.
CREATE TABLE trialfleet_counts (
    study_id int REFERENCES studies ON DELETE CASCADE,
    shard smallint,
    complete bigint NOT NULL,
    pruned bigint NOT NULL,
    failed bigint NOT NULL,
    running bigint NOT NULL,
    waiting bigint NOT NULL,
    lost bigint NOT NULL,
    PRIMARY KEY (study_id, shard)
) WITH (fillfactor = 10);

CREATE TABLE trialfleet_lost (
    study_id int REFERENCES studies ON DELETE CASCADE,
    reason text,
    trials int NOT NULL,
    PRIMARY KEY (study_id, reason)
);

-- The Pareto front of the feasible complete trials; with one objective, the best trial.
-- "costs" are the values with the sign turned for what is maximized: smaller is better.
CREATE TABLE trialfleet_best (
    study_id int NOT NULL REFERENCES studies ON DELETE CASCADE,
    trial_id int PRIMARY KEY REFERENCES trials ON DELETE CASCADE,
    costs float8[] NOT NULL
);
CREATE INDEX trialfleet_best_study ON trialfleet_best (study_id, costs, trial_id);

CREATE INDEX trialfleet_trials_number ON trials (study_id, number);
CREATE INDEX trialfleet_trials_unfinished ON trials (study_id, state, trial_id)
    WHERE state IN ('RUNNING', 'WAITING');

-- Whether trial A makes B superfluous in the front. Of equal trials the front keeps all if
-- there are several objectives, as Optuna's does, and the first if there is one. Simple enough
-- for PostgreSQL to put it in place of each call: it is asked of every trial of a front.
CREATE FUNCTION trialfleet_all_at_most(a float8[], b float8[]) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT bool_and(x <= y) FROM unnest(a, b) AS pair (x, y)
$$;
CREATE FUNCTION trialfleet_dominates(a float8[], b float8[]) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE cardinality(a)
        WHEN 1 THEN a[1] <= b[1]
        WHEN 2 THEN a[1] <= b[1] AND a[2] <= b[2] AND a <> b
        WHEN 3 THEN a[1] <= b[1] AND a[2] <= b[2] AND a[3] <= b[3] AND a <> b
        ELSE a <> b AND trialfleet_all_at_most(a, b) END
$$;

-- Takes complete trials into the front. A trial with a violated constraint never enters, nor
-- does one that still lacks a value. What is no number among the constraints violates nothing:
-- Optuna stores null for a constraints_func that raised.
-- What dominates a trial comes before it in the order of the index on the costs.
-- A plan is made once for a connection, when the tables may still be empty: who calls this sees to
-- it that each is reached by an index, row by row.
CREATE FUNCTION trialfleet_rank(ids int[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    candidate record;
BEGIN
    FOR candidate IN
        SELECT c.study_id, c.trial_id, c.costs
        FROM unnest(ids) AS u (trial_id)
        CROSS JOIN LATERAL (
            SELECT t.study_id, t.trial_id, ARRAY(
                SELECT CASE v.value_type WHEN 'INF_POS' THEN 'Infinity'
                        WHEN 'INF_NEG' THEN '-Infinity' ELSE v.value END
                    * CASE d.direction WHEN 'MAXIMIZE' THEN -1 ELSE 1 END
                FROM study_directions d JOIN trial_values v USING (objective)
                WHERE d.study_id = t.study_id AND v.trial_id = t.trial_id
                ORDER BY objective) AS costs
            FROM trials t WHERE t.trial_id = u.trial_id AND t.state = 'COMPLETE' OFFSET 0) AS c
        WHERE NOT EXISTS (SELECT FROM trialfleet_best b
            WHERE b.study_id = c.study_id AND b.costs <= c.costs
            AND trialfleet_dominates(b.costs, c.costs) OFFSET 0)
        AND cardinality(c.costs) = (SELECT count(*) FROM study_directions d
            WHERE d.study_id = c.study_id)
        AND NOT EXISTS (
            SELECT FROM trial_system_attributes a,
                regexp_split_to_table(trim(BOTH '[] ' FROM a.value_json), ' *, *') AS s (text)
            WHERE a.trial_id = c.trial_id AND (a.key = 'constraints' OR a.key LIKE 'constraints:%')
            AND CASE WHEN s.text ~ '^(-?([0-9]+([.][0-9]+)?([eE][+-]?[0-9]+)?|Infinity)|NaN)$'
                THEN s.text::numeric > 0 ELSE false END OFFSET 0)
        ORDER BY c.study_id, c.trial_id
    LOOP
        -- Two that enter at once could each miss that the other is better.
        PERFORM pg_advisory_xact_lock(hashtext('trialfleet_best'), candidate.study_id);
        CONTINUE WHEN EXISTS (SELECT FROM trialfleet_best b
            WHERE b.study_id = candidate.study_id AND b.costs <= candidate.costs
            AND trialfleet_dominates(b.costs, candidate.costs));
        DELETE FROM trialfleet_best b
        WHERE b.study_id = candidate.study_id AND b.costs >= candidate.costs
        AND trialfleet_dominates(candidate.costs, b.costs);
        INSERT INTO trialfleet_best (study_id, trial_id, costs)
        VALUES (candidate.study_id, candidate.trial_id, candidate.costs)
        ON CONFLICT DO NOTHING;
    END LOOP;
END
$$;

-- The rows of the counts that this transaction writes to: such as no other one writes to now, so
-- that none waits for another, whatever the order in which they come to several studies. Only
-- when more are under way than there are rows of a study do two share one.
CREATE FUNCTION trialfleet_shard() RETURNS int LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN 0..15 LOOP
        IF pg_try_advisory_xact_lock(
            hashtext('trialfleet_counts'), (pg_backend_pid() + n) % 16)
        THEN
            RETURN (pg_backend_pid() + n) % 16;
        END IF;
    END LOOP;
    RETURN pg_backend_pid() % 16;
END
$$;

CREATE FUNCTION trialfleet_add_counts(
    ids int[], studies int[], states trialstate[], signs int[]
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    mine int := trialfleet_shard();
BEGIN
    INSERT INTO trialfleet_counts AS c
        (study_id, shard, complete, pruned, failed, running, waiting, lost)
    SELECT study_id, mine,
        coalesce(sum(sign) FILTER (WHERE state = 'COMPLETE'), 0),
        coalesce(sum(sign) FILTER (WHERE state = 'PRUNED'), 0),
        coalesce(sum(sign) FILTER (WHERE state = 'FAIL' AND r.lost IS NOT TRUE), 0),
        coalesce(sum(sign) FILTER (WHERE state = 'RUNNING'), 0),
        coalesce(sum(sign) FILTER (WHERE state = 'WAITING'), 0),
        coalesce(sum(sign) FILTER (WHERE state = 'FAIL' AND r.lost), 0)
    FROM unnest(ids, studies, states, signs) AS change (trial_id, study_id, state, sign)
    LEFT JOIN LATERAL (SELECT lost FROM trialfleet_runs r
        WHERE r.trial_id = change.trial_id OFFSET 0) AS r ON true
    GROUP BY study_id
    ORDER BY study_id
    ON CONFLICT (study_id, shard) DO UPDATE SET
        complete = c.complete + excluded.complete,
        pruned = c.pruned + excluded.pruned,
        failed = c.failed + excluded.failed,
        running = c.running + excluded.running,
        waiting = c.waiting + excluded.waiting,
        lost = c.lost + excluded.lost;
END
$$;

-- Keeps in mind which trials were completed, until the transaction ends.
CREATE FUNCTION trialfleet_note_completed(ids int[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF ids IS NOT NULL THEN
        PERFORM set_config('trialfleet.completed', concat_ws(',',
            nullif(current_setting('trialfleet.completed', true), ''),
            array_to_string(ids, ',')), true);
    END IF;
END
$$;

CREATE FUNCTION trialfleet_trials_inserted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM trialfleet_add_counts(
        array_agg(trial_id), array_agg(study_id), array_agg(state), array_agg(1))
    FROM inserted HAVING count(*) > 0;
    PERFORM trialfleet_note_completed(array_agg(trial_id))
    FROM inserted WHERE state = 'COMPLETE';
    RETURN NULL;
END
$$;

CREATE FUNCTION trialfleet_trials_updated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM trialfleet_add_counts(
        array_agg(trial_id), array_agg(study_id), array_agg(state), array_agg(sign))
    FROM (
        SELECT n.trial_id, n.study_id, n.state, 1
        FROM after n JOIN before o USING (trial_id) WHERE n.state <> o.state
        UNION ALL
        SELECT o.trial_id, o.study_id, o.state, -1
        FROM after n JOIN before o USING (trial_id) WHERE n.state <> o.state
    ) AS change (trial_id, study_id, state, sign) HAVING count(*) > 0;
    PERFORM trialfleet_note_completed(array_agg(n.trial_id))
    FROM after n JOIN before o USING (trial_id)
    WHERE n.state = 'COMPLETE' AND o.state <> 'COMPLETE';
    RETURN NULL;
END
$$;

-- Ranks all of them when the first is due: so two transactions that complete trials of several
-- studies come to the studies in one order.
CREATE FUNCTION trialfleet_trial_completed() RETURNS trigger LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    ids int[] := string_to_array(
        nullif(current_setting('trialfleet.completed', true), ''), ',')::int[];
BEGIN
    IF ids IS NOT NULL THEN
        PERFORM set_config('trialfleet.completed', '', true);
        PERFORM trialfleet_rank(ids);
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION trialfleet_params_inserted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO trialfleet_params (study_id, param_name, distribution_json)
    SELECT DISTINCT ON (t.study_id, i.param_name)
        t.study_id, i.param_name, i.distribution_json
    FROM inserted i
    CROSS JOIN LATERAL (SELECT study_id FROM trials WHERE trial_id = i.trial_id OFFSET 0) AS t
    WHERE NOT EXISTS (SELECT FROM trialfleet_params p
        WHERE p.study_id = t.study_id AND p.param_name = i.param_name OFFSET 0)
    ORDER BY t.study_id, i.param_name, i.param_id
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;

-- trialfleet_apply counts and ranks what it writes by itself.
CREATE TRIGGER trialfleet_inserted AFTER INSERT ON trials
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT
    WHEN (current_setting('trialfleet.applying', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION trialfleet_trials_inserted();
CREATE TRIGGER trialfleet_updated AFTER UPDATE ON trials
    REFERENCING OLD TABLE AS before NEW TABLE AS after FOR EACH STATEMENT
    WHEN (current_setting('trialfleet.applying', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION trialfleet_trials_updated();

-- At the end of the transaction: stock Optuna writes a trial's state before its values.
CREATE CONSTRAINT TRIGGER trialfleet_completed AFTER INSERT OR UPDATE ON trials
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.state = 'COMPLETE'
        AND current_setting('trialfleet.applying', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION trialfleet_trial_completed();

-- For writers that don't look after the names themselves, as our proxies do.
CREATE TRIGGER trialfleet_params_inserted AFTER INSERT ON trial_params
    REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT
    WHEN (current_setting('trialfleet.claims', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION trialfleet_params_inserted();

-- Trials that stock Optuna wrote before.
INSERT INTO trialfleet_counts
    (study_id, shard, complete, pruned, failed, running, waiting, lost)
SELECT study_id, 0,
    count(*) FILTER (WHERE state = 'COMPLETE'), count(*) FILTER (WHERE state = 'PRUNED'),
    count(*) FILTER (WHERE state = 'FAIL'), count(*) FILTER (WHERE state = 'RUNNING'),
    count(*) FILTER (WHERE state = 'WAITING'), 0
FROM trials GROUP BY study_id;
SELECT trialfleet_rank(array_agg(trial_id)) FROM trials WHERE state = 'COMPLETE';
INSERT INTO trialfleet_params (study_id, param_name, distribution_json)
SELECT f.study_id, f.param_name, p.distribution_json
FROM (SELECT t.study_id, o.param_name, min(o.param_id) AS param_id
    FROM trials t JOIN trial_params o USING (trial_id) GROUP BY t.study_id, o.param_name) AS f
JOIN trial_params p USING (param_id);
