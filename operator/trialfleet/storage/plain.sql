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
