-- Do the tasks of a week mean other things than those of all weeks?
-- Cosine of their mean vectors, by model; a fall is a drift. At most 500 tasks a week, drawn by their ids.
WITH drawn AS (
    SELECT model, date_trunc('week', added_at)::DATE AS week, embedding
    FROM task_embeddings JOIN todoist_tasks USING (user_id, task_id)
    WHERE added_at IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY model, week ORDER BY md5(task_id)) <= 500
), means AS (
    SELECT model, week, i, avg(value) AS value, count(*) AS n_drawn
    FROM (SELECT model, week, unnest(embedding) AS value, generate_subscripts(embedding, 1) AS i FROM drawn)
    GROUP BY model, week, i
), weeks AS (
    SELECT model, week, any_value(n_drawn) AS n_drawn, list(value ORDER BY i) AS mean FROM means GROUP BY model, week
), whole AS (
    SELECT model, list(value ORDER BY i) AS mean
    FROM (SELECT model, i, sum(value * n_drawn) / sum(n_drawn) AS value FROM means GROUP BY model, i) GROUP BY model
)
SELECT model, week, n_drawn, cosine(weeks.mean, whole.mean) AS likeness,
       cosine(weeks.mean, lag(weeks.mean) OVER (PARTITION BY model ORDER BY week)) AS likeness_to_week_before
FROM weeks JOIN whole USING (model)
ORDER BY model, week
