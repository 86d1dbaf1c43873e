-- name: add_user!
-- Add a user, or replace an existing user's email and time zone and activate the user.
INSERT INTO users (user_id, email, timezone) VALUES (:user_id, :email, :timezone)
ON CONFLICT (user_id) DO UPDATE SET email = excluded.email, timezone = excluded.timezone, active = TRUE;

-- name: add_account!
-- Add a Todoist account, or replace an existing one as a new connection, of which nothing is known yet. The instant of
-- connecting is later than the last fetch of the previous connection, unless that is from after :latest, because the
-- clock was set back since.
INSERT INTO todoist_accounts AS a (user_id, credentials, connection_number, connected_at, todoist_user_id,
                                   oauth_connected_at)
VALUES (:user_id, :credentials, nextval('connection_numbers'), :connected_at, :todoist_user_id, :oauth_connected_at)
ON CONFLICT (user_id) DO UPDATE
SET credentials = excluded.credentials, connection_number = excluded.connection_number,
    connected_at = greatest(excluded.connected_at,
                            CASE WHEN a.connected_at <= :latest THEN a.connected_at END,
                            CASE WHEN a.observed_at <= :latest THEN a.observed_at + INTERVAL '1 microsecond' END),
    sync_token = NULL, directory = '{}', rows_digest = NULL, observed_at = NULL, changed_at = NULL,
    events_confirmed_at = NULL,
    auth_failures = 0, refused_at = NULL, pending_refused_at = NULL, connected = TRUE,
    todoist_user_id = excluded.todoist_user_id, oauth_connected_at = excluded.oauth_connected_at;

-- name: read_connection_number$
-- The connection number of a user's account, -1 for a user without one, or no row if there is no such user.
SELECT coalesce(a.connection_number, -1) FROM users u LEFT JOIN todoist_accounts a USING (user_id)
WHERE u.user_id = :user_id;

-- name: lock_user$
-- Let other transactions that add, connect or remove this user wait for the end of this one; there need not be such a
-- user. Otherwise two of them could deadlock, and Postgres would cancel one.
SELECT pg_advisory_xact_lock(7404, hashtext(:user_id));

-- name: connect_user!
-- Add a user who signed in through the product's app, or activate an existing one, whose email stays. A time zone that
-- cannot be read leaves the known one.
INSERT INTO users AS u (user_id, email, timezone)
VALUES (:user_id, :email, coalesce(:timezone::TEXT, :default_timezone))
ON CONFLICT (user_id) DO UPDATE SET timezone = coalesce(:timezone::TEXT, u.timezone), active = TRUE;

-- name: remove_events!
-- Delete the pending events of a user, locked in the order in which the service writes them.
DELETE FROM todoist_events WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM todoist_events WHERE user_id = :user_id ORDER BY object_type, object_id FOR UPDATE));

-- name: remove_user!
-- Delete a user with the account, decisions and reactions.
DELETE FROM users WHERE user_id = :user_id;

-- name: remove_context!
-- Delete a user's row of the context store.
DELETE FROM context_store WHERE user_id = :user_id;

-- name: list_users
-- Every user with the state of the account.
SELECT u.user_id, u.email, u.timezone, u.active, a.connected, a.observed_at, a.auth_failures, a.refused_at
FROM users u LEFT JOIN todoist_accounts a USING (user_id)
ORDER BY u.user_id;

-- name: set_active!
-- Include a user in fetches, or exclude the user from them. Events of an inactive user were not kept, so the user is not
-- covered until a call confirms an event again.
WITH included AS (
    UPDATE todoist_accounts a SET events_confirmed_at = NULL
    FROM users u WHERE u.user_id = :user_id AND a.user_id = u.user_id AND NOT u.active
)
UPDATE users SET active = :active WHERE user_id = :user_id;

-- name: users_due
-- Active, connected users to fetch in the run at :now, if the next run is at :next_run_at. A user is due in two cases:
-- 1. The user was never fetched, or last fetched before :refetch_before (before :idle_refetch_before if the user was
--    created, and last asked for a tip, before :idle_since). If both are NULL, this case is off. If :spares_covered, users
--    whom trusted events cover, and who were fetched since trust last ended, are due only for their next audit.
-- 2. The user will ask before :next_run_at with a probability of at least :threshold while the context is known as of more
--    than :sla before, with a tolerance of 30 minutes for both instants; or, if :heeds_hints, while a trusted event tells
--    of a change. A context that becomes invalid before that request, at the user's midnight, is left out: a fetch now
--    would not help.
-- An instant after :latest counts for nothing: it is from before the clock was set back.
-- The users of some shards of :n_shards, or of all shards if :shards is NULL.
WITH expected AS MATERIALIZED (
    SELECT share_of_users_asking(:now, :next_run_at)
               / extract(EPOCH FROM :next_run_at::TIMESTAMPTZ - :now::TIMESTAMPTZ)::FLOAT AS per_second
)
SELECT u.user_id, known.observed_at
FROM users u JOIN todoist_accounts a USING (user_id) LEFT JOIN context_store c USING (user_id) CROSS JOIN expected
CROSS JOIN LATERAL (
    SELECT CASE WHEN a.observed_at <= :latest THEN a.observed_at END AS observed_at,
           CASE WHEN c.materialized_at <= :latest THEN c.materialized_at END AS materialized_at
) known
CROSS JOIN LATERAL known_as_of(a.user_id, a.connection_number, a.observed_at, a.is_covered,
                               greatest(known.materialized_at, known.observed_at), :believes_events) AS fresh_at
