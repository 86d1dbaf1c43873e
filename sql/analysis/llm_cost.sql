-- What does the LLM cost by day, in total and per user who requested a tip?
SELECT day, n_users, n_tips, n_calls, n_requests, n_tokens, cost_usd, cost_usd / n_users AS cost_usd_per_user, n_unpriced,
       n_unusable
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
