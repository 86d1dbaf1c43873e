-- name: users
-- All users, the state of their accounts, and the freshness of their rows of context_store.
SELECT u.user_id, u.timezone, u.active, u.created_at, a.connected, a.observed_at, a.refused_at,
       fetched_at(c.materialized_at, c.rows_digest, a.rows_digest, a.observed_at) AS materialized_at
FROM users u LEFT JOIN todoist_accounts a USING (user_id) LEFT JOIN context_store c USING (user_id);

-- name: decisions
-- Delivered decisions (answered requests for a tip) since an instant.
SELECT d.decision_id::TEXT, d.user_id, d.decided_at, d.tip_kind, nullif(d.theme, '') AS theme, d.source, d.llm,
       s.author, d.materialized_at, d.context_hash, d.candidate_set_id::TEXT, d.policy_version,
       cardinality(d.propensities) AS n_candidates, d.propensities[d.chosen + 1] AS propensity, d.origin, d.set_age_s
FROM decisions d LEFT JOIN candidate_sets s USING (candidate_set_id)
WHERE d.decided_at >= $1 AND d.delivered;

-- name: candidate_sets
-- Sets of candidates since an instant, without their tips.
SELECT candidate_set_id::TEXT, user_id, made_at, author, origin, kept_from::TEXT, cardinality(kinds) AS n_tips, context_hash
FROM candidate_sets
WHERE made_at >= $1;

-- name: reactions
-- Reactions of users to the tips of decisions since an instant.
SELECT r.decision_id::TEXT, r.reaction, r.reacted_at, r.reward
FROM reactions r JOIN decisions d USING (decision_id)
WHERE d.decided_at >= $1;

-- name: llm_calls
-- LLM calls since an instant.
SELECT called_at, user_id, candidate_set_id::TEXT, model, outcome, n_requests, input_tokens, output_tokens, cost_usd,
       seconds, place, cached_tokens
FROM llm_calls
WHERE called_at >= $1;

-- name: asset_runs
-- Results for each asset of the runs that began since an instant.
SELECT run_id, step, asset, started_at, finished_at, n_shards, n_shards_run, n_users, n_users_computed, n_rows,
       data_version, changed, counts::TEXT
FROM asset_runs
WHERE started_at >= $1;
