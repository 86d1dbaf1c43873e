-- How fresh are contexts when a tip uses them, by hour of the day (UTC), and what is their source?
SELECT hour(decided_at) AS hour,
       count(*) AS n_tips,
       avg((source = 'stored')::INTEGER) AS share_stored,
       avg((source = 'inline')::INTEGER) AS share_inline,
       avg((source = 'stale')::INTEGER) AS share_stale,
       quantile_cont(epoch(decided_at - materialized_at) / 3600, 0.5) AS median_age_hours,
       quantile_cont(epoch(decided_at - materialized_at) / 3600, 0.95) AS p95_age_hours
FROM decisions
GROUP BY hour
ORDER BY hour
