-- How many tasks have a theme, by the user's language, and how large are themes?
SELECT language,
       count(DISTINCT user_id) AS n_users,
       count(*) AS n_open,
       count(cluster_id) AS n_in_themes,
       n_in_themes / n_open AS share_in_themes,
       count(DISTINCT (user_id, cluster_id)) FILTER (WHERE cluster_id IS NOT NULL) AS n_themes,
       n_in_themes / nullif(n_themes, 0) AS tasks_per_theme
FROM task_clusters JOIN todoist_tasks USING (user_id, task_id)
GROUP BY language
ORDER BY n_open DESC, language
