-- name: read_users
-- What a request needs of these users: the freshness of their contexts and their last candidates, no context.
SELECT u.user_id, u.timezone, c.materialized_at, c.valid_until, c.context_hash,
       s.candidate_set_id, s.context_hash AS made_for, s.author, s.expires_at, s.renew_at, s.tips, s.kinds, s.themes, s.features
FROM users u
LEFT JOIN context_store c ON c.user_id = u.user_id
LEFT JOIN LATERAL (
    SELECT * FROM candidate_sets s WHERE s.user_id = u.user_id ORDER BY s.made_at DESC LIMIT 1
) s ON TRUE
WHERE u.user_id = ANY(:user_ids);

-- name: read_context^
-- A user's row of the store.
SELECT c.materialized_at, c.context_json, c.context_hash, c.valid_until, c.themes
FROM context_store c WHERE c.user_id = :user_id;

-- name: read_bases$
-- What the tips of a set speak about, as hashes.
SELECT bases FROM candidate_sets WHERE candidate_set_id = :candidate_set_id;

-- name: read_account^
-- What an inline fetch needs of a user's account, if it may be fetched at all.
SELECT a.user_id, a.credentials, u.timezone
FROM todoist_accounts a JOIN users u USING (user_id)
WHERE a.user_id = :user_id AND u.active AND a.connected;

-- name: read_themes$
-- A user's themes as of the last clustering.
SELECT themes FROM context_store WHERE user_id = :user_id;

-- name: write_context$
-- A context that was assembled during a request, unless a newer one came meanwhile; gives whether it was written.
-- Where it is another one than stood there it is kept for the history, too: the tips to come are made from it.
WITH before AS MATERIALIZED (
    SELECT context_hash FROM context_store WHERE user_id = :user_id FOR UPDATE  -- as it is once nobody writes it
), written AS (
    INSERT INTO context_store (user_id, materialized_at, context_json, context_hash, valid_until, themes, row_version)
    SELECT u.user_id, :materialized_at, :context_json, :context_hash, :valid_until, :themes, :row_version
    FROM users u LEFT JOIN before ON TRUE WHERE u.user_id = :user_id
    ON CONFLICT (user_id) DO UPDATE
    SET materialized_at = excluded.materialized_at, context_json = excluded.context_json,
        context_hash = excluded.context_hash, valid_until = excluded.valid_until, themes = excluded.themes,
        row_version = excluded.row_version
    WHERE context_store.materialized_at <= excluded.materialized_at
    RETURNING user_id, materialized_at, context_hash, context_json
), kept AS (
    INSERT INTO request_contexts (user_id, assembled_at, materialized_at, context_hash, context_json)
    SELECT user_id, materialized_at, materialized_at, context_hash, context_json FROM written w
    WHERE NOT EXISTS (SELECT FROM before b WHERE b.context_hash = w.context_hash)
    ON CONFLICT DO NOTHING
)
SELECT TRUE FROM written;

-- name: write_candidates!
-- A new set of candidates.
INSERT INTO candidate_sets (candidate_set_id, user_id, context_hash, author, made_at, expires_at, renew_at, tips, bases,
                            kinds, themes, features)
SELECT :candidate_set_id, u.user_id, :context_hash, :author, :made_at, :expires_at, :renew_at, :tips, :bases,
       :kinds, :themes, :features
FROM users u WHERE u.user_id = :user_id;

-- name: write_decision!
-- One answered request; of a user who is just being removed nothing is kept.
INSERT INTO decisions (decision_id, user_id, decided_at, tip_kind, theme, context_hash, candidate_set_id, source, llm,
                       materialized_at, policy_version, seed, chosen, propensities, features)
SELECT :decision_id, :user_id, :decided_at, :tip_kind, :theme, :context_hash, :candidate_set_id, :source, :llm,
       :materialized_at, :policy_version, :seed, :chosen, :propensities, :features
FROM users u WHERE u.user_id = :user_id;

