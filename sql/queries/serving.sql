-- name: read_users
-- The freshness of these users' contexts and their last candidates, without the contexts. A user who is inactive or not
-- connected has neither, and what was made from an earlier account is left out. believes_events: see `known_as_of`.
-- ended_ids: tasks that ended since the context was fetched, as Todoist's webhooks report; clocks differ by a minute. An
-- earlier end, of which a repeated delivery tells, is in the context, unless the task is open again.
-- OFFSET 0 makes Postgres find the user's events by their key: the index by time would also read those of other users.
SELECT u.user_id, u.timezone, a.connection_number, a.auth_failures > 0 AS is_refused,
       c.fetched_at, c.valid_until, c.context_hash,
       known_as_of(a.user_id, a.connection_number, a.observed_at, a.is_covered, c.fetched_at, :believes_events),
       s.candidate_set_id, s.context_hash AS made_for, s.author,
       coalesce(s.origin, CASE s.author WHEN 'llm' THEN 'waited' ELSE s.author END) AS origin, s.kept_from, s.made_at,
       s.expires_at, s.renew_at, s.tips, s.kinds, s.themes, s.features,
       ARRAY(SELECT e.object_id
             FROM (SELECT * FROM todoist_events e WHERE e.user_id = a.user_id AND e.object_type = 'item' OFFSET 0) e
             WHERE e.connection_number = a.connection_number AND e.is_ended AND e.received_at > c.fetched_at
               AND coalesce(e.triggered_at, e.received_at) > c.fetched_at - INTERVAL '1 minute') AS ended_ids
FROM users u
LEFT JOIN todoist_accounts a ON a.user_id = u.user_id AND a.connected AND u.active
LEFT JOIN LATERAL (
    SELECT c.valid_until, c.context_hash,
           fetched_at(c.materialized_at, c.rows_digest, a.rows_digest, a.observed_at) AS fetched_at
    FROM context_store c
    WHERE c.user_id = a.user_id
      AND is_of_account(c.connection_number, c.materialized_at, a.connection_number, a.connected_at)
) c ON TRUE
LEFT JOIN LATERAL (
    SELECT * FROM candidate_sets s
    WHERE s.user_id = a.user_id AND is_of_account(s.connection_number, s.made_at, a.connection_number, a.connected_at)
    ORDER BY s.made_at DESC LIMIT 1
) s ON TRUE
WHERE u.user_id = ANY(:user_ids);

-- name: read_context^
-- A user's row of the store, if it was made from the account with this connection number.
SELECT fetched_at(c.materialized_at, c.rows_digest, a.rows_digest, a.observed_at) AS materialized_at,
       c.context_json, c.context_hash, c.valid_until, c.groups_json
FROM context_store c JOIN todoist_accounts a USING (user_id)
WHERE c.user_id = :user_id AND a.connection_number = :connection_number
  AND is_of_account(c.connection_number, c.materialized_at, a.connection_number, a.connected_at);

-- name: read_subject_hashes$
-- The subject hash of each tip of a set.
SELECT subject_hashes FROM candidate_sets WHERE candidate_set_id = :candidate_set_id;

-- name: read_account^
-- The account of a user for an inline fetch; no row if it must not be fetched.
SELECT a.user_id, a.connection_number, a.credentials, a.todoist_user_id, u.timezone
FROM todoist_accounts a JOIN users u USING (user_id)
WHERE a.user_id = :user_id AND u.active AND a.connected;

-- name: read_groups$
-- The task groups of the last clustering of an account's tasks.
SELECT c.groups_json FROM context_store c JOIN todoist_accounts a USING (user_id)
WHERE c.user_id = :user_id AND a.connection_number = :connection_number
  AND is_of_account(c.connection_number, c.materialized_at, a.connection_number, a.connected_at);

