-- Do tasks added in one week differ in meaning from tasks of all weeks?
-- Cosine of the mean vectors, by model; a drop is drift. At most 500 tasks a week, sampled by the hash of their ids.
WITH sampled AS (
    SELECT model, date_trunc('week', added_at)::DATE AS week, embedding
    FROM task_embeddings JOIN todoist_tasks USING (user_id, task_id)
    WHERE added_at IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY model, week ORDER BY md5(task_id)) <= 500
), means AS (
    SELECT model, week, i, avg(value) AS value, count(*) AS n_sampled
    FROM (SELECT model, week, unnest(embedding) AS value, generate_subscripts(embedding, 1) AS i FROM sampled)
    GROUP BY model, week, i
), weeks AS (
    SELECT model, week, any_value(n_sampled) AS n_sampled, list(value ORDER BY i) AS mean FROM means GROUP BY model, week
), whole AS (
    SELECT model, list(value ORDER BY i) AS mean
    FROM (SELECT model, i, sum(value * n_sampled) / sum(n_sampled) AS value FROM means GROUP BY model, i) GROUP BY model
)
SELECT model, week, n_sampled, cosine(weeks.mean, whole.mean) AS similarity,
       cosine(weeks.mean, lag(weeks.mean) OVER (PARTITION BY model ORDER BY week)) AS similarity_to_previous_week
FROM weeks JOIN whole USING (model)
ORDER BY model, week
