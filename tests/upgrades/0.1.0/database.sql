
SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET transaction_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

CREATE TYPE public.studydirection AS ENUM (
    'NOT_SET',
    'MINIMIZE',
    'MAXIMIZE'
);

CREATE TYPE public.trialintermediatevaluetype AS ENUM (
    'FINITE',
    'INF_POS',
    'INF_NEG',
    'NAN'
);

CREATE TYPE public.trialstate AS ENUM (
    'RUNNING',
    'COMPLETE',
    'PRUNED',
    'FAIL',
    'WAITING'
);

CREATE TYPE public.trialvaluetype AS ENUM (
    'FINITE',
    'INF_POS',
    'INF_NEG'
);

CREATE FUNCTION public.trialfleet_add_counts(ids integer[], studies integer[], states public.trialstate[], signs integer[]) RETURNS void
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION public.trialfleet_all_at_most(a double precision[], b double precision[]) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT bool_and(x <= y) FROM unnest(a, b) AS pair (x, y)
$$;

CREATE FUNCTION public.trialfleet_apply(ids integer[], sessions bytea[], sequences bigint[], states text[], param_ids integer[], param_names text[], param_values double precision[], param_texts text[], user_ids integer[], user_keys text[], user_texts text[], system_ids integer[], system_keys text[], system_texts text[], step_ids integer[], steps integer[], step_values double precision[], step_types text[], value_ids integer[], objectives integer[], trial_values double precision[], value_types text[], open_studies integer[], open_sessions bytea[], open_sequences bigint[], OUT busy boolean, OUT told boolean, OUT opened integer[], OUT numbers integer[], OUT moment timestamp without time zone) RETURNS record
    LANGUAGE plpgsql
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_sort TO 'off'
    AS $$
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

CREATE FUNCTION public.trialfleet_dominates(a double precision[], b double precision[]) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$
    SELECT CASE cardinality(a)
        WHEN 1 THEN a[1] <= b[1]
        WHEN 2 THEN a[1] <= b[1] AND a[2] <= b[2] AND a <> b
        WHEN 3 THEN a[1] <= b[1] AND a[2] <= b[2] AND a[3] <= b[3] AND a <> b
        ELSE a <> b AND trialfleet_all_at_most(a, b) END
$$;

CREATE FUNCTION public.trialfleet_note_completed(ids integer[]) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    IF ids IS NOT NULL THEN
        PERFORM set_config('trialfleet.completed', concat_ws(',',
            nullif(current_setting('trialfleet.completed', true), ''),
            array_to_string(ids, ',')), true);
    END IF;
END
$$;

CREATE FUNCTION public.trialfleet_params_inserted() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION public.trialfleet_rank(ids integer[]) RETURNS void
    LANGUAGE plpgsql
    AS $_$
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
$_$;

CREATE FUNCTION public.trialfleet_renew(sessions bytea[]) RETURNS void
    LANGUAGE sql
    AS $$
    UPDATE trialfleet_sessions s
    SET expires_at = clock_timestamp() + make_interval(secs => s.time_to_live_s)
    FROM (
        SELECT a.session_id FROM trialfleet_sessions a
        WHERE a.session_id = ANY (sessions) AND a.ended_at IS NULL AND a.expires_at
            < clock_timestamp() + make_interval(secs => a.time_to_live_s * 0.875)
        FOR NO KEY UPDATE SKIP LOCKED) AS aging
    WHERE s.session_id = aging.session_id
$$;

CREATE FUNCTION public.trialfleet_shard() RETURNS integer
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION public.trialfleet_take_turn(turns integer[]) RETURNS boolean
    LANGUAGE plpgsql
    AS $$
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

CREATE FUNCTION public.trialfleet_trial_completed() RETURNS trigger
    LANGUAGE plpgsql
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
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

CREATE FUNCTION public.trialfleet_trials(ids integer[], bare boolean) RETURNS TABLE(kind text, id integer, place integer, name text, value double precision, content text, started timestamp without time zone, completed timestamp without time zone)
    LANGUAGE plpgsql STABLE
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS $$
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

CREATE FUNCTION public.trialfleet_trials_inserted() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    PERFORM trialfleet_add_counts(
        array_agg(trial_id), array_agg(study_id), array_agg(state), array_agg(1))
    FROM inserted HAVING count(*) > 0;
    PERFORM trialfleet_note_completed(array_agg(trial_id))
    FROM inserted WHERE state = 'COMPLETE';
    RETURN NULL;
END
$$;

CREATE FUNCTION public.trialfleet_trials_since(study integer, after integer, included integer[], most integer, bare boolean) RETURNS TABLE(kind text, id integer, place integer, name text, value double precision, content text, started timestamp without time zone, completed timestamp without time zone)
    LANGUAGE plpgsql STABLE
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_sort TO 'off'
    AS $$
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

CREATE FUNCTION public.trialfleet_trials_updated() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
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