-- name: write_llm_call!
-- What a call of the LLM took.
INSERT INTO llm_calls (called_at, user_id, candidate_set_id, model, outcome, n_requests, input_tokens, output_tokens,
                       cost_usd, seconds)
SELECT :called_at, u.user_id, :candidate_set_id, :model, :outcome, :n_requests, :input_tokens, :output_tokens,
       :cost_usd, :seconds
FROM users u WHERE u.user_id = :user_id;

-- name: lock_decision^
-- A decision; whoever else reacts to it waits.
SELECT decision_id, user_id, policy_version, chosen, features, cardinality(propensities) AS n_candidates
FROM decisions
WHERE decision_id = :decision_id
FOR UPDATE;

-- name: read_reaction^
-- What stands; after the lock, because a statement that had to wait for it sees what was there before it waited.
SELECT reaction, reward FROM reactions WHERE decision_id = :decision_id;

-- name: write_reaction!
-- What a user made of a tip, in place of what was there.
INSERT INTO reactions (decision_id, reaction, reacted_at, reward) VALUES (:decision_id, :reaction, :reacted_at, :reward)
ON CONFLICT (decision_id) DO UPDATE
SET reaction = excluded.reaction, reacted_at = excluded.reacted_at, reward = excluded.reward;

-- name: lock_unanswered
-- Decisions after :since and up to :until that nobody reacted to; those that somebody else holds are left out.
SELECT d.decision_id, d.decided_at, d.policy_version, d.chosen, d.features, cardinality(d.propensities) AS n_candidates
FROM decisions d
WHERE d.decided_at > :since AND d.decided_at <= :until AND d.chosen IS NOT NULL
  AND NOT EXISTS (SELECT FROM reactions r WHERE r.decision_id = d.decision_id)
ORDER BY d.decided_at
LIMIT :most
FOR UPDATE OF d SKIP LOCKED;

-- name: write_ignored
-- That tips were ignored; gives those of which it was news.
INSERT INTO reactions (decision_id, reaction, reacted_at, reward)
SELECT id, 'ignored', :reacted_at, :reward FROM unnest(:decision_ids::UUID[]) AS id
ON CONFLICT (decision_id) DO NOTHING
RETURNING decision_id;

-- name: add_policy!
-- A policy's first posterior, if it has none.
INSERT INTO policies (policy, n_features, precision, weighted, n_updates, updated_at)
VALUES (:policy, :n_features, :precision, :weighted, 0, now())
ON CONFLICT (policy) DO NOTHING;

-- name: read_policy^
-- A policy's posterior.
SELECT n_features, precision, weighted, n_updates FROM policies WHERE policy = :policy;

-- name: read_policy_updates$
-- How many updates a policy's posterior has seen.
SELECT n_updates FROM policies WHERE policy = :policy;

-- name: lock_policy^
-- A policy's posterior; whoever else updates it waits.
SELECT n_features, precision, weighted, n_updates FROM policies WHERE policy = :policy FOR UPDATE;

-- name: save_policy!
-- The posterior after an update.
UPDATE policies SET precision = :precision, weighted = :weighted, n_updates = :n_updates, updated_at = :updated_at
WHERE policy = :policy;

-- name: remove_user$
-- A user with account, contexts of requests, candidates, decisions and reactions; gives whether there was one.
DELETE FROM users WHERE user_id = :user_id RETURNING TRUE;

-- name: try_lock$
-- Whether a lock of this session was got.
SELECT pg_try_advisory_lock(7402, hashtext(:name));

-- name: unlock$
-- Give it back.
SELECT pg_advisory_unlock(7402, hashtext(:name));

-- name: tables_there
-- The tables of this schema.
SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema();

-- name: any_credentials^
-- One account's credentials, to see whether the keys fit.
SELECT user_id, credentials FROM todoist_accounts ORDER BY user_id LIMIT 1;

-- name: alive$
-- Whether the database answers.
SELECT 1;
