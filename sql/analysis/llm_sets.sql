-- How many sets of candidates did the LLM write, how many were ever chosen from, and at what cost, by day and origin?
SELECT called_at::DATE AS day,
       CASE coalesce(place, 'request') WHEN 'request' THEN 'waited' ELSE place END AS origin,
       count(*) AS n_calls,
       count(candidate_set_id) AS n_sets,
       count(used_id) AS n_shown,
       n_sets - n_shown AS n_never_shown,
       sum(cost_usd) AS cost_usd,
       sum(cost_usd) FILTER (WHERE candidate_set_id IS NOT NULL AND used_id IS NULL) AS cost_usd_never_shown,
       sum(cached_tokens) / sum(input_tokens) AS share_cached
FROM llm_calls
LEFT JOIN (
    SELECT DISTINCT coalesce(s.kept_from, s.candidate_set_id) AS used_id
    FROM decisions d JOIN candidate_sets s USING (candidate_set_id)
) used ON used_id = candidate_set_id
GROUP BY day, origin
ORDER BY day, origin