SET default_tablespace = '';

CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);

CREATE TABLE public.studies (
    study_id integer NOT NULL,
    study_name character varying(512) NOT NULL
);

CREATE SEQUENCE public.studies_study_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE public.studies_study_id_seq OWNED BY public.studies.study_id;

CREATE TABLE public.study_directions (
    study_direction_id integer NOT NULL,
    direction public.studydirection NOT NULL,
    study_id integer NOT NULL,
    objective integer NOT NULL
);

CREATE SEQUENCE public.study_directions_study_direction_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE public.study_directions_study_direction_id_seq OWNED BY public.study_directions.study_direction_id;

CREATE TABLE public.study_system_attributes (
    study_system_attribute_id integer NOT NULL,
    study_id integer,
    key character varying(512),
    value_json text
);

CREATE SEQUENCE public.study_system_attributes_study_system_attribute_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE public.study_system_attributes_study_system_attribute_id_seq OWNED BY public.study_system_attributes.study_system_attribute_id;

CREATE TABLE public.study_user_attributes (
    study_user_attribute_id integer NOT NULL,
    study_id integer,
    key character varying(512),
    value_json text
);

CREATE SEQUENCE public.study_user_attributes_study_user_attribute_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE public.study_user_attributes_study_user_attribute_id_seq OWNED BY public.study_user_attributes.study_user_attribute_id;

CREATE TABLE public.trial_heartbeats (
    trial_heartbeat_id integer NOT NULL,
    trial_id integer NOT NULL,
    heartbeat timestamp without time zone NOT NULL
);

CREATE SEQUENCE public.trial_heartbeats_trial_heartbeat_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE public.trial_heartbeats_trial_heartbeat_id_seq OWNED BY public.trial_heartbeats.trial_heartbeat_id;

CREATE TABLE public.trial_intermediate_values (
    trial_intermediate_value_id integer NOT NULL,
    trial_id integer NOT NULL,
    step integer NOT NULL,
    intermediate_value double precision,
    intermediate_value_type public.trialintermediatevaluetype NOT NULL
);

CREATE SEQUENCE public.trial_intermediate_values_trial_intermediate_value_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE public.trial_intermediate_values_trial_intermediate_value_id_seq OWNED BY public.trial_intermediate_values.trial_intermediate_value_id;

CREATE TABLE public.trial_params (
    param_id integer NOT NULL,
    trial_id integer,
    param_name character varying(512),
    param_value double precision,
    distribution_json text
);

CREATE SEQUENCE public.trial_params_param_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE public.trial_params_param_id_seq OWNED BY public.trial_params.param_id;

CREATE TABLE public.trial_system_attributes (
    trial_system_attribute_id integer NOT NULL,
    trial_id integer,
    key character varying(512),
    value_json text
);

CREATE SEQUENCE public.trial_system_attributes_trial_system_attribute_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE public.trial_system_attributes_trial_system_attribute_id_seq OWNED BY public.trial_system_attributes.trial_system_attribute_id;

CREATE TABLE public.trial_user_attributes (
    trial_user_attribute_id integer NOT NULL,
    trial_id integer,
    key character varying(512),
    value_json text
);

CREATE SEQUENCE public.trial_user_attributes_trial_user_attribute_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE public.trial_user_attributes_trial_user_attribute_id_seq OWNED BY public.trial_user_attributes.trial_user_attribute_id;

CREATE TABLE public.trial_values (
    trial_value_id integer NOT NULL,
    trial_id integer NOT NULL,
    objective integer NOT NULL,
    value double precision,
    value_type public.trialvaluetype NOT NULL
);

CREATE SEQUENCE public.trial_values_trial_value_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE public.trial_values_trial_value_id_seq OWNED BY public.trial_values.trial_value_id;

CREATE TABLE public.trialfleet_best (
    study_id integer NOT NULL,
    trial_id integer NOT NULL,
    costs double precision[] NOT NULL
);

CREATE TABLE public.trialfleet_counts (
    study_id integer NOT NULL,
    shard smallint NOT NULL,
    complete bigint NOT NULL,
    pruned bigint NOT NULL,
    failed bigint NOT NULL,
    running bigint NOT NULL,
    waiting bigint NOT NULL,
    lost bigint NOT NULL
)
WITH (fillfactor='10');

CREATE TABLE public.trialfleet_lost (
    study_id integer NOT NULL,
    reason text NOT NULL,
    trials integer NOT NULL
);

CREATE TABLE public.trialfleet_params (
    study_id integer NOT NULL,
    param_name character varying(512) NOT NULL,
    distribution_json text NOT NULL
);

CREATE TABLE public.trialfleet_returns (
    session_id bytea NOT NULL,
    opened bigint NOT NULL,
    trial_id integer NOT NULL,
    sequence bigint NOT NULL
);

