-- name: request_versions
-- Contexts that requests assembled for these users and that are not in the Parquet history yet, oldest first.
SELECT user_id, assembled_at, materialized_at, context_hash, context_json
FROM request_contexts
WHERE user_id = ANY(:user_ids)
ORDER BY user_id, assembled_at;

-- name: delete_request_versions!
-- Those of them that are in it now; what came meanwhile stays.
DELETE FROM request_contexts r
USING unnest(:user_ids::TEXT[], :instants::TIMESTAMPTZ[], :hashes::TEXT[]) AS d (user_id, assembled_at, context_hash)
WHERE r.user_id = d.user_id AND r.assembled_at = d.assembled_at AND r.context_hash = d.context_hash;

-- name: expire_request_versions!
-- Those of days before :keep_from (UTC) that no night came to take: of users who cannot be fetched.
DELETE FROM request_contexts WHERE assembled_at < (:keep_from::DATE)::TIMESTAMP AT TIME ZONE 'UTC';

-- name: standing_context^
-- The context that a request would find now.
SELECT materialized_at, context_hash, context_json FROM context_store WHERE user_id = :user_id;

-- name: decision^
-- A decision with the tip that was chosen and what the user made of it; arrays count from 1.
SELECT d.decision_id, d.user_id, d.decided_at, d.source, d.llm, d.policy_version, d.tip_kind, d.theme, d.context_hash,
       d.materialized_at, d.propensities[d.chosen + 1] AS propensity, cardinality(d.propensities) AS n_candidates,
       d.candidate_set_id, s.tips[d.chosen + 1] AS tip, s.bases[d.chosen + 1] AS basis,
       s.made_at, s.author, s.context_hash AS made_for, r.reaction, r.reacted_at, r.reward
FROM decisions d
LEFT JOIN candidate_sets s USING (candidate_set_id)
LEFT JOIN reactions r USING (decision_id)
WHERE d.decision_id = :decision_id;

-- name: sets_with_tip
-- The user's sets up to one that hold the very same tip about the very same things, the newest first.
SELECT author, made_at, context_hash, candidate_set_id
FROM candidate_sets
WHERE user_id = :user_id AND made_at <= :made_at AND bases[array_position(tips, :tip)] = :basis
ORDER BY made_at DESC;
