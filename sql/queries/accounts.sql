-- name: add_user!
-- A user, or new particulars of one.
INSERT INTO users (user_id, email, timezone) VALUES (:user_id, :email, :timezone)
ON CONFLICT (user_id) DO UPDATE SET email = excluded.email, timezone = excluded.timezone, active = TRUE;

-- name: add_account!
-- A Todoist account with new credentials: what was synced under the old ones is asked for again.
INSERT INTO todoist_accounts (user_id, credentials) VALUES (:user_id, :credentials)
ON CONFLICT (user_id) DO UPDATE
SET credentials = excluded.credentials, sync_token = NULL, auth_failures = 0, connected = TRUE;

-- name: remove_user!
-- A user with account, decisions and reactions.
DELETE FROM users WHERE user_id = :user_id;

-- name: remove_context!
-- A user's row of the store.
DELETE FROM context_store WHERE user_id = :user_id;

-- name: list_users
-- Every user with the state of the account.
SELECT u.user_id, u.email, u.timezone, u.active, a.connected, a.observed_at, a.auth_failures
FROM users u LEFT JOIN todoist_accounts a USING (user_id)
ORDER BY u.user_id;

-- name: set_active!
-- Whether a user is fetched at all.
UPDATE users SET active = :active WHERE user_id = :user_id;

-- name: users_due
-- Active users to fetch in the run at :now, when the next one comes at :until. First, whoever was not looked at since
-- :rested_since (those who did not ask since :idle_since: since :idle_rested_since); nobody where these are NULL. Second, whoever is likely to ask
-- before :until, going by the last week's requests at that time of their day, and would then find a context older
-- than :sla, half an hour of unpunctuality allowed for. A context that a midnight before that request changes is left
-- alone: fetching now would not help.
-- Of one shard of :n_shards, or of all where :shard is NULL.
SELECT u.user_id, a.observed_at
FROM users u JOIN todoist_accounts a USING (user_id) LEFT JOIN context_store c USING (user_id)
WHERE u.active AND a.connected
  AND (:shard::INTEGER IS NULL OR mod(u.shard_key, :n_shards) = :shard)
  AND (coalesce(a.observed_at, '-infinity') < CASE
      WHEN u.created_at >= :idle_since
           OR EXISTS (SELECT FROM decisions d WHERE d.user_id = u.user_id AND d.decided_at >= :idle_since)
      THEN :rested_since::TIMESTAMPTZ ELSE :idle_rested_since::TIMESTAMPTZ END
    OR EXISTS (
      SELECT FROM decisions d, next_ask(d.decided_at, :now, u.timezone) AS likely_at
      WHERE d.user_id = u.user_id
        AND d.decided_at >= :now - INTERVAL '7 days' AND d.decided_at < :now
        AND likely_at < :until
        AND likely_at + INTERVAL '30 minutes' > coalesce(
            greatest(c.materialized_at, a.observed_at) + :sla::INTERVAL, '-infinity')
        AND (c.valid_until IS NULL OR c.valid_until <= :now OR c.valid_until > likely_at)
  ))
ORDER BY u.user_id;

-- name: users_observed
-- Every user whose signals were ever fetched, with the instant of the last fetch, and whether the row is older.
-- Of one shard of :n_shards, or of all where :shard is NULL.
SELECT a.user_id, a.observed_at, a.observed_at > coalesce(c.materialized_at, '-infinity') AS is_news
FROM todoist_accounts a JOIN users u USING (user_id) LEFT JOIN context_store c USING (user_id)
WHERE a.observed_at IS NOT NULL
  AND (:shard::INTEGER IS NULL OR mod(u.shard_key, :n_shards) = :shard)
ORDER BY a.user_id;

-- name: known_users
-- Which of these users still exist.
SELECT user_id FROM users WHERE user_id = ANY(:user_ids);

-- name: sync_states
-- What a fetch needs of these users' accounts.
SELECT a.user_id, a.credentials, a.sync_token, a.directory, u.timezone
FROM todoist_accounts a JOIN users u USING (user_id)
WHERE a.user_id = ANY(:user_ids);

-- name: all_credentials
-- Every account's credentials, locked while keys are rotated.
SELECT user_id, credentials FROM todoist_accounts ORDER BY user_id FOR UPDATE;

-- name: save_credentials!
-- Renewed or re-encrypted credentials.
UPDATE todoist_accounts SET credentials = :credentials WHERE user_id = :user_id;

-- name: save_observation*!
-- After the data is stored: where the next fetch goes on, and that this one went well.
UPDATE todoist_accounts
SET sync_token = :sync_token, directory = :directory, observed_at = greatest(observed_at, :observed_at),
    auth_failures = 0
WHERE user_id = :user_id;

-- name: save_timezone*!
-- The time zone that Todoist gives for a user.
UPDATE users SET timezone = :timezone WHERE user_id = :user_id AND timezone <> :timezone;

-- name: save_refusal*!
-- Todoist refused the token in the run at :refused_at: at the second run in a row the account is disconnected.
UPDATE todoist_accounts
SET auth_failures = auth_failures + 1, connected = auth_failures + 1 < 2, refused_at = :refused_at
WHERE user_id = :user_id AND refused_at IS DISTINCT FROM :refused_at;
