-- What does the LLM cost by day, in total and per user who requested a tip?
SELECT day, coalesce(n_users, 0) AS n_users, coalesce(n_tips, 0) AS n_tips, coalesce(n_calls, 0) AS n_calls,
       coalesce(n_requests, 0) AS n_requests, coalesce(n_tokens, 0) AS n_tokens,
       CASE WHEN n_calls IS NULL THEN 0 ELSE cost_usd END AS cost_usd,
       CASE WHEN n_calls IS NULL THEN 0 ELSE cost_usd END / nullif(n_users, 0) AS cost_usd_per_user,
       coalesce(n_unpriced, 0) AS n_unpriced, coalesce(n_unusable, 0) AS n_unusable
FROM (
    SELECT decided_at::DATE AS day, count(DISTINCT user_id) AS n_users, count(*) AS n_tips FROM decisions GROUP BY day
)
FULL JOIN (
    SELECT called_at::DATE AS day, count(*) AS n_calls, sum(n_requests)::BIGINT AS n_requests,
           sum(input_tokens + output_tokens)::BIGINT AS n_tokens, sum(cost_usd) AS cost_usd,
           count(*) FILTER (WHERE cost_usd IS NULL) AS n_unpriced,
           count(*) FILTER (WHERE candidate_set_id IS NULL) AS n_unusable
    FROM llm_calls GROUP BY day
) USING (day)
ORDER BY day