CREATE TABLE public.trialfleet_runs (
    trial_id integer NOT NULL,
    session_id bytea NOT NULL,
    opened bigint NOT NULL,
    sequence bigint NOT NULL,
    taken_away boolean DEFAULT false NOT NULL,
    lost boolean DEFAULT false NOT NULL
);

CREATE TABLE public.trialfleet_schema (
    version integer NOT NULL
);

CREATE TABLE public.trialfleet_sessions (
    session_id bytea NOT NULL,
    worker text NOT NULL,
    study_id integer,
    ordinal integer NOT NULL,
    time_to_live_s double precision NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    ended_at timestamp with time zone,
    sequential boolean NOT NULL,
    sequence bigint DEFAULT 0 NOT NULL,
    answer bigint
)
WITH (fillfactor='50');

CREATE TABLE public.trialfleet_studies (
    study_id integer NOT NULL,
    max_trials integer,
    max_failed integer,
    timeout_s double precision,
    goals jsonb DEFAULT '[]'::jsonb NOT NULL,
    retries integer DEFAULT 0 NOT NULL,
    enqueued boolean DEFAULT false NOT NULL,
    sessions_opened integer DEFAULT 0 NOT NULL,
    started_at timestamp with time zone,
    stopped boolean DEFAULT false NOT NULL
);

CREATE TABLE public.trials (
    trial_id integer NOT NULL,
    number integer,
    study_id integer,
    state public.trialstate NOT NULL,
    datetime_start timestamp without time zone,
    datetime_complete timestamp without time zone
);

CREATE SEQUENCE public.trials_trial_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;

ALTER SEQUENCE public.trials_trial_id_seq OWNED BY public.trials.trial_id;

CREATE TABLE public.version_info (
    version_info_id integer NOT NULL,
    schema_version integer,
    library_version character varying(256),
    CONSTRAINT version_info_version_info_id_check CHECK ((version_info_id = 1))
);

ALTER TABLE ONLY public.studies ALTER COLUMN study_id SET DEFAULT nextval('public.studies_study_id_seq'::regclass);

ALTER TABLE ONLY public.study_directions ALTER COLUMN study_direction_id SET DEFAULT nextval('public.study_directions_study_direction_id_seq'::regclass);

ALTER TABLE ONLY public.study_system_attributes ALTER COLUMN study_system_attribute_id SET DEFAULT nextval('public.study_system_attributes_study_system_attribute_id_seq'::regclass);

ALTER TABLE ONLY public.study_user_attributes ALTER COLUMN study_user_attribute_id SET DEFAULT nextval('public.study_user_attributes_study_user_attribute_id_seq'::regclass);

ALTER TABLE ONLY public.trial_heartbeats ALTER COLUMN trial_heartbeat_id SET DEFAULT nextval('public.trial_heartbeats_trial_heartbeat_id_seq'::regclass);

ALTER TABLE ONLY public.trial_intermediate_values ALTER COLUMN trial_intermediate_value_id SET DEFAULT nextval('public.trial_intermediate_values_trial_intermediate_value_id_seq'::regclass);

ALTER TABLE ONLY public.trial_params ALTER COLUMN param_id SET DEFAULT nextval('public.trial_params_param_id_seq'::regclass);

ALTER TABLE ONLY public.trial_system_attributes ALTER COLUMN trial_system_attribute_id SET DEFAULT nextval('public.trial_system_attributes_trial_system_attribute_id_seq'::regclass);

ALTER TABLE ONLY public.trial_user_attributes ALTER COLUMN trial_user_attribute_id SET DEFAULT nextval('public.trial_user_attributes_trial_user_attribute_id_seq'::regclass);

ALTER TABLE ONLY public.trial_values ALTER COLUMN trial_value_id SET DEFAULT nextval('public.trial_values_trial_value_id_seq'::regclass);

ALTER TABLE ONLY public.trials ALTER COLUMN trial_id SET DEFAULT nextval('public.trials_trial_id_seq'::regclass);

INSERT INTO public.alembic_version VALUES
	('v3.2.0.a');

INSERT INTO public.studies VALUES
	(1, 'running'),
	(2, 'ended'),
	(3, 'goal'),
	(4, 'stopped'),
	(5, 'failed'),
	(6, 'new'),
	(7, 'stock');

INSERT INTO public.study_directions VALUES
	(1, 'MINIMIZE', 1, 0),
	(2, 'MINIMIZE', 2, 0),
	(3, 'MAXIMIZE', 2, 1),
	(4, 'MAXIMIZE', 3, 0),
	(5, 'MINIMIZE', 4, 0),
	(6, 'MINIMIZE', 5, 0),
	(7, 'MINIMIZE', 6, 0),
	(8, 'MAXIMIZE', 7, 0);

INSERT INTO public.study_user_attributes VALUES
	(1, 7, 'who', '"stock"');

