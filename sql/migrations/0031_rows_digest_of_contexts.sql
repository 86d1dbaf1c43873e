-- A row of context_store agrees with the account's last fetch if both are of the same tasks: compared by their digest,
-- because instants do not tell which of a request and a run that overlap read the tasks first.
ALTER TABLE context_store ADD COLUMN rows_digest BYTEA;  -- todoist_accounts.rows_digest of the tasks that the row was
                                                         -- made from; NULL: not known
ALTER TABLE context_store ALTER COLUMN rows_digest SET STORAGE PLAIN;  -- compared at each read: it stays in the row

-- The time of the fetch that a row of context_store agrees with: the account's last one, if that found the same tasks, else
-- the fetch that the row was made from.
CREATE FUNCTION fetched_at(materialized_at TIMESTAMPTZ, row_digest BYTEA, account_digest BYTEA, observed_at TIMESTAMPTZ)
RETURNS TIMESTAMPTZ LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN row_digest = account_digest THEN greatest(materialized_at, observed_at) ELSE materialized_at END
$$;

-- The digest of the tasks that the fetch at an instant found, if the account still has it: a later fetch may have found
-- others, and after a fold of events, or a second fetch at the same instant, changed_at is later than observed_at.
CREATE FUNCTION digest_at(instant TIMESTAMPTZ, observed_at TIMESTAMPTZ, changed_at TIMESTAMPTZ, account_digest BYTEA)
RETURNS BYTEA LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN instant = observed_at AND changed_at <= observed_at THEN account_digest END
$$;

DROP FUNCTION fetched_at(TIMESTAMPTZ, TEXT, TIMESTAMPTZ, TIMESTAMPTZ);
