-- A fetch that finds no change makes the stored context as fresh as itself, and writes nothing but the account.
ALTER TABLE todoist_accounts ADD COLUMN changed_at TIMESTAMPTZ;  -- the last fetch or fold that changed the stored tasks;
                                                                 -- NULL: not known yet

-- The time of the last fetch that a row of context_store agrees with: the fetch that it was made from, or the account's
-- last one, if the tasks did not change since. A row without a version is not the pipeline's: that the pipeline finds no
-- change says nothing about it.
CREATE FUNCTION fetched_at(materialized_at TIMESTAMPTZ, row_version TEXT, changed_at TIMESTAMPTZ, observed_at TIMESTAMPTZ)
RETURNS TIMESTAMPTZ LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN row_version IS NOT NULL AND changed_at <= materialized_at
                THEN greatest(materialized_at, observed_at) ELSE materialized_at END
$$;