-- name: write_context$
-- Store a context that was assembled during a request, unless a newer one is stored or the account was replaced
-- meanwhile; returns TRUE if it was written.
-- A row that a later fetch agrees with is newer, too, unless a midnight has changed it. A row from more than
-- :clock_difference ahead was written before a clock was set back, and is not newer.
-- A row that differs from the previous one has no version and no digest (see `fetched_at`) until the pipeline writes it.
-- The digest is also dropped if the last fetch is dated after now, because a clock was set back. A context that differs
-- is also kept for the history, because later tips are made from it.
WITH before AS MATERIALIZED (
    SELECT c.context_hash, c.row_version, c.rows_digest, c.connection_number, c.materialized_at, c.valid_until,
           fetched_at(c.materialized_at, c.rows_digest, a.rows_digest, a.observed_at) AS fetched_at
    FROM context_store c LEFT JOIN todoist_accounts a USING (user_id)
    WHERE c.user_id = :user_id FOR UPDATE OF c  -- the row after any write in progress
), written AS (
    INSERT INTO context_store (user_id, materialized_at, context_json, context_hash, valid_until, groups_json,
                               row_version, rows_digest, connection_number)
    SELECT a.user_id, :materialized_at, :context_json, :context_hash, :valid_until, :groups_json,
           CASE WHEN b.row_version = :row_version THEN b.row_version END,
           CASE WHEN b.row_version = :row_version AND a.observed_at <= now() + :clock_difference THEN b.rows_digest END,
           a.connection_number
    FROM todoist_accounts a LEFT JOIN before b ON TRUE
    WHERE a.user_id = :user_id AND a.connection_number = :connection_number
      AND NOT coalesce(is_of_account(b.connection_number, b.materialized_at, a.connection_number, a.connected_at)
                       AND :materialized_at < b.fetched_at AND b.fetched_at <= now() + :clock_difference
                       AND (b.valid_until IS NULL OR :materialized_at < b.valid_until), FALSE)
    ON CONFLICT (user_id) DO UPDATE
    SET materialized_at = excluded.materialized_at, context_json = excluded.context_json,
        context_hash = excluded.context_hash, valid_until = excluded.valid_until, groups_json = excluded.groups_json,
        row_version = excluded.row_version, rows_digest = excluded.rows_digest,
        connection_number = excluded.connection_number
    WHERE context_store.connection_number < excluded.connection_number
       OR (coalesce(context_store.connection_number, excluded.connection_number) = excluded.connection_number
           AND (context_store.materialized_at <= excluded.materialized_at
                OR context_store.materialized_at > now() + :clock_difference))
    RETURNING user_id, materialized_at, context_hash, context_json
), kept AS (
    INSERT INTO request_contexts (user_id, assembled_at, materialized_at, context_hash, context_json)
    SELECT user_id, materialized_at, materialized_at, context_hash, context_json FROM written w
    WHERE NOT EXISTS (SELECT FROM before b WHERE b.context_hash = w.context_hash)
    ON CONFLICT DO NOTHING
)
SELECT TRUE FROM written;

-- name: write_candidates$
-- Append a set of candidates about an account, unless it was replaced or removed meanwhile; returns TRUE if the set was
-- written. A set from more than :clock_difference ahead was made before a clock was set back: it is dated before the new
-- one, or it would remain the newest.
WITH from_the_future AS (
    UPDATE candidate_sets SET made_at = :made_at::TIMESTAMPTZ - INTERVAL '1 microsecond'
    WHERE user_id = :user_id AND made_at > :made_at::TIMESTAMPTZ + :clock_difference::INTERVAL
)
INSERT INTO candidate_sets (candidate_set_id, user_id, context_hash, author, origin, kept_from, made_at, expires_at,
                            renew_at, tips, subject_hashes, kinds, themes, features, connection_number)
SELECT :candidate_set_id, u.user_id, :context_hash, :author, :origin, :kept_from, :made_at, :expires_at, :renew_at,
       :tips, :subject_hashes, :kinds, :themes, :features, a.connection_number
FROM users u JOIN todoist_accounts a USING (user_id)
WHERE u.user_id = :user_id AND u.active AND a.connected AND a.connection_number = :connection_number
RETURNING TRUE;