INSERT INTO public.trial_intermediate_values VALUES
	(1, 1, 0, 1, 'FINITE'),
	(2, 1, 1, NULL, 'NAN'),
	(3, 1, 2, NULL, 'INF_POS'),
	(4, 2, 0, 1, 'FINITE'),
	(5, 2, 1, NULL, 'NAN'),
	(6, 2, 2, NULL, 'INF_POS'),
	(7, 3, 0, 1, 'FINITE'),
	(8, 3, 1, NULL, 'NAN'),
	(9, 3, 2, NULL, 'INF_POS'),
	(10, 4, 0, 1, 'FINITE'),
	(11, 4, 1, NULL, 'NAN'),
	(12, 4, 2, NULL, 'INF_POS'),
	(13, 5, 0, 1, 'FINITE'),
	(14, 5, 1, NULL, 'NAN'),
	(15, 5, 2, NULL, 'INF_POS'),
	(16, 6, 0, 1, 'FINITE'),
	(17, 6, 1, NULL, 'NAN'),
	(18, 6, 2, NULL, 'INF_POS'),
	(19, 7, 3, 0.25, 'FINITE');

INSERT INTO public.trial_params VALUES
	(1, 1, 'x', 0, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}'),
	(2, 2, 'x', 0.1, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}'),
	(3, 3, 'x', 0.2, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}'),
	(4, 4, 'x', 0.3, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}'),
	(5, 5, 'x', 0.4, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}'),
	(6, 6, 'x', 0.5, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}'),
	(7, 7, 'x', 0.75, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}'),
	(8, 8, 'x', 0.75, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}'),
	(10, 9, 'x', 0.9, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}'),
	(11, 10, 'x', 0.5, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}'),
	(12, 11, 'x', 0.5, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}'),
	(13, 12, 'x', 0.5, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}'),
	(14, 13, 'x', 0.5, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}'),
	(15, 14, 'x', 0.5, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}'),
	(16, 15, 'x', 0.5, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}'),
	(17, 20, 'x', 0.5, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}'),
	(18, 21, 'x', 0.5, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}'),
	(19, 22, 'x', 0.5, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}'),
	(20, 23, 'x', 0.5, '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}');

INSERT INTO public.trial_system_attributes VALUES
	(1, 1, 'fixed_params', '{"x": 0.125}'),
	(2, 7, 'trialfleet:reason', '"Evicted"'),
	(3, 7, 'trialfleet:message', '"the node was drained"'),
	(4, 7, 'trialfleet:worker', '"worker-b"'),
	(5, 8, 'failed_trial', '6'),
	(6, 8, 'retry_history', '[6]'),
	(7, 8, 'fixed_params', '{"x": 0.75}'),
	(8, 17, 'trialfleet:reason', '"NodeLost"'),
	(9, 17, 'trialfleet:worker', '"worker-f"'),
	(10, 18, 'trialfleet:reason', '"Raised"'),
	(11, 19, 'trialfleet:reason', '"Raised"'),
	(12, 20, 'constraints', '[-1.0]'),
	(13, 21, 'constraints', '[0.0]'),
	(14, 22, 'constraints', '[0.5]'),
	(15, 23, 'constraints', '[1.0]'),
	(16, 24, 'fixed_params', '{"x": 0.25}'),
	(17, 25, 'fixed_params', '{"x": 0.75}');

INSERT INTO public.trial_user_attributes VALUES
	(1, 1, 'note', '"\u00e9 0"'),
	(2, 2, 'note', '"\u00e9 1"'),
	(3, 3, 'note', '"\u00e9 2"'),
	(4, 4, 'note', '"\u00e9 3"'),
	(5, 5, 'note', '"\u00e9 4"'),
	(6, 6, 'note', '"\u00e9 5"');

INSERT INTO public.trial_values VALUES
	(1, 1, 0, 0, 'FINITE'),
	(2, 2, 0, 0.14285714285714285, 'FINITE'),
	(3, 3, 0, 0.2857142857142857, 'FINITE'),
	(4, 5, 0, 0.5714285714285714, 'FINITE'),
	(5, 6, 0, 0.7142857142857143, 'FINITE'),
	(6, 10, 0, 1, 'FINITE'),
	(7, 10, 1, 1, 'FINITE'),
	(8, 11, 0, 2, 'FINITE'),
	(9, 11, 1, 2, 'FINITE'),
	(10, 12, 0, 2, 'FINITE'),
	(11, 12, 1, 1, 'FINITE'),
	(12, 13, 0, 0, 'FINITE'),
	(13, 13, 1, -1, 'FINITE'),
	(14, 14, 0, 3, 'FINITE'),
	(15, 14, 1, 5, 'FINITE'),
	(16, 15, 0, NULL, 'INF_NEG'),
	(17, 15, 1, 0, 'FINITE'),
	(18, 16, 0, 0.95, 'FINITE'),
	(19, 20, 0, 1, 'FINITE'),
	(20, 21, 0, 5, 'FINITE'),
	(21, 22, 0, 7, 'FINITE'),
	(22, 23, 0, NULL, 'INF_POS');

