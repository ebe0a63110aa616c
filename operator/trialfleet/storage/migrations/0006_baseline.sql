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

-- Applies a batch of plain writes in one statement: storage/plain.py says which are plain.
--
-- "told" is false, and nothing but locks was taken, if a write to a trial is not plain: its trial
-- does not run, is another session's, or has a newer write. "opened" is null if an opening is not
-- plain: a session has ended or the write was applied before, or the study has waiting trials, a
-- goal, or has ended by anything but its number of trials. Who calls goes on with those, one by one.
-- An opening that the number of trials refuses has in place of a trial's id a 0 if one that runs may
-- yet be lost and come back, and a -1 if none may.
--
-- Locks are taken as everywhere: sessions, studies, trials, counts. What the trials gained is
-- written before a trial is opened: an end that comes of it is seen.
--
-- Counts and front are brought up to date at the end, once for all: the triggers keep out. (The
-- setting that tells them can't stand with the others: that would take a superuser.)
--
-- Transactions that open trials of one study come one after the other, and while one waits more
-- writes come to its proxy, which it can't take any more. So who finds another at work ("busy": then
-- nothing was done) takes its turn first, in the order in which all came, and only then makes its
-- batch of what has come meanwhile. A turn is for the rest of the transaction in which it was taken;
-- a proxy that makes no use of it, because it hangs, loses its connection.
CREATE FUNCTION trialfleet_take_turn(turns int[]) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    study int;
    waited boolean := false;
BEGIN
    FOREACH study IN ARRAY turns LOOP
        IF NOT pg_try_advisory_xact_lock(hashtext('trialfleet_turn'), study) THEN
            waited := true;
            PERFORM pg_advisory_xact_lock(hashtext('trialfleet_turn'), study);
        END IF;
    END LOOP;
    PERFORM set_config('idle_in_transaction_session_timeout', '5s', true);
    RETURN waited;
END
$$;

-- A plan is made once for a connection, when the tables may still be empty: every table is reached
-- by an index, row by row, and a study's last number by going back from the index's end.
CREATE FUNCTION trialfleet_apply(
    ids int[], sessions bytea[], sequences bigint[], states text[],
    param_ids int[], param_names text[], param_values float8[], param_texts text[],
    user_ids int[], user_keys text[], user_texts text[],
    system_ids int[], system_keys text[], system_texts text[],
    step_ids int[], steps int[], step_values float8[], step_types text[],
    value_ids int[], objectives int[], trial_values float8[], value_types text[],
    open_studies int[], open_sessions bytea[], open_sequences bigint[],
    OUT busy boolean, OUT told boolean, OUT opened int[], OUT numbers int[], OUT moment timestamp
) LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
#variable_conflict use_column
DECLARE
    sequence_of_ids CONSTANT regclass := pg_get_serial_sequence('trials', 'trial_id');
    applying text;
    study int;
    live_sessions int;
    renewing boolean;
    unstarted boolean;
    openable boolean := true;
    last int;
    following int;
    numbered int[] := '{}';
    next_numbers int[] := '{}';
    room int;
    rooms int[] := '{}';
    refusal int;
    refusals int[] := '{}';
    added int := 0;
    ended int[] := '{}';
    ended_studies int[] := '{}';
    ended_states trialstate[] := '{}';
    counted boolean;
    mine int;
    better int[];