-- name: has_written_set$
-- Whether the LLM ever wrote candidates for the account with this connection number.
SELECT EXISTS (
    SELECT FROM candidate_sets s JOIN todoist_accounts a USING (user_id)
    WHERE s.user_id = :user_id AND s.author IN ('llm', 'kept') AND a.connection_number = :connection_number
      AND is_of_account(s.connection_number, s.made_at, a.connection_number, a.connected_at));

-- name: will_ask_again$
-- Whether a user who asks at :at will ask again on the same local day with a probability of at least :threshold: the share
-- of the days with requests, of the last 21, on which the user asked half an hour or more after this time of the day.
-- Earlier requests of those days count as the present one, made at a slightly different time. A user without a history
-- has a probability of one half, which counts like six days: one day of a user who comes back proves nothing.
WITH local AS (
    SELECT local_time(d.decided_at, u.timezone) AS at, local_time(:at, u.timezone) AS present
    FROM users u JOIN decisions d USING (user_id)
    WHERE u.user_id = :user_id AND d.delivered AND d.decided_at >= :at::TIMESTAMPTZ - INTERVAL '21 days'
), days AS (
    SELECT bool_or(at::TIME - present::TIME >= INTERVAL '30 minutes') AS is_later
    FROM local WHERE at::DATE < present::DATE GROUP BY at::DATE
)
SELECT (count(*) FILTER (WHERE is_later) + 6 * 0.5) / (count(*) + 6) >= :threshold::FLOAT FROM days;

-- name: renew_sooner!
-- Let the newest set of an account be renewed at :renew_at, if it is not of the LLM and is to be renewed between that
-- and :latest.
UPDATE candidate_sets SET renew_at = :renew_at
WHERE candidate_set_id = (SELECT candidate_set_id FROM candidate_sets
                          WHERE user_id = :user_id AND connection_number = :connection_number
                          ORDER BY made_at DESC LIMIT 1)
  AND author <> 'llm' AND renew_at > :renew_at AND renew_at <= :latest;

-- name: read_new_accounts
-- Of the :max_accounts accounts that were connected last, those of active users without a context of the account, the
-- newest first.
SELECT a.user_id, a.connection_number
FROM (SELECT * FROM todoist_accounts ORDER BY connection_number DESC LIMIT :max_accounts) a JOIN users u USING (user_id)
WHERE u.active AND a.connected
  AND NOT EXISTS (
      SELECT FROM context_store c
      WHERE c.user_id = a.user_id
        AND is_of_account(c.connection_number, c.materialized_at, a.connection_number, a.connected_at))
ORDER BY a.connection_number DESC;

-- name: write_decision!
-- Log the decision of one request; no row if the user has been removed.
INSERT INTO decisions (decision_id, user_id, decided_at, tip_kind, theme, context_hash, candidate_set_id, source, llm,
                       materialized_at, policy_version, seed, chosen, propensities, features, origin, set_age_s)
SELECT :decision_id, :user_id, :decided_at, :tip_kind, :theme, :context_hash, :candidate_set_id, :source, :llm,
       :materialized_at, :policy_version, :seed, :chosen, :propensities, :features, :origin, :set_age_s
FROM users u WHERE u.user_id = :user_id;

-- name: write_llm_call!
-- Record the usage of one call of the LLM.
INSERT INTO llm_calls (called_at, user_id, candidate_set_id, model, outcome, n_requests, input_tokens, cached_tokens,
                       output_tokens, cost_usd, seconds, place)
SELECT :called_at, u.user_id, :candidate_set_id, :model, :outcome, :n_requests, :input_tokens, :cached_tokens,
       :output_tokens, :cost_usd, :seconds, :place
FROM users u WHERE u.user_id = :user_id;

-- name: lock_decision^
-- A decision, locked: other reactions to it wait.
SELECT decision_id, user_id, policy_version, chosen, features, cardinality(propensities) AS n_candidates
FROM decisions
WHERE decision_id = :decision_id
FOR UPDATE;

