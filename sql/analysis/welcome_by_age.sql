-- Are tips from fresher contexts more welcome?
SELECT CASE WHEN age < 1 THEN 'under 1 h' WHEN age < 3 THEN '1 to 3 h' WHEN age < 6 THEN '3 to 6 h' ELSE 'over 6 h' END AS context_age,
       count(*) AS n_reacted,
       count(*) FILTER (WHERE is_welcome(reaction)) AS n_welcome,
       n_welcome / n_reacted AS share_welcome,
       share_low(n_welcome, n_reacted) AS share_low,
       share_high(n_welcome, n_reacted) AS share_high
FROM (
    SELECT reaction, epoch(decided_at - materialized_at) / 3600 AS age
    FROM decisions JOIN reactions USING (decision_id) WHERE materialized_at IS NOT NULL
)
GROUP BY context_age
ORDER BY min(age)