BEGIN
    -- Loops over simple expressions, here and below, cost a tenth of a query.
    busy := false;
    FOREACH study IN ARRAY open_studies LOOP
        busy := busy OR NOT pg_try_advisory_xact_lock(hashtext('trialfleet_turn'), study);
    END LOOP;
    IF busy THEN
        RETURN;
    END IF;
    told := true;
    moment := clock_timestamp() AT TIME ZONE 'UTC';
    IF cardinality(open_studies) > 0 THEN
        SELECT count(*), coalesce(bool_or(aging), false) INTO live_sessions, renewing FROM (
            SELECT s.expires_at < clock_timestamp() + make_interval(secs => s.time_to_live_s * 0.875)
                AS aging
            FROM trialfleet_sessions s
            WHERE s.session_id = ANY (open_sessions) AND s.ended_at IS NULL
            ORDER BY s.session_id FOR KEY SHARE) AS alive;
        IF renewing THEN
            PERFORM trialfleet_renew(open_sessions);
        END IF;
        PERFORM FROM studies s WHERE s.study_id = ANY (open_studies)
            ORDER BY s.study_id FOR NO KEY UPDATE;
    END IF;

    IF cardinality(ids) > 0 THEN
        told := cardinality(ids) = (SELECT count(*) FROM (
            SELECT FROM trials t WHERE t.trial_id = ANY (ids) AND t.state = 'RUNNING'
            ORDER BY t.trial_id FOR NO KEY UPDATE) AS running);
        -- A statement of its own, for it has to see what was committed while the lock was awaited.
        told := told AND cardinality(ids) = (SELECT count(*)
            FROM unnest(ids, sessions, sequences, states) AS u (trial_id, session_id, sequence, state)
            CROSS JOIN LATERAL (
                SELECT FROM trialfleet_runs r
                WHERE r.trial_id = u.trial_id AND r.session_id = u.session_id AND NOT r.taken_away
                AND u.sequence > CASE WHEN u.state IS NULL THEN r.sequence ELSE r.opened END
                OFFSET 0) AS own);
        IF NOT told THEN
            RETURN;
        END IF;
        applying := set_config('trialfleet.applying', 'on', true);
        IF cardinality(param_ids) > 0 THEN
            INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)
            SELECT * FROM unnest(param_ids, param_names, param_values, param_texts)
            ON CONFLICT (trial_id, param_name) DO UPDATE SET param_value = excluded.param_value,
                distribution_json = excluded.distribution_json;
        END IF;
        IF cardinality(user_ids) > 0 THEN
            INSERT INTO trial_user_attributes (trial_id, key, value_json)
            SELECT * FROM unnest(user_ids, user_keys, user_texts)
            ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json;
        END IF;
        IF cardinality(system_ids) > 0 THEN
            INSERT INTO trial_system_attributes (trial_id, key, value_json)
            SELECT * FROM unnest(system_ids, system_keys, system_texts)
            ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json;
        END IF;
        IF cardinality(step_ids) > 0 THEN
            INSERT INTO trial_intermediate_values
                (trial_id, step, intermediate_value, intermediate_value_type)
            SELECT * FROM unnest(step_ids, steps, step_values,
                step_types::trialintermediatevaluetype[])
            ON CONFLICT (trial_id, step) DO UPDATE
            SET intermediate_value = excluded.intermediate_value,
                intermediate_value_type = excluded.intermediate_value_type;
        END IF;
        IF cardinality(value_ids) > 0 THEN
            INSERT INTO trial_values (trial_id, objective, value, value_type)
            SELECT * FROM unnest(value_ids, objectives, trial_values, value_types::trialvaluetype[])
            ON CONFLICT (trial_id, objective) DO UPDATE
            SET value = excluded.value, value_type = excluded.value_type;
        END IF;
        IF array_position(states, NULL) IS NOT NULL THEN
            UPDATE trialfleet_runs r SET sequence = sequences[array_position(ids, r.trial_id)]
            WHERE r.trial_id = ANY (ids) AND states[array_position(ids, r.trial_id)] IS NULL;
        END IF;
        WITH changed AS (
            UPDATE trials t SET datetime_complete = clock_timestamp() AT TIME ZONE 'UTC',
                state = states[array_position(ids, t.trial_id)]::trialstate
            WHERE t.trial_id = ANY (ids) AND states[array_position(ids, t.trial_id)] IS NOT NULL
            RETURNING t.trial_id, t.study_id, t.state
        )
        SELECT coalesce(array_agg(trial_id), '{}'), coalesce(array_agg(study_id), '{}'),
            coalesce(array_agg(state), '{}') INTO ended, ended_studies, ended_states FROM changed;
    END IF;

    IF cardinality(open_studies) > 0 AND NOT EXISTS (
        SELECT FROM unnest(open_sessions, open_sequences) AS u (session_id, opened)
        WHERE EXISTS (SELECT FROM trialfleet_runs r
                WHERE r.session_id = u.session_id AND r.opened = u.opened OFFSET 0)
            OR EXISTS (SELECT FROM trialfleet_returns b
                WHERE b.session_id = u.session_id AND b.opened = u.opened OFFSET 0))
    THEN
        opened := '{}';
        numbers := '{}';
        IF live_sessions < cardinality(open_sessions) THEN
            openable := live_sessions = (SELECT count(DISTINCT s) FROM unnest(open_sessions) AS s);
        END IF;
        FOREACH study IN ARRAY open_studies LOOP
            last := array_position(numbered, study);
            IF last IS NULL THEN
                -- Its next number, and how many trials it may have yet.
                SELECT coalesce((SELECT l.number + 1 FROM trials l
                    WHERE l.study_id = study AND l.number IS NOT NULL
                    ORDER BY l.number DESC LIMIT 1), 0), d.started_at IS NULL,
                    coalesce(d.max_trials - c.used, 2147483647), CASE WHEN c.used - c.running
                        + cardinality(array_positions(ended_studies, study)) < d.max_trials
                        THEN 0 ELSE -1 END
                INTO following, unstarted, room, refusal
                FROM trialfleet_studies d
                CROSS JOIN LATERAL (
                    SELECT coalesce(sum(complete + pruned + failed + running), 0) AS used,
                        coalesce(sum(failed), 0) AS failed, coalesce(sum(running), 0) AS running,
                        coalesce(sum(waiting), 0) AS waiting
                    FROM trialfleet_counts c WHERE c.study_id = d.study_id) AS c
                WHERE d.study_id = study AND NOT d.stopped AND d.goals = '[]' AND c.waiting = 0
                    AND (d.timeout_s IS NULL OR d.started_at IS NULL OR clock_timestamp()
                        < d.started_at + make_interval(secs => d.timeout_s))
                    AND (d.max_failed IS NULL OR d.max_failed > c.failed
                        + (SELECT count(*) FROM unnest(ended_studies, ended_states) AS e (id, state)
                            WHERE e.id = study AND e.state = 'FAIL'));
                openable := openable AND following IS NOT NULL;
                IF openable AND unstarted AND room > 0 THEN
                    UPDATE trialfleet_studies d SET started_at = clock_timestamp()
                    WHERE d.study_id = study;
                END IF;
                numbered := numbered || study;
                last := cardinality(numbered);
                next_numbers := next_numbers || following;
                rooms := rooms || room;
                refusals := refusals || refusal;
            END IF;
            EXIT WHEN NOT openable;
            IF rooms[last] > 0 THEN
                -- Numbers follow the order of ids: Optuna numbers a trial by counting those with a
                -- lower id.
                opened := opened || nextval(sequence_of_ids)::int;
                numbers := numbers || next_numbers[last];
                next_numbers[last] := next_numbers[last] + 1;
                rooms[last] := rooms[last] - 1;
                added := added + 1;
            ELSE
                opened := opened || refusals[last];
                numbers := numbers || NULL::int;
            END IF;
        END LOOP;
    END IF;
    IF NOT openable THEN
        opened := NULL;
        numbers := NULL;
        added := 0;
    END IF;
    IF added > 0 THEN
        applying := set_config('trialfleet.applying', 'on', true);
        INSERT INTO trials (trial_id, study_id, number, state, datetime_start)
        SELECT trial_id, study_id, number, 'RUNNING', moment
        FROM unnest(opened, open_studies, numbers) AS u (trial_id, study_id, number)
        WHERE trial_id > 0;
        INSERT INTO trialfleet_runs (trial_id, session_id, opened, sequence)
        SELECT trial_id, session_id, opening, opening
        FROM unnest(opened, open_sessions, open_sequences) AS u (trial_id, session_id, opening)
        WHERE trial_id > 0;
    END IF;

    applying := set_config('trialfleet.applying', 'off', true);
    IF cardinality(ended) = 0 AND added = 0 THEN
        RETURN;
    END IF;
    -- Most batches are of one study. For them both cost a third of what they cost in general.
    study := coalesce(ended_studies[1], open_studies[1]);
    better := ended;
    IF ended_studies <@ ARRAY[study] AND open_studies <@ ARRAY[study] THEN
        mine := trialfleet_shard();
        UPDATE trialfleet_counts c SET
            complete = c.complete + cardinality(array_positions(ended_states, 'COMPLETE')),
            pruned = c.pruned + cardinality(array_positions(ended_states, 'PRUNED')),
            failed = c.failed + cardinality(array_positions(ended_states, 'FAIL')),
            running = c.running + added - cardinality(ended)
        WHERE c.study_id = study AND c.shard = mine RETURNING true INTO counted;
        IF cardinality(value_ids) > 0 THEN
            SELECT coalesce(array_agg(DISTINCT v.trial_id), '{}') INTO better
            FROM unnest(value_ids, trial_values) AS v (trial_id, value)
            LEFT JOIN LATERAL (
                SELECT b.costs[1] AS cost, d.direction FROM trialfleet_best b
                CROSS JOIN LATERAL (SELECT s.direction FROM study_directions s
                    WHERE s.study_id = b.study_id OFFSET 0) AS d
                WHERE b.study_id = study AND cardinality(b.costs) = 1 LIMIT 1) AS best ON true
            WHERE best.cost IS NULL OR v.value IS NULL
                OR CASE best.direction WHEN 'MAXIMIZE' THEN -v.value ELSE v.value END < best.cost;
        END IF;
    END IF;
    IF counted IS NULL THEN
        PERFORM trialfleet_add_counts(array_agg(trial_id), array_agg(study_id), array_agg(state),
            array_agg(sign))
        FROM (
            SELECT *, 1 FROM unnest(ended, ended_studies, ended_states)
            UNION ALL SELECT *, 'RUNNING', -1 FROM unnest(ended, ended_studies)
            UNION ALL SELECT *, 'RUNNING', 1 FROM unnest(opened, open_studies) AS o (trial_id, study_id)
                WHERE trial_id > 0
        ) AS change (trial_id, study_id, state, sign);
    END IF;
    IF 'COMPLETE' = ANY (ended_states) AND cardinality(better) > 0 THEN
        PERFORM trialfleet_rank(better);
    END IF;