INSERT INTO public.trialfleet_best VALUES
	(1, 1, '{0}'),
	(2, 10, '{1,-1}'),
	(2, 11, '{2,-2}'),
	(2, 14, '{3,-5}'),
	(2, 15, '{-Infinity,-0}'),
	(3, 16, '{-0.95}'),
	(7, 21, '{-5}');

INSERT INTO public.trialfleet_counts VALUES
	(1, 12, 4, 1, 1, 2, 0, 1),
	(2, 12, 6, 0, 0, 0, 0, 0),
	(4, 12, 0, 0, 0, 0, 0, 1),
	(5, 12, 0, 0, 2, 0, 0, 0),
	(3, 12, 1, 0, 0, 0, 0, 0),
	(7, 4, 2, 0, 0, 0, 0, 0),
	(7, 3, 2, 0, 0, 1, 1, 0);

INSERT INTO public.trialfleet_lost VALUES
	(1, 'Evicted', 1),
	(4, 'NodeLost', 1);

INSERT INTO public.trialfleet_params VALUES
	(1, 'x', '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}'),
	(2, 'x', '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}'),
	(7, 'x', '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}');

INSERT INTO public.trialfleet_runs VALUES
	(1, '\x99e9739420bf91a8aa5e04fefa339ec7', 1, 1, false, false),
	(2, '\x99e9739420bf91a8aa5e04fefa339ec7', 3, 3, false, false),
	(3, '\x99e9739420bf91a8aa5e04fefa339ec7', 5, 5, false, false),
	(4, '\x99e9739420bf91a8aa5e04fefa339ec7', 7, 7, false, false),
	(5, '\x99e9739420bf91a8aa5e04fefa339ec7', 9, 9, false, false),
	(6, '\x99e9739420bf91a8aa5e04fefa339ec7', 11, 11, false, false),
	(7, '\x2b2baaf3468b0ae5d31ac88c70eadfda', 1, 2, true, true),
	(8, '\xa30e37154d74170a3d43323ae9419335', 1, 2, false, false),
	(9, '\x99e9739420bf91a8aa5e04fefa339ec7', 13, 14, false, false),
	(10, '\x552e45a841c02a87f61ac5544bf2b0ff', 1, 1, false, false),
	(11, '\x552e45a841c02a87f61ac5544bf2b0ff', 3, 3, false, false),
	(12, '\x552e45a841c02a87f61ac5544bf2b0ff', 5, 5, false, false),
	(13, '\x552e45a841c02a87f61ac5544bf2b0ff', 7, 7, false, false),
	(14, '\x552e45a841c02a87f61ac5544bf2b0ff', 9, 9, false, false),
	(15, '\x552e45a841c02a87f61ac5544bf2b0ff', 11, 11, false, false),
	(16, '\x383e78bee4022cf0f35a5b1f181ade90', 1, 1, false, false),
	(17, '\x868ce17ea2f3ca8174f23a5351624202', 1, 1, true, true),
	(18, '\x92dffb60618c128ab7297600979a7aee', 1, 1, false, false),
	(19, '\x92dffb60618c128ab7297600979a7aee', 3, 3, false, false);

INSERT INTO public.trialfleet_schema VALUES
	(6);

INSERT INTO public.trialfleet_sessions VALUES
	('\x99e9739420bf91a8aa5e04fefa339ec7', 'worker-a', 1, 0, 3600, '2026-11-29 14:05:01.302498+00', NULL, false, 0, NULL),
	('\x2b2baaf3468b0ae5d31ac88c70eadfda', 'worker-b', 1, 1, 3600, '2026-11-29 14:05:01.307659+00', '2026-11-29 13:05:01.391282+00', false, 0, NULL),
	('\xa30e37154d74170a3d43323ae9419335', 'worker-c', 1, 2, 3600, '2026-11-29 14:05:01.406601+00', NULL, false, 0, NULL),
	('\x552e45a841c02a87f61ac5544bf2b0ff', 'worker-d', 2, 0, 60, '2026-11-29 13:06:01.437429+00', '2026-11-29 13:05:01.500814+00', false, 0, NULL),
	('\x383e78bee4022cf0f35a5b1f181ade90', 'worker-e', 3, 0, 60, '2026-11-29 13:06:01.508884+00', NULL, false, 0, NULL),
	('\x868ce17ea2f3ca8174f23a5351624202', 'worker-f', 4, 0, 60, '2026-11-29 13:06:01.533479+00', '2026-11-29 13:05:01.544018+00', false, 0, NULL),
	('\x92dffb60618c128ab7297600979a7aee', 'worker-g', 5, 0, 60, '2026-11-29 13:06:01.55764+00', NULL, false, 0, NULL);

