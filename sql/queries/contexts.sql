-- name: refresh
-- Set a newer materialized_at on rows with unchanged content, an older one only on rows from after :latest, which were
-- written before the clock was set back. Returns their users. What was fetched before the account was connected belongs
-- to another account.
-- ANY repeats the join's condition: without it Postgres would scan the whole table for the few users of a shard. Accounts
-- are found one by one: with ANY each of these lookups would sort the array again.
UPDATE context_store c
SET materialized_at = n.materialized_at
FROM unnest(:user_ids::TEXT[], :versions::TEXT[], :instants::TIMESTAMPTZ[]) AS n (user_id, row_version, materialized_at)
LEFT JOIN todoist_accounts a ON a.user_id = n.user_id
WHERE c.user_id = ANY(:user_ids::TEXT[])
  AND c.user_id = n.user_id AND c.row_version = n.row_version
  AND is_of_account(c.connection_number, c.materialized_at, coalesce(a.connection_number, 0), a.connected_at)
  AND n.materialized_at >= coalesce(a.connected_at, '-infinity')
  AND (c.materialized_at < n.materialized_at OR (c.materialized_at > :latest AND c.materialized_at <> n.materialized_at))
RETURNING c.user_id;

-- name: use_indexes!
-- Find rows by indexes until the end of the transaction: for a table whose statistics are missing or old, Postgres would
-- scan all rows for the few users of a shard.
SET LOCAL enable_seqscan = off;

-- name: stored_versions
-- Read the versions of these users' rows; NULL for rows that were not made from the present account.
SELECT c.user_id,
       CASE WHEN is_of_account(c.connection_number, c.materialized_at, coalesce(a.connection_number, 0), a.connected_at)
            THEN c.row_version END
FROM context_store c LEFT JOIN todoist_accounts a ON a.user_id = c.user_id AND a.user_id = ANY(:user_ids::TEXT[])
WHERE c.user_id = ANY(:user_ids::TEXT[]);

-- name: present_accounts
-- The numbers of these users' present accounts, and since when they are connected.
SELECT user_id, connection_number, connected_at FROM todoist_accounts WHERE user_id = ANY(:user_ids::TEXT[]);

-- name: copy_new#
-- Write rows of users who have none.
COPY context_store (user_id, materialized_at, context_json, context_hash, valid_until, groups_json, row_version,
                    connection_number) FROM STDIN (FORMAT BINARY);

-- name: write!
-- Write whole rows, never over a newer one, unless that is from after :latest, or was made from an earlier account.
-- What was fetched before the account was connected belongs to another account and is not written.
INSERT INTO context_store (user_id, materialized_at, context_json, context_hash, valid_until, groups_json, row_version,
                           connection_number)
SELECT n.*, coalesce(a.connection_number, 0)
FROM unnest(:user_ids::TEXT[], :instants::TIMESTAMPTZ[], :contexts::TEXT[], :hashes::TEXT[],
            :valid_until::TIMESTAMPTZ[], :groups_json::TEXT[], :versions::TEXT[])
     AS n (user_id, materialized_at, context_json, context_hash, valid_until, groups_json, row_version)
LEFT JOIN todoist_accounts a ON a.user_id = n.user_id AND a.user_id = ANY(:user_ids::TEXT[])
WHERE n.materialized_at >= coalesce(a.connected_at, '-infinity')
ON CONFLICT (user_id) DO UPDATE
SET materialized_at = excluded.materialized_at, context_json = excluded.context_json,
    context_hash = excluded.context_hash, valid_until = excluded.valid_until, groups_json = excluded.groups_json,
    row_version = excluded.row_version, connection_number = excluded.connection_number
WHERE context_store.connection_number < excluded.connection_number
   OR (coalesce(context_store.connection_number, excluded.connection_number) = excluded.connection_number
       AND (context_store.materialized_at <= excluded.materialized_at OR context_store.materialized_at > :latest));

-- name: update_groups!
-- Replace the groups of rows that a request wrote meanwhile from newer tasks: the pipeline's groups are newer.
-- These rows lose their version, so that the next run that fetches their tasks writes them as a whole.
UPDATE context_store c SET groups_json = n.groups_json, row_version = NULL
FROM unnest(:user_ids::TEXT[], :instants::TIMESTAMPTZ[], :groups_json::TEXT[]) AS n (user_id, materialized_at, groups_json)
LEFT JOIN todoist_accounts a ON a.user_id = n.user_id
WHERE c.user_id = ANY(:user_ids::TEXT[])
  AND c.user_id = n.user_id AND c.materialized_at > n.materialized_at AND c.groups_json <> n.groups_json
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