-- name: drop_reacted_tip!
-- After a reaction to a decision, append its set of rule-based candidates without the chosen tip: the tip does not come
-- again at once. The set has to be the user's newest one, of the present account and not expired; at least :min_tips
-- others have to stay, and the decision has to be readable. The set itself stays as it is, because decisions refer to its
-- tips by their number. The new set is dated right after it: one that the LLM writes meanwhile is newer. A set of the LLM
-- stays whole: with fewer tips it would soon have too few that are valid, and the LLM would be called again.
INSERT INTO candidate_sets (candidate_set_id, user_id, context_hash, author, origin, kept_from, made_at, expires_at,
                            renew_at, tips, subject_hashes, kinds, themes, features, connection_number)
SELECT gen_random_uuid(), s.user_id, s.context_hash, s.author, s.author, s.kept_from,
       s.made_at + INTERVAL '1 microsecond', s.expires_at, s.renew_at,
       s.tips[1:(n)] || s.tips[(n + 2):(size)],
       s.subject_hashes[1:(n)] || s.subject_hashes[(n + 2):(size)], s.kinds[1:(n)] || s.kinds[(n + 2):(size)],
       s.themes[1:(n)] || s.themes[(n + 2):(size)],
       substr(s.features, 1, n * width) || substr(s.features, (n + 1) * width + 1), a.connection_number
FROM decisions d JOIN candidate_sets s USING (candidate_set_id, user_id) JOIN todoist_accounts a USING (user_id),
     LATERAL (SELECT d.chosen AS n, cardinality(s.tips) AS size,
                     length(s.features) / nullif(cardinality(s.tips), 0) AS width) AS place
WHERE d.decision_id = :decision_id AND n BETWEEN 0 AND size - 1 AND size > :min_tips AND s.author = 'rules'
  AND s.expires_at > :now AND is_of_account(s.connection_number, s.made_at, a.connection_number, a.connected_at)
  AND s.candidate_set_id = (SELECT latest.candidate_set_id FROM candidate_sets latest WHERE latest.user_id = s.user_id
                            ORDER BY latest.made_at DESC LIMIT 1);

-- name: lock_decisions
-- The ids of those of these decisions that exist, locked: reactions to them wait.
SELECT decision_id FROM decisions WHERE decision_id = ANY(:decision_ids) ORDER BY decision_id FOR UPDATE;

-- name: mark_undelivered!
-- Mark decisions as undelivered, except those with a reaction: they evidently arrived. Run it after lock_decisions as
-- a separate statement, see read_reaction.
UPDATE decisions d SET delivered = FALSE
WHERE d.decision_id = ANY(:decision_ids)
  AND NOT EXISTS (SELECT FROM reactions r WHERE r.decision_id = d.decision_id);

-- name: mark_delivered!
-- Mark a decision as delivered, because there is a reaction to it.
UPDATE decisions SET delivered = TRUE WHERE decision_id = :decision_id AND NOT delivered;

-- name: read_reaction^
-- The stored reaction. Run it after lock_decision as a separate statement: a statement that waits for a lock still
-- sees the rows from before the wait.
SELECT reaction, reward FROM reactions WHERE decision_id = :decision_id;

-- name: write_reaction!
-- Store a reaction; it replaces the previous one.
INSERT INTO reactions (decision_id, reaction, reacted_at, reward) VALUES (:decision_id, :reaction, :reacted_at, :reward)
ON CONFLICT (decision_id) DO UPDATE
SET reaction = excluded.reaction, reacted_at = excluded.reacted_at, reward = excluded.reward;

-- name: lock_unreacted
-- Delivered decisions after :since and up to :until without a reaction, except rows that another transaction has
-- locked.
SELECT d.decision_id, d.decided_at, d.policy_version, d.chosen, d.features, cardinality(d.propensities) AS n_candidates
FROM decisions d
WHERE d.decided_at > :since AND d.decided_at <= :until AND d.chosen IS NOT NULL AND d.delivered
  AND NOT EXISTS (SELECT FROM reactions r WHERE r.decision_id = d.decision_id)
ORDER BY d.decided_at
LIMIT :max_rows
FOR UPDATE OF d SKIP LOCKED;