INSERT INTO public.trialfleet_studies VALUES
	(1, 20, 5, 86400, '[]', 2, true, 3, '2026-11-29 13:05:01.324919+00', false),
	(2, 6, NULL, NULL, '[]', 0, false, 1, '2026-11-29 13:05:01.441093+00', false),
	(3, 50, NULL, NULL, '[[0, 0.9]]', 0, false, 1, '2026-11-29 13:05:01.520026+00', false),
	(4, 9, NULL, NULL, '[]', 0, false, 1, '2026-11-29 13:05:01.537067+00', true),
	(5, NULL, 2, NULL, '[]', 0, false, 1, '2026-11-29 13:05:01.56104+00', false),
	(6, 3, NULL, NULL, '[]', 1, false, 0, NULL, false);

INSERT INTO public.trials VALUES
	(1, 0, 1, 'COMPLETE', '2026-11-29 13:05:01.322439', '2026-11-29 13:05:01.338523'),
	(2, 1, 1, 'COMPLETE', '2026-11-29 13:05:01.344951', '2026-11-29 13:05:01.351624'),
	(3, 2, 1, 'PRUNED', '2026-11-29 13:05:01.356902', '2026-11-29 13:05:01.358656'),
	(4, 3, 1, 'FAIL', '2026-11-29 13:05:01.359416', '2026-11-29 13:05:01.365635'),
	(5, 4, 1, 'COMPLETE', '2026-11-29 13:05:01.368364', '2026-11-29 13:05:01.373361'),
	(6, 5, 1, 'COMPLETE', '2026-11-29 13:05:01.376914', '2026-11-29 13:05:01.38003'),
	(7, 6, 1, 'FAIL', '2026-11-29 13:05:01.384866', '2026-11-29 13:05:01.394897'),
	(8, 7, 1, 'RUNNING', '2026-11-29 13:05:01.417717', NULL),
	(9, 8, 1, 'RUNNING', '2026-11-29 13:05:01.424669', NULL),
	(10, 0, 2, 'COMPLETE', '2026-11-29 13:05:01.440783', '2026-11-29 13:05:01.452116'),
	(11, 1, 2, 'COMPLETE', '2026-11-29 13:05:01.456871', '2026-11-29 13:05:01.46075'),
	(12, 2, 2, 'COMPLETE', '2026-11-29 13:05:01.468928', '2026-11-29 13:05:01.473241'),
	(13, 3, 2, 'COMPLETE', '2026-11-29 13:05:01.476835', '2026-11-29 13:05:01.481156'),
	(14, 4, 2, 'COMPLETE', '2026-11-29 13:05:01.484843', '2026-11-29 13:05:01.489115'),
	(15, 5, 2, 'COMPLETE', '2026-11-29 13:05:01.492831', '2026-11-29 13:05:01.497179'),
	(16, 0, 3, 'COMPLETE', '2026-11-29 13:05:01.518913', '2026-11-29 13:05:01.525103'),
	(17, 0, 4, 'FAIL', '2026-11-29 13:05:01.536857', '2026-11-29 13:05:01.546537'),
	(18, 0, 5, 'FAIL', '2026-11-29 13:05:01.560823', '2026-11-29 13:05:01.565401'),
	(19, 1, 5, 'FAIL', '2026-11-29 13:05:01.56884', '2026-11-29 13:05:01.572154'),
	(20, 0, 7, 'COMPLETE', '2026-11-29 13:05:01.644144', '2026-11-29 13:05:01.644144'),
	(21, 1, 7, 'COMPLETE', '2026-11-29 13:05:01.676708', '2026-11-29 13:05:01.676708'),
	(22, 2, 7, 'COMPLETE', '2026-11-29 13:05:01.704682', '2026-11-29 13:05:01.704682'),
	(23, 3, 7, 'COMPLETE', '2026-11-29 13:05:01.720635', '2026-11-29 13:05:01.720635'),
	(24, 4, 7, 'RUNNING', '2026-11-29 13:05:01.752157', NULL),
	(25, 5, 7, 'WAITING', NULL, NULL);

INSERT INTO public.version_info VALUES
	(1, 12, '5.0.0');

SELECT pg_catalog.setval('public.studies_study_id_seq', 7, true);

SELECT pg_catalog.setval('public.study_directions_study_direction_id_seq', 8, true);

SELECT pg_catalog.setval('public.study_system_attributes_study_system_attribute_id_seq', 1, false);

SELECT pg_catalog.setval('public.study_user_attributes_study_user_attribute_id_seq', 1, true);

SELECT pg_catalog.setval('public.trial_heartbeats_trial_heartbeat_id_seq', 1, false);

SELECT pg_catalog.setval('public.trial_intermediate_values_trial_intermediate_value_id_seq', 19, true);

SELECT pg_catalog.setval('public.trial_params_param_id_seq', 20, true);

SELECT pg_catalog.setval('public.trial_system_attributes_trial_system_attribute_id_seq', 17, true);

