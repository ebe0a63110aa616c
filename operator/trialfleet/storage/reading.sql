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
