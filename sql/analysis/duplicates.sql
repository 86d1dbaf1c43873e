-- Which tasks of a user are duplicates of each other?
SELECT c.user_id, original.task_id, original.content, original.project, t.task_id AS duplicate_id,
       t.content AS duplicate_content, t.project AS duplicate_project
FROM task_clusters c
JOIN todoist_tasks t USING (user_id, task_id)
JOIN todoist_tasks original ON original.user_id = c.user_id AND original.task_id = c.duplicate_of
ORDER BY ALL
