-- Which users have overdue tasks, how many, and for how long?
SELECT user_id,
       count(*) AS n_open,
       count(*) FILTER (WHERE due < today) AS n_overdue,
       n_overdue / n_open AS share_overdue,
       max(today - due) AS max_days_overdue
FROM (
    SELECT user_id, least(due_day(due_date, timezone), deadline_date::DATE) AS due,
           local_time(as_of(), timezone)::DATE AS today
    FROM todoist_tasks WHERE is_actionable
)
GROUP BY user_id
HAVING n_overdue > 0
ORDER BY n_overdue DESC, user_id