-- name: write_ignored
-- Store the reaction `ignored` for decisions without a reaction; returns the ids of these.
INSERT INTO reactions (decision_id, reaction, reacted_at, reward)
SELECT id, 'ignored', :reacted_at, :reward FROM unnest(:decision_ids::UUID[]) AS id
ON CONFLICT (decision_id) DO NOTHING
RETURNING decision_id;

-- name: add_policy!
-- Store a policy's first posterior, unless it has one.
INSERT INTO policies (policy, n_features, precision, weighted, n_updates, updated_at)
VALUES (:policy, :n_features, :precision, :weighted, 0, now())
ON CONFLICT (policy) DO NOTHING;

-- name: read_policy^
-- A policy's posterior.
SELECT n_features, precision, weighted, n_updates FROM policies WHERE policy = :policy;

-- name: read_policy_updates$
-- The number of updates of a policy's posterior.
SELECT n_updates FROM policies WHERE policy = :policy;

-- name: lock_policy^
-- A policy's posterior, locked: other updates wait.
SELECT n_features, precision, weighted, n_updates FROM policies WHERE policy = :policy FOR UPDATE;

-- name: save_policy!
-- Store the posterior after an update.
UPDATE policies
SET n_features = :n_features, precision = :precision, weighted = :weighted, n_updates = :n_updates,
    updated_at = :updated_at
WHERE policy = :policy;

-- name: set_policy_aside!
-- Copy a policy's posterior that cannot be read, as it is.
INSERT INTO unreadable_policies (policy, set_aside_at, reason, n_features, precision, weighted, n_updates, updated_at)
SELECT policy, :set_aside_at, :reason, n_features, precision, weighted, n_updates, updated_at
FROM policies WHERE policy = :policy
ON CONFLICT DO NOTHING;

-- name: learned_decisions
-- The newest decisions before the decision (:before, :before_id), and of those of a policy that have a reaction, which
-- are marked by is_learned, the features and the reward. The rows that are read are bounded, not only those that
-- match: each statement is short whatever the log contains.
WITH page AS MATERIALIZED (
    SELECT decision_id, decided_at, policy_version, chosen, features, propensities FROM decisions
    WHERE (decided_at, decision_id) < (:before, :before_id)
    ORDER BY decided_at DESC, decision_id DESC LIMIT :max_rows
), marked AS (
    SELECT p.*, r.reaction, r.reward,
           r.reaction IS NOT NULL AND p.chosen IS NOT NULL
               AND coalesce(regexp_replace(p.policy_version, '@[^@]*$', '') = :policy, FALSE) AS is_learned
    FROM page p LEFT JOIN LATERAL (SELECT * FROM reactions r WHERE r.decision_id = p.decision_id OFFSET 0) r ON TRUE
)
SELECT decision_id, decided_at, chosen, CASE WHEN is_learned THEN features END AS features,
       CASE WHEN is_learned THEN cardinality(propensities) END AS n_candidates, reaction, reward, is_learned
FROM marked
ORDER BY decided_at DESC, decision_id DESC;

-- name: remove_user$
-- Delete a user with account, contexts of requests, candidates, decisions and reactions; returns TRUE if there was one.
DELETE FROM users WHERE user_id = :user_id RETURNING TRUE;

-- name: try_transaction_lock$
-- Try to acquire an advisory lock for this transaction; returns whether it succeeded.
SELECT pg_try_advisory_xact_lock(7402, hashtext(:name));

-- name: delete_decisions$
-- Delete the oldest decisions from before :before with their reactions, except those with a reaction since
-- :reacted_since, which contexts still count; returns the number of decisions.
WITH expired AS (
    SELECT d.decision_id FROM decisions d
    WHERE d.decided_at < :before
      AND NOT EXISTS (SELECT FROM reactions r WHERE r.decision_id = d.decision_id AND r.reacted_at >= :reacted_since)
    ORDER BY d.decided_at LIMIT :max_rows
    FOR UPDATE SKIP LOCKED
), deleted AS (
    DELETE FROM decisions d USING expired e WHERE d.decision_id = e.decision_id RETURNING 1
)
SELECT count(*) FROM deleted;