SELECT pg_catalog.setval('public.trial_user_attributes_trial_user_attribute_id_seq', 6, true);

SELECT pg_catalog.setval('public.trial_values_trial_value_id_seq', 22, true);

SELECT pg_catalog.setval('public.trials_trial_id_seq', 25, true);

ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);

ALTER TABLE ONLY public.studies
    ADD CONSTRAINT studies_pkey PRIMARY KEY (study_id);

ALTER TABLE ONLY public.study_directions
    ADD CONSTRAINT study_directions_pkey PRIMARY KEY (study_direction_id);

ALTER TABLE ONLY public.study_directions
    ADD CONSTRAINT study_directions_study_id_objective_key UNIQUE (study_id, objective);

ALTER TABLE ONLY public.study_system_attributes
    ADD CONSTRAINT study_system_attributes_pkey PRIMARY KEY (study_system_attribute_id);

ALTER TABLE ONLY public.study_system_attributes
    ADD CONSTRAINT study_system_attributes_study_id_key_key UNIQUE (study_id, key);

ALTER TABLE ONLY public.study_user_attributes
    ADD CONSTRAINT study_user_attributes_pkey PRIMARY KEY (study_user_attribute_id);

ALTER TABLE ONLY public.study_user_attributes
    ADD CONSTRAINT study_user_attributes_study_id_key_key UNIQUE (study_id, key);

ALTER TABLE ONLY public.trial_heartbeats
    ADD CONSTRAINT trial_heartbeats_pkey PRIMARY KEY (trial_heartbeat_id);

ALTER TABLE ONLY public.trial_heartbeats
    ADD CONSTRAINT trial_heartbeats_trial_id_key UNIQUE (trial_id);

ALTER TABLE ONLY public.trial_intermediate_values
    ADD CONSTRAINT trial_intermediate_values_pkey PRIMARY KEY (trial_intermediate_value_id);

ALTER TABLE ONLY public.trial_intermediate_values
    ADD CONSTRAINT trial_intermediate_values_trial_id_step_key UNIQUE (trial_id, step);

ALTER TABLE ONLY public.trial_params
    ADD CONSTRAINT trial_params_pkey PRIMARY KEY (param_id);

ALTER TABLE ONLY public.trial_params
    ADD CONSTRAINT trial_params_trial_id_param_name_key UNIQUE (trial_id, param_name);

ALTER TABLE ONLY public.trial_system_attributes
    ADD CONSTRAINT trial_system_attributes_pkey PRIMARY KEY (trial_system_attribute_id);

ALTER TABLE ONLY public.trial_system_attributes
    ADD CONSTRAINT trial_system_attributes_trial_id_key_key UNIQUE (trial_id, key);

ALTER TABLE ONLY public.trial_user_attributes
    ADD CONSTRAINT trial_user_attributes_pkey PRIMARY KEY (trial_user_attribute_id);

ALTER TABLE ONLY public.trial_user_attributes
    ADD CONSTRAINT trial_user_attributes_trial_id_key_key UNIQUE (trial_id, key);

ALTER TABLE ONLY public.trial_values
    ADD CONSTRAINT trial_values_pkey PRIMARY KEY (trial_value_id);

ALTER TABLE ONLY public.trial_values
    ADD CONSTRAINT trial_values_trial_id_objective_key UNIQUE (trial_id, objective);

ALTER TABLE ONLY public.trialfleet_best
    ADD CONSTRAINT trialfleet_best_pkey PRIMARY KEY (trial_id);

ALTER TABLE ONLY public.trialfleet_counts
    ADD CONSTRAINT trialfleet_counts_pkey PRIMARY KEY (study_id, shard);

ALTER TABLE ONLY public.trialfleet_lost
    ADD CONSTRAINT trialfleet_lost_pkey PRIMARY KEY (study_id, reason);

ALTER TABLE ONLY public.trialfleet_params
    ADD CONSTRAINT trialfleet_params_pkey PRIMARY KEY (study_id, param_name);

ALTER TABLE ONLY public.trialfleet_returns
    ADD CONSTRAINT trialfleet_returns_pkey PRIMARY KEY (session_id, opened);

ALTER TABLE ONLY public.trialfleet_runs
    ADD CONSTRAINT trialfleet_runs_pkey PRIMARY KEY (trial_id);

ALTER TABLE ONLY public.trialfleet_runs
    ADD CONSTRAINT trialfleet_runs_session_id_opened_key UNIQUE (session_id, opened);

ALTER TABLE ONLY public.trialfleet_sessions
    ADD CONSTRAINT trialfleet_sessions_pkey PRIMARY KEY (session_id);

ALTER TABLE ONLY public.trialfleet_studies
    ADD CONSTRAINT trialfleet_studies_pkey PRIMARY KEY (study_id);

ALTER TABLE ONLY public.trials
    ADD CONSTRAINT trials_pkey PRIMARY KEY (trial_id);

