-- name: request_versions
-- Read the contexts that requests assembled for these users and that are not in the Parquet history yet, oldest first.
SELECT user_id, assembled_at, materialized_at, context_hash, context_json
FROM request_contexts
WHERE user_id = ANY(:user_ids)
ORDER BY user_id, assembled_at;

-- name: delete_request_versions!
-- Delete contexts of requests that are in the history now; contexts that were assembled meanwhile stay.
DELETE FROM request_contexts r
USING unnest(:user_ids::TEXT[], :instants::TIMESTAMPTZ[], :hashes::TEXT[]) AS d (user_id, assembled_at, context_hash)
WHERE r.user_id = d.user_id AND r.assembled_at = d.assembled_at AND r.context_hash = d.context_hash;

-- name: expire_request_versions!
-- Delete requests' contexts from before the day :keep_from (UTC). No run moves those of users who cannot be fetched.
DELETE FROM request_contexts WHERE assembled_at < (:keep_from::DATE)::TIMESTAMP AT TIME ZONE 'UTC';

-- name: current_context^
-- Read the stored context, if it was made from the user's present account.
SELECT c.materialized_at, c.context_hash, c.context_json
FROM context_store c LEFT JOIN todoist_accounts a USING (user_id)
WHERE c.user_id = :user_id
  AND is_of_account(c.connection_number, c.materialized_at, coalesce(a.connection_number, 0), a.connected_at);

-- name: decision^
-- Read a decision with the chosen tip and the user's reaction; arrays count from 1.
SELECT d.decision_id, d.user_id, d.decided_at, d.source, d.llm, d.delivered, d.policy_version, d.tip_kind, d.theme, d.context_hash,
       d.materialized_at, d.propensities[d.chosen + 1] AS propensity, cardinality(d.propensities) AS n_candidates,
       d.candidate_set_id, s.tips[d.chosen + 1] AS tip, s.subject_hashes[d.chosen + 1] AS subject_hash,
       s.made_at, s.author, s.context_hash AS made_for, r.reaction, r.reacted_at, r.reward
FROM decisions d
LEFT JOIN candidate_sets s USING (candidate_set_id)
LEFT JOIN reactions r USING (decision_id)
WHERE d.decision_id = :decision_id;

-- name: sets_with_tip
-- Read the user's sets up to an instant that hold the same tip with the same subject, newest first.
SELECT author, made_at, context_hash, candidate_set_id
FROM candidate_sets
WHERE user_id = :user_id AND made_at <= :made_at AND subject_hashes[array_position(tips, :tip)] = :subject_hash
ORDER BY made_at DESC;
