-- Which tasks of a user say the same?
SELECT c.user_id, first.task_id, first.content, first.project, t.task_id AS double_id, t.content AS double_content,
       t.project AS double_project
FROM task_clusters c
JOIN todoist_tasks t USING (user_id, task_id)
JOIN todoist_tasks first ON first.user_id = c.user_id AND first.task_id = c.same_as
ORDER BY ALL