ALTER TABLE ONLY public.version_info
    ADD CONSTRAINT version_info_pkey PRIMARY KEY (version_info_id);

CREATE UNIQUE INDEX ix_studies_study_name ON public.studies USING btree (study_name);

CREATE INDEX ix_trials_study_id ON public.trials USING btree (study_id);

CREATE INDEX trialfleet_best_study ON public.trialfleet_best USING btree (study_id, costs, trial_id);

CREATE INDEX trialfleet_returns_trial ON public.trialfleet_returns USING btree (trial_id);

CREATE INDEX trialfleet_sessions_study ON public.trialfleet_sessions USING btree (study_id) WHERE (ended_at IS NULL);

CREATE INDEX trialfleet_sessions_worker ON public.trialfleet_sessions USING btree (worker) WHERE (ended_at IS NULL);

CREATE INDEX trialfleet_trials_number ON public.trials USING btree (study_id, number);

CREATE INDEX trialfleet_trials_unfinished ON public.trials USING btree (study_id, state, trial_id) WHERE (state = ANY (ARRAY['RUNNING'::public.trialstate, 'WAITING'::public.trialstate]));

CREATE CONSTRAINT TRIGGER trialfleet_completed AFTER INSERT OR UPDATE ON public.trials DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (((new.state = 'COMPLETE'::public.trialstate) AND (current_setting('trialfleet.applying'::text, true) IS DISTINCT FROM 'on'::text))) EXECUTE FUNCTION public.trialfleet_trial_completed();

CREATE TRIGGER trialfleet_inserted AFTER INSERT ON public.trials REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT WHEN ((current_setting('trialfleet.applying'::text, true) IS DISTINCT FROM 'on'::text)) EXECUTE FUNCTION public.trialfleet_trials_inserted();

CREATE TRIGGER trialfleet_params_inserted AFTER INSERT ON public.trial_params REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT WHEN ((current_setting('trialfleet.claims'::text, true) IS DISTINCT FROM 'on'::text)) EXECUTE FUNCTION public.trialfleet_params_inserted();

CREATE TRIGGER trialfleet_updated AFTER UPDATE ON public.trials REFERENCING OLD TABLE AS before NEW TABLE AS after FOR EACH STATEMENT WHEN ((current_setting('trialfleet.applying'::text, true) IS DISTINCT FROM 'on'::text)) EXECUTE FUNCTION public.trialfleet_trials_updated();

ALTER TABLE ONLY public.study_directions
    ADD CONSTRAINT study_directions_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id);

ALTER TABLE ONLY public.study_system_attributes
    ADD CONSTRAINT study_system_attributes_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id);

ALTER TABLE ONLY public.study_user_attributes
    ADD CONSTRAINT study_user_attributes_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id);

ALTER TABLE ONLY public.trial_heartbeats
    ADD CONSTRAINT trial_heartbeats_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);

ALTER TABLE ONLY public.trial_intermediate_values
    ADD CONSTRAINT trial_intermediate_values_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);

ALTER TABLE ONLY public.trial_params
    ADD CONSTRAINT trial_params_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);

ALTER TABLE ONLY public.trial_system_attributes
    ADD CONSTRAINT trial_system_attributes_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);

ALTER TABLE ONLY public.trial_user_attributes
    ADD CONSTRAINT trial_user_attributes_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);

ALTER TABLE ONLY public.trial_values
    ADD CONSTRAINT trial_values_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id);

ALTER TABLE ONLY public.trialfleet_best
    ADD CONSTRAINT trialfleet_best_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id) ON DELETE CASCADE;

ALTER TABLE ONLY public.trialfleet_best
    ADD CONSTRAINT trialfleet_best_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id) ON DELETE CASCADE;

ALTER TABLE ONLY public.trialfleet_counts
    ADD CONSTRAINT trialfleet_counts_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id) ON DELETE CASCADE;

ALTER TABLE ONLY public.trialfleet_lost
    ADD CONSTRAINT trialfleet_lost_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id) ON DELETE CASCADE;

ALTER TABLE ONLY public.trialfleet_params
    ADD CONSTRAINT trialfleet_params_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id) ON DELETE CASCADE;

ALTER TABLE ONLY public.trialfleet_returns
    ADD CONSTRAINT trialfleet_returns_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id) ON DELETE CASCADE;

ALTER TABLE ONLY public.trialfleet_runs
    ADD CONSTRAINT trialfleet_runs_trial_id_fkey FOREIGN KEY (trial_id) REFERENCES public.trials(trial_id) ON DELETE CASCADE;

ALTER TABLE ONLY public.trialfleet_studies
    ADD CONSTRAINT trialfleet_studies_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id) ON DELETE CASCADE;

ALTER TABLE ONLY public.trials
    ADD CONSTRAINT trials_study_id_fkey FOREIGN KEY (study_id) REFERENCES public.studies(study_id);