LEFT JOIN LATERAL (
    SELECT CASE WHEN :spares_covered AND h.is_trusted AND a.is_covered
                     AND known.observed_at >= coalesce(h.evidence_since, '-infinity')
                THEN :now - h.audit_every + INTERVAL '4 hours' END AS audit_before,
           :heeds_hints AND h.is_trusted AND a.is_covered AND EXISTS (
               SELECT FROM todoist_events e
               WHERE e.user_id = a.user_id AND e.connection_number = a.connection_number
                 AND e.received_at >= greatest(known.materialized_at, known.observed_at)) AS is_hint
    FROM todoist_channel h
) told ON TRUE
CROSS JOIN LATERAL (
    SELECT greatest(:now, CASE WHEN told.is_hint THEN NULL ELSE fresh_at + :sla::INTERVAL - INTERVAL '30 minutes' END)
               AS since,
           least(:next_run_at::TIMESTAMPTZ + INTERVAL '30 minutes',
                 CASE WHEN c.valid_until > :now THEN c.valid_until END) AS until
) stale
WHERE u.active AND a.connected
  AND (:shards::BIGINT[] IS NULL OR mod(u.shard_key, :n_shards) = ANY(:shards::BIGINT[]))
  AND (coalesce(known.observed_at, '-infinity') < CASE
      WHEN u.created_at >= :idle_since
           OR EXISTS (SELECT FROM decisions d
                      WHERE d.user_id = u.user_id AND d.decided_at >= :idle_since AND d.delivered)
      THEN least(:refetch_before::TIMESTAMPTZ, told.audit_before) ELSE :idle_refetch_before::TIMESTAMPTZ END
    OR (stale.since < stale.until AND :threshold <= (
      SELECT probability
      FROM request_forecast(u.user_id, u.timezone, u.created_at, stale.since, stale.until,
                            expected.per_second * extract(EPOCH FROM stale.until - stale.since)::FLOAT)
  )))
ORDER BY u.user_id;

-- name: users_observed
-- Every user that was ever fetched: the instant of the last fetch, and whether the stored context is to be written or
-- refreshed: it agrees with no fetch as late, or is later than :latest and so from before the clock was set back, or lacks
-- an event that the stored tasks contain, or has no version and is not newer, or was made from an earlier account.
-- The users of some shards of :n_shards, or of all shards if :shards is NULL.
SELECT a.user_id, a.observed_at,
       a.observed_at > coalesce(fetched_at(c.materialized_at, c.rows_digest, a.rows_digest, a.observed_at), '-infinity')
           OR c.materialized_at > :latest::TIMESTAMPTZ
           OR (c.row_version IS NULL AND a.observed_at >= c.materialized_at)
           OR EXISTS (SELECT FROM todoist_events e
                      WHERE e.user_id = a.user_id AND e.folded_form = e.received_at) AS is_outdated
FROM todoist_accounts a JOIN users u USING (user_id)
LEFT JOIN context_store c ON c.user_id = a.user_id
    AND is_of_account(c.connection_number, c.materialized_at, a.connection_number, a.connected_at)
WHERE a.observed_at IS NOT NULL
  AND (:shards::BIGINT[] IS NULL OR mod(u.shard_key, :n_shards) = ANY(:shards::BIGINT[]))
ORDER BY a.user_id;

-- name: rows_digests
-- The digest of the stored rows that each user's sync token continues, if it is known.
-- The users of some shards of :n_shards, or of all shards if :shards is NULL.
SELECT a.user_id, a.rows_digest
FROM todoist_accounts a JOIN users u USING (user_id)
WHERE a.rows_digest IS NOT NULL
  AND (:shards::BIGINT[] IS NULL OR mod(u.shard_key, :n_shards) = ANY(:shards::BIGINT[]));

-- name: existing_users
-- The existing users among :user_ids.
SELECT user_id FROM users WHERE user_id = ANY(:user_ids);

