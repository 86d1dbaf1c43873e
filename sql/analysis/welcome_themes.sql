-- Tips on which themes are welcome?
-- Themes of different users that are called alike count as one; of those that have no task any more no name is known.
SELECT coalesce(label, '(gone)') AS label,
       count(DISTINCT user_id) AS n_users,
       count(reaction) AS n_reacted,
       count(*) FILTER (WHERE is_welcome(reaction)) AS n_welcome,
       n_welcome / n_reacted AS share_welcome,
       share_low(n_welcome, n_reacted) AS low,
       share_high(n_welcome, n_reacted) AS high
FROM decisions d
JOIN reactions USING (decision_id)
LEFT JOIN (
    SELECT DISTINCT user_id, cluster_id AS theme, label FROM task_clusters WHERE cluster_id IS NOT NULL
) themes USING (user_id, theme)
WHERE theme IS NOT NULL
GROUP BY ALL
ORDER BY low DESC, label