END
$$;

-- Reads of trials, as functions: to plan such a query takes three times as long as to run it, and a
-- function's plan is kept. It may have been made when the tables were still empty: every table is
-- reached by an index. Each sees one state, that of the statement which calls it.

-- Trials and all that belongs to them: kind, trial, place in the order, name, number, text, and of
-- the trial itself two moments. With "bare" those that have not finished come without their parts.
CREATE FUNCTION trialfleet_trials(ids int[], bare boolean) RETURNS TABLE (
    kind text, id int, place int, name text, value float8, content text,
    started timestamp, completed timestamp
) LANGUAGE plpgsql STABLE
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH found AS MATERIALIZED (
        SELECT t.* FROM trials t WHERE t.trial_id = ANY (ids)
    ), whole AS MATERIALIZED (
        SELECT ARRAY(SELECT trial_id FROM found
            WHERE NOT bare OR state NOT IN ('RUNNING', 'WAITING')) AS ids
    )
    SELECT 't', trial_id, number, state::text, NULL::float8, NULL, datetime_start, datetime_complete
    FROM found
    UNION ALL
    SELECT 'p', trial_id, param_id, param_name::text, param_value, distribution_json, NULL, NULL
    FROM trial_params WHERE trial_id = ANY ((SELECT ids FROM whole)::int[])
    UNION ALL
    SELECT 'v', trial_id, objective, NULL, value, value_type::text, NULL, NULL
    FROM trial_values WHERE trial_id = ANY ((SELECT ids FROM whole)::int[])
    UNION ALL
    SELECT 'u', trial_id, trial_user_attribute_id, key::text, NULL, value_json, NULL, NULL
    FROM trial_user_attributes WHERE trial_id = ANY ((SELECT ids FROM whole)::int[])
    UNION ALL
    SELECT 's', trial_id, trial_system_attribute_id, key::text, NULL, value_json, NULL, NULL
    FROM trial_system_attributes WHERE trial_id = ANY ((SELECT ids FROM whole)::int[])
    UNION ALL
    SELECT 'i', trial_id, step, NULL, intermediate_value, intermediate_value_type::text, NULL, NULL
    FROM trial_intermediate_values WHERE trial_id = ANY ((SELECT ids FROM whole)::int[])
    ORDER BY 3;
END
$$;

-- The same for a study's trials with an id over "after" or among "included", at most so many, those
-- with the lowest ids. Trials are numbered in the order of their ids, so the number, which has an
-- index together with the study, stands for the id.
CREATE FUNCTION trialfleet_trials_since(
    study int, after int, included int[], most int, bare boolean
) RETURNS TABLE (
    kind text, id int, place int, name text, value float8, content text,
    started timestamp, completed timestamp
) LANGUAGE plpgsql STABLE
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
#variable_conflict use_column
DECLARE
    seen int := coalesce((SELECT t.number FROM trials t
        WHERE t.trial_id = after AND t.study_id = study), -1);
BEGIN
    RETURN QUERY SELECT * FROM trialfleet_trials(ARRAY(
        SELECT trial_id FROM (
            (SELECT t.trial_id FROM trials t
                WHERE t.study_id = study AND t.number > seen AND t.trial_id > after
                ORDER BY t.number LIMIT most)
            UNION
            SELECT t.trial_id FROM trials t WHERE t.trial_id = ANY (included) AND t.study_id = study
        ) AS wanted ORDER BY trial_id LIMIT most), bare);
END
$$;
