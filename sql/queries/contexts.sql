-- name: users_with_rows
-- Of some users, those with a row.
SELECT c.user_id FROM context_store c WHERE c.user_id = ANY(:user_ids::TEXT[]);

-- name: accounts_observed
-- Of some users who were observed at an instant, those who still have the same account, with the digest of the tasks that
-- were found at the instant, if it is known: see `write`.
SELECT a.user_id, a.connection_number, digest_at(:instant::TIMESTAMPTZ, a.observed_at, a.changed_at, a.rows_digest)
FROM todoist_accounts a
WHERE a.user_id = ANY(:user_ids::TEXT[])
  AND :instant::TIMESTAMPTZ BETWEEN coalesce(a.connected_at, '-infinity') AND a.observed_at;

-- name: outdated_rows
-- Of some users with a row, those whose row has another version than the given one, or agrees with no fetch as late as
-- the given instant; with it whether the row only has to be refreshed. A row that was not made from the present account,
-- or is from after :latest and so from before the clock was set back, is outdated.
-- What was fetched before the account was connected belongs to another account, and refreshes nothing.
-- OFFSET 0 makes Postgres find each user's rows by their keys.
SELECT n.user_id, NOT is_other AS is_same
FROM unnest(:user_ids::TEXT[], :versions::TEXT[], :instants::TIMESTAMPTZ[]) AS n (user_id, row_version, materialized_at)
LEFT JOIN LATERAL (
    SELECT a.connection_number, a.connected_at, a.rows_digest, a.observed_at
    FROM todoist_accounts a WHERE a.user_id = n.user_id OFFSET 0
) a ON TRUE
LEFT JOIN LATERAL (
    SELECT c.row_version, c.rows_digest, c.connection_number, c.materialized_at
    FROM context_store c WHERE c.user_id = n.user_id OFFSET 0
) c ON TRUE
CROSS JOIN LATERAL (
    SELECT coalesce(c.row_version <> n.row_version
                    OR NOT is_of_account(c.connection_number, c.materialized_at, coalesce(a.connection_number, 0),
                                         a.connected_at), TRUE) AS is_other
) compared
WHERE is_other
   OR (coalesce(a.connected_at, '-infinity') <= n.materialized_at
       AND (fetched_at(c.materialized_at, c.rows_digest, a.rows_digest, a.observed_at) < n.materialized_at
            OR (c.materialized_at > :latest AND c.materialized_at <> n.materialized_at)));

-- name: refresh!
-- Set a newer materialized_at on rows with unchanged content, an older one only on rows from after :latest. `outdated_rows`
-- has found these rows; a request may have written one meanwhile. The digest is that of the tasks of the new instant.
-- ANY repeats the join's condition: without it Postgres would scan the whole table for the few users of a shard.
UPDATE context_store c
SET materialized_at = n.materialized_at,
    rows_digest = digest_at(n.materialized_at, a.observed_at, a.changed_at, a.rows_digest)
FROM unnest(:user_ids::TEXT[], :versions::TEXT[], :instants::TIMESTAMPTZ[]) AS n (user_id, row_version, materialized_at)
LEFT JOIN todoist_accounts a ON a.user_id = n.user_id
WHERE c.user_id = ANY(:user_ids::TEXT[])
  AND c.user_id = n.user_id AND c.row_version = n.row_version
  AND is_of_account(c.connection_number, c.materialized_at, coalesce(a.connection_number, 0), a.connected_at)
  AND n.materialized_at >= coalesce(a.connected_at, '-infinity')
  AND (c.materialized_at < n.materialized_at OR (c.materialized_at > :latest AND c.materialized_at <> n.materialized_at));

-- name: use_indexes!
-- Find rows by indexes until the end of the transaction: for a table whose statistics are missing or old, Postgres would
-- scan all rows for the few users of a shard.
SET LOCAL enable_seqscan = off;

-- name: copy_new#
-- Write rows of users who have none.
COPY context_store (user_id, materialized_at, context_json, context_hash, valid_until, groups_json, row_version,
                    connection_number, rows_digest) FROM STDIN (FORMAT BINARY);

-- name: write!
-- Write whole rows, never over a newer one, unless that is from after :latest, or was made from an earlier account.
-- A context is not written if it was fetched before this account was connected, or if this account's last fetch is
-- older: it belongs to a replaced account or to a removed user.
INSERT INTO context_store (user_id, materialized_at, context_json, context_hash, valid_until, groups_json, row_version,
                           connection_number, rows_digest)
SELECT n.*, a.connection_number,
       digest_at(n.materialized_at, a.observed_at, a.changed_at, a.rows_digest)
FROM unnest(:user_ids::TEXT[], :instants::TIMESTAMPTZ[], :contexts::TEXT[], :hashes::TEXT[],
            :valid_until::TIMESTAMPTZ[], :groups_json::TEXT[], :versions::TEXT[])
     AS n (user_id, materialized_at, context_json, context_hash, valid_until, groups_json, row_version)
JOIN todoist_accounts a ON a.user_id = n.user_id AND a.user_id = ANY(:user_ids::TEXT[])
WHERE n.materialized_at BETWEEN coalesce(a.connected_at, '-infinity') AND a.observed_at
ON CONFLICT (user_id) DO UPDATE
SET materialized_at = excluded.materialized_at, context_json = excluded.context_json,
    context_hash = excluded.context_hash, valid_until = excluded.valid_until, groups_json = excluded.groups_json,
    row_version = excluded.row_version, connection_number = excluded.connection_number,
    rows_digest = excluded.rows_digest
WHERE context_store.connection_number < excluded.connection_number
   OR (coalesce(context_store.connection_number, excluded.connection_number) = excluded.connection_number
       AND (context_store.materialized_at <= excluded.materialized_at OR context_store.materialized_at > :latest));

-- name: update_groups!
-- Replace the groups of rows that a request wrote meanwhile from newer tasks: the pipeline's groups are newer.
-- These rows lose their version and digest, so that the run after the next fetch of their tasks writes them as a whole.
UPDATE context_store c SET groups_json = n.groups_json, row_version = NULL, rows_digest = NULL
FROM unnest(:user_ids::TEXT[], :instants::TIMESTAMPTZ[], :groups_json::TEXT[], :versions::TEXT[])
     AS n (user_id, materialized_at, groups_json, row_version)
LEFT JOIN todoist_accounts a ON a.user_id = n.user_id
WHERE c.user_id = ANY(:user_ids::TEXT[])
  AND c.user_id = n.user_id AND c.materialized_at > n.materialized_at
  AND (c.groups_json <> n.groups_json OR c.row_version <> n.row_version)
  AND is_of_account(c.connection_number, c.materialized_at, coalesce(a.connection_number, 0), a.connected_at)
  AND n.materialized_at >= coalesce(a.connected_at, '-infinity');

-- name: remove_orphans!
-- Delete rows of users who no longer exist.
DELETE FROM context_store c
WHERE c.user_id = ANY(:user_ids) AND NOT EXISTS (SELECT FROM users u WHERE u.user_id = c.user_id);

-- name: reactions_since
-- Read the users' reactions to tips since an instant.
SELECT d.user_id, d.decision_id::TEXT AS decision_id, coalesce(d.tip_kind, '') AS tip_kind,
       coalesce(d.theme, '') AS theme, r.reaction, r.reacted_at
FROM reactions r JOIN decisions d USING (decision_id)
WHERE r.reacted_at >= :since AND d.user_id = ANY(:user_ids)
ORDER BY d.user_id, r.reacted_at, d.decision_id;
