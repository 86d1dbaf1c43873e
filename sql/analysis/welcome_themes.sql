-- On which themes are tips welcome?
-- Themes of different users with the same label count as one; a theme without open tasks has no label: '(gone)'.
SELECT coalesce(label, '(gone)') AS label,
       count(DISTINCT user_id) AS n_users,
       count(reaction) AS n_reacted,
       count(*) FILTER (WHERE is_welcome(reaction)) AS n_welcome,
       n_welcome / n_reacted AS share_welcome,
       share_low(n_welcome, n_reacted) AS share_low,
       share_high(n_welcome, n_reacted) AS share_high
FROM decisions d
JOIN reactions USING (decision_id)
LEFT JOIN (
    SELECT DISTINCT user_id, cluster_id AS theme, label FROM task_clusters WHERE cluster_id IS NOT NULL
) themes USING (user_id, theme)
WHERE theme IS NOT NULL
GROUP BY ALL
ORDER BY share_low DESC, label
