-- name: probable_requests
-- Users for whom a set is worth its price in the run at :now, with the instant of the request: :now if the user never
-- asked at this part of the day. These are
-- 1. users who will ask for a tip before :next_run_at with a probability of at least :threshold, unless they did not ask
--    on a day for which a set of their present account was written ahead, nor since;
-- 2. with :with_first_sets, users for whom the LLM was never called.
-- The users of some shards of :n_shards, or of all shards if :shards is NULL.
WITH expected AS MATERIALIZED (SELECT share_of_users_asking(:now, :next_run_at) AS share)
SELECT u.user_id, coalesce(forecast.likely_at, :now) AS likely_at
FROM users u JOIN todoist_accounts a USING (user_id) CROSS JOIN expected
CROSS JOIN LATERAL request_forecast(u.user_id, u.timezone, u.created_at, :now, :next_run_at, expected.share) forecast
WHERE u.active AND a.connected AND a.auth_failures = 0
  AND (:shards::BIGINT[] IS NULL OR mod(u.shard_key, :n_shards) = ANY(:shards::BIGINT[]))
  AND CASE WHEN forecast.probability >= :threshold THEN NOT EXISTS (
          SELECT FROM candidate_sets s
          WHERE s.user_id = u.user_id AND s.origin = 'ahead' AND s.expires_at <= coalesce(forecast.likely_at, :now)
            AND is_of_account(s.connection_number, s.made_at, a.connection_number, a.connected_at)
            AND NOT EXISTS (
                SELECT FROM decisions d
                WHERE d.user_id = u.user_id AND d.decided_at >= s.expires_at - INTERVAL '1 day' AND d.delivered))
      ELSE :with_first_sets AND NOT EXISTS (SELECT FROM llm_calls c WHERE c.user_id = u.user_id)
           AND NOT EXISTS (SELECT FROM candidate_sets s WHERE s.user_id = u.user_id AND s.author IN ('llm', 'kept')) END
ORDER BY u.user_id;

-- name: request_forecasts
-- The probability that each active, connected user asks for a tip between :now and :next_run_at, and the instant of the
-- request: NULL if the user never asked at this part of the day.
WITH expected AS MATERIALIZED (SELECT share_of_users_asking(:now, :next_run_at) AS share)
SELECT u.user_id, forecast.probability, forecast.likely_at
FROM users u JOIN todoist_accounts a USING (user_id) CROSS JOIN expected
CROSS JOIN LATERAL request_forecast(u.user_id, u.timezone, u.created_at, :now, :next_run_at, expected.share) forecast
WHERE u.active AND a.connected;

-- name: last_sets
-- The newest candidates of each of these users that were made from their present account.
SELECT DISTINCT ON (s.user_id) s.user_id, s.author, s.context_hash, s.expires_at, s.renew_at, s.tips, s.subject_hashes
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
-- The calls of the LLM ahead of requests since an instant, those under way in batches among them, and their cost in US
-- dollars: the known cost of calls that were answered, and :price for each request under way.
WITH under_way AS (
    SELECT count(*) AS n FROM llm_batch_requests r JOIN llm_batches b USING (batch_id)
    WHERE r.ended_at IS NULL AND b.created_at >= :since
), answered AS (
    SELECT coalesce(sum(n_requests), 0) AS n, coalesce(sum(cost_usd), 0) AS cost_usd
    FROM llm_calls WHERE place = 'ahead' AND called_at >= :since
)
SELECT (answered.n + under_way.n)::INTEGER AS n_calls, answered.cost_usd + under_way.n * :price::FLOAT AS cost_usd
FROM answered, under_way;

-- name: price_of_a_call$
-- The mean known cost in US dollars of a call of the LLM since an instant, that ahead of requests if there was any;
-- NULL if no cost is known.
SELECT coalesce(avg(cost_usd) FILTER (WHERE place = 'ahead'), avg(cost_usd))
FROM llm_calls WHERE called_at >= :since;