-- name: delete_candidates^
-- Read candidate sets from before :before, the oldest ones after the set (:after_made_at, :after_id), and delete them,
-- except each user's newest ones, and those from which a tip of a decision that is still stored can be: a request
-- makes its candidates a little later than it decides, and tips are kept for days. Returns the numbers of sets read
-- and deleted, and the last set read.
-- The subqueries use indexes for each set: OFFSET 0 keeps Postgres from joining whole tables instead.
WITH read AS MATERIALIZED (
    SELECT candidate_set_id, user_id, made_at FROM candidate_sets
    WHERE made_at < :before AND (made_at, candidate_set_id) > (:after_made_at, :after_id)
    ORDER BY made_at, candidate_set_id LIMIT :max_rows
), expired AS MATERIALIZED (
    SELECT candidate_set_id FROM read
    WHERE made_at < (SELECT max(n.made_at) FROM candidate_sets n WHERE n.user_id = read.user_id)
      AND NOT EXISTS (
          SELECT FROM decisions d
          WHERE d.user_id = read.user_id AND d.decided_at >= read.made_at - INTERVAL '1 hour'
            AND d.decided_at < read.made_at + INTERVAL '7 days'
          OFFSET 0)
), deleted AS (
    DELETE FROM candidate_sets WHERE candidate_set_id = ANY(ARRAY(SELECT candidate_set_id FROM expired)) RETURNING 1
), last AS (
    SELECT made_at, candidate_set_id FROM read ORDER BY made_at DESC, candidate_set_id DESC LIMIT 1
)
SELECT (SELECT count(*) FROM read) AS n_read, (SELECT count(*) FROM deleted) AS n_deleted,
       (SELECT made_at FROM last) AS last_made_at, (SELECT candidate_set_id FROM last) AS last_id;

-- name: delete_llm_calls$
-- Delete the oldest calls of the LLM from before :before; returns their number.
WITH expired AS (
    SELECT ctid FROM llm_calls WHERE called_at < :before ORDER BY called_at LIMIT :max_rows FOR UPDATE SKIP LOCKED
), deleted AS (
    DELETE FROM llm_calls WHERE ctid = ANY(ARRAY(SELECT ctid FROM expired)) RETURNING 1
)
SELECT count(*) FROM deleted;

-- name: delete_events$
-- Delete the oldest pending events from before :before; returns their number.
WITH expired AS (
    SELECT ctid FROM todoist_events WHERE received_at < :before ORDER BY received_at LIMIT :max_rows
    FOR UPDATE SKIP LOCKED
), deleted AS (
    DELETE FROM todoist_events WHERE ctid = ANY(ARRAY(SELECT ctid FROM expired)) RETURNING 1
)
SELECT count(*) FROM deleted;

-- name: try_locks
-- Try to acquire advisory locks for this session; returns whether each succeeded.
SELECT name, pg_try_advisory_lock(7402, hashtext(name)) AS is_held FROM unnest(:names::TEXT[]) AS name;

-- name: unlock
-- Release advisory locks.
SELECT pg_advisory_unlock(7402, hashtext(name)) FROM unnest(:names::TEXT[]) AS name;

-- name: list_tables
-- The tables of this schema.
SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema();

-- name: next_credentials
-- The credentials of the accounts after a user, to check the keys.
SELECT user_id, credentials FROM todoist_accounts WHERE user_id > :after ORDER BY user_id LIMIT :max_rows;

-- name: lacks_columns$
-- Whether a table lacks one of these columns. It looks in the catalogue, so that a lock on the table does not block it.
SELECT EXISTS (
    SELECT FROM unnest(:names::TEXT[]) AS name
    WHERE NOT EXISTS (SELECT FROM pg_attribute
                      WHERE attrelid = to_regclass(:table_name) AND attname = name AND NOT attisdropped));

-- name: is_read_only$
-- Whether this session refuses writes: it is on a standby, or the server or database is set to read-only.
SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::BOOLEAN;
