-- name: probable_requests
-- Users who will ask for a tip before :next_run_at with a probability of at least :threshold, or of :first_threshold if
-- the LLM never wrote for the user; the probability, and the instant of the request. The users of one shard of
-- :n_shards, or of all shards if :shard is NULL.
-- The probability is the share of the last :n_days days on which the user asked between these two times of their day.
-- Recent days weigh more (:decay for each day of age), and the share of all users in the last seven days counts like
-- :prior_days more days: it stands for users without a history. The instant is that of the earliest of these requests,
-- :now for a user without any.
WITH everybody AS (
    SELECT count(*) AS n_users
    FROM users u JOIN todoist_accounts a USING (user_id) WHERE u.active AND a.connected
), asked AS (
    SELECT count(DISTINCT (d.user_id, day)) AS n_requests
    FROM generate_series(1, 7) AS day
    JOIN decisions d ON d.decided_at >= :now::TIMESTAMPTZ - day * INTERVAL '1 day'
                    AND d.decided_at < :next_run_at::TIMESTAMPTZ - day * INTERVAL '1 day' AND d.delivered
    JOIN users u USING (user_id) JOIN todoist_accounts a USING (user_id) WHERE u.active AND a.connected
), prior AS (
    SELECT least(1.0, n_requests / (7.0 * greatest(n_users, 1))) AS share FROM everybody, asked
)
SELECT user_id, probability, coalesce(likely_at, :now) AS likely_at
FROM users u JOIN todoist_accounts a USING (user_id) CROSS JOIN prior
CROSS JOIN LATERAL (
    SELECT ceil(least(:n_days::FLOAT, extract(EPOCH FROM :now::TIMESTAMPTZ - u.created_at) / 86400))::INTEGER AS n_days
) known
CROSS JOIN LATERAL (
    SELECT sum(power(:decay::FLOAT, day)) AS weight FROM generate_series(1, known.n_days) AS day
) days
CROSS JOIN LATERAL (
    SELECT sum(power(:decay::FLOAT, day)) AS weight, min(likely_at) AS likely_at
    FROM (
        SELECT ceil(extract(EPOCH FROM :now::TIMESTAMPTZ - d.decided_at) / 86400)::INTEGER AS day,
               min(next_ask(d.decided_at, :now, u.timezone)) AS likely_at
        FROM decisions d
        WHERE d.user_id = u.user_id AND d.delivered
          AND d.decided_at >= :now::TIMESTAMPTZ - known.n_days * INTERVAL '1 day' AND d.decided_at < :now
          AND next_ask(d.decided_at, :now, u.timezone) < :next_run_at
        GROUP BY 1
    ) each_day
) own
CROSS JOIN LATERAL (
    SELECT (coalesce(own.weight, 0) + :prior_days * prior.share) / (coalesce(days.weight, 0) + :prior_days)
           AS probability
) estimate
WHERE u.active AND a.connected AND a.auth_failures = 0 AND probability >= CASE
      WHEN EXISTS (SELECT FROM candidate_sets s WHERE s.user_id = u.user_id AND s.author = 'llm') THEN :threshold::FLOAT
      ELSE :first_threshold END
  AND (:shard::INTEGER IS NULL OR mod(u.shard_key, :n_shards) = :shard)
ORDER BY u.user_id;

-- name: last_sets
-- The newest candidates of each of these users that were made from their present account.
SELECT DISTINCT ON (s.user_id) s.user_id, s.author, s.renew_at, s.tips, s.subject_hashes
FROM candidate_sets s JOIN todoist_accounts a USING (user_id)
WHERE s.user_id = ANY(:user_ids)
  AND is_of_account(s.connection_number, s.made_at, a.connection_number, a.connected_at)
ORDER BY s.user_id, s.made_at DESC;

-- name: sets_ahead
-- The newest set of each of these users that was written ahead.
SELECT DISTINCT ON (user_id) user_id, candidate_set_id::TEXT AS candidate_set_id, context_hash, made_at, expires_at,
       cardinality(tips) AS n_tips
FROM candidate_sets
WHERE user_id = ANY(:user_ids) AND origin = 'ahead'
ORDER BY user_id, made_at DESC;

-- name: spent_ahead^
-- The calls of the LLM ahead of requests since an instant, those under way in batches among them, and their known cost
-- in US dollars.
SELECT (coalesce(sum(n_requests), 0)
        + (SELECT count(*) FROM llm_batch_requests r JOIN llm_batches b USING (batch_id)
           WHERE r.ended_at IS NULL AND b.created_at >= :since))::INTEGER AS n_calls,
       coalesce(sum(cost_usd), 0) AS cost_usd
FROM llm_calls WHERE place = 'ahead' AND called_at >= :since;

-- name: price_of_a_call$
-- The mean known cost in US dollars of a call of the LLM since an instant, that ahead of requests if there was any;
-- NULL if no cost is known.
SELECT coalesce(avg(cost_usd) FILTER (WHERE place = 'ahead'), avg(cost_usd))
FROM llm_calls WHERE called_at >= :since;