-- name: sync_states
-- The credentials and the starting point of the next fetch of some users.
SELECT a.user_id, a.connection_number, a.credentials, a.sync_token, a.directory, u.timezone, a.rows_digest
FROM todoist_accounts a JOIN users u USING (user_id)
WHERE a.user_id = ANY(:user_ids);

-- name: read_credentials
-- Every account's credentials.
SELECT user_id, credentials FROM todoist_accounts ORDER BY user_id;

-- name: all_credentials
-- Every account's credentials, locked while they are encrypted with a new key.
SELECT user_id, connection_number, credentials FROM todoist_accounts ORDER BY user_id FOR UPDATE;

-- name: save_credentials!
-- Store renewed or re-encrypted credentials, unless the account was replaced meanwhile.
UPDATE todoist_accounts SET credentials = :credentials
WHERE user_id = :user_id AND connection_number = :connection_number;

-- name: save_observation*!
-- Store the starting point of the next fetch, after the data of a successful fetch are stored, unless the account was
-- replaced meanwhile. The instant of the last fetch does not move back, unless it is later than :latest, because the
-- clock was set back since. A run that began before the account was connected has fetched it after that. If the rows
-- differ from those stored before, changed_at is later than the previous fetch.
UPDATE todoist_accounts
SET sync_token = :sync_token, directory = :directory, rows_digest = :rows_digest,
    changed_at = CASE WHEN rows_digest = :rows_digest AND changed_at <= :latest THEN changed_at
                      ELSE greatest(:observed_at, CASE WHEN observed_at <= :latest
                                                       THEN observed_at + INTERVAL '1 microsecond' END) END,
    observed_at = greatest(:observed_at, CASE WHEN observed_at <= :latest THEN observed_at END,
                           CASE WHEN connected_at <= :latest THEN connected_at END),
    synced_at = :synced_at,
    connected_at = CASE WHEN connected_at > :latest THEN :observed_at ELSE connected_at END,
    todoist_user_id = coalesce(:todoist_user_id, todoist_user_id), auth_failures = 0, pending_refused_at = NULL
WHERE user_id = :user_id AND connection_number = :connection_number;

-- name: save_timezone*!
-- Store a user's time zone from Todoist, unless the account was replaced meanwhile.
UPDATE users u SET timezone = :timezone
FROM todoist_accounts a
WHERE a.user_id = u.user_id AND a.connection_number = :connection_number
  AND u.user_id = :user_id AND u.timezone <> :timezone;

-- name: save_owner!
-- Store whose Todoist an account is, unless the account was replaced meanwhile or it is known.
UPDATE todoist_accounts SET todoist_user_id = :todoist_user_id
WHERE user_id = :user_id AND connection_number = :connection_number
  AND todoist_user_id IS DISTINCT FROM :todoist_user_id;

-- name: save_refusal*!
-- Store that Todoist refused a token in the run at :refused_at, until the end of the run confirms or discards it.
UPDATE todoist_accounts SET pending_refused_at = :refused_at
WHERE user_id = :user_id AND connection_number = :connection_number;

-- name: confirm_refusals
-- Count the refusals of the run at :refused_at, and return the users disconnected by that. Refusals without a successful
-- fetch in between count once per day (UTC) and not twice within six hours around midnight. The second one disconnects.
WITH refused AS (
    SELECT user_id, auth_failures + 1 AS n_days, auth_failures = 0 OR (
        (pending_refused_at AT TIME ZONE 'UTC')::DATE > (refused_at AT TIME ZONE 'UTC')::DATE
        AND pending_refused_at >= refused_at + INTERVAL '6 hours') AS is_new_day
    FROM todoist_accounts WHERE pending_refused_at = :refused_at FOR UPDATE
), counted AS (
    UPDATE todoist_accounts a
    SET pending_refused_at = NULL,
        auth_failures = CASE WHEN r.is_new_day THEN r.n_days ELSE a.auth_failures END,
        refused_at = CASE WHEN r.is_new_day THEN a.pending_refused_at ELSE a.refused_at END,
        connected = a.connected AND NOT (r.is_new_day AND r.n_days >= 2)
    FROM refused r WHERE r.user_id = a.user_id
    RETURNING a.user_id, a.connected
)
SELECT user_id FROM counted WHERE NOT connected ORDER BY user_id;

-- name: discard_refusals!
-- Forget the refusals of the run at :refused_at.
UPDATE todoist_accounts SET pending_refused_at = NULL WHERE pending_refused_at = :refused_at;

-- name: reconnect
-- Connect the disconnected account of a user, or all of them if :user_id is NULL, and return the users. Events of a
-- disconnected account were not kept, so it is not covered until a call confirms an event again.
UPDATE todoist_accounts
SET connected = TRUE, auth_failures = 0, pending_refused_at = NULL, events_confirmed_at = NULL
WHERE NOT connected AND (:user_id::TEXT IS NULL OR user_id = :user_id)
RETURNING user_id;
