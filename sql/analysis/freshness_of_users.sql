-- How long ago were the signals of active users fetched, by a pipeline run or by a request?
SELECT CASE WHEN age IS NULL THEN 'never' WHEN age < 6 THEN 'under 6 h' WHEN age < 24 THEN '6 to 24 h'
            WHEN age < 168 THEN '1 to 7 days' ELSE 'over 7 days' END AS signal_age,
       count(*) AS n_users,
       n_users / sum(n_users) OVER () AS share
FROM (SELECT epoch(as_of() - greatest(observed_at, materialized_at)) / 3600 AS age FROM users WHERE active)
GROUP BY signal_age
ORDER BY min(age) NULLS LAST
