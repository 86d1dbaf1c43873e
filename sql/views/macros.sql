-- Macros for the queries of analysts.

-- Similarity in meaning of two vectors: 1 for the same meaning, about 0 for unrelated texts.
CREATE MACRO cosine(a, b) AS list_cosine_similarity(a, b);

-- The n tasks of any user that are most similar in meaning to a task, the most similar first.
CREATE MACRO similar_tasks(id, n) AS TABLE
SELECT e.user_id, e.task_id, t.content, t.project, cosine(e.embedding, given.embedding) AS similarity
FROM task_embeddings e
JOIN (FROM task_embeddings WHERE task_id = id ORDER BY user_id LIMIT 1) given ON e.model = given.model
JOIN todoist_tasks t ON t.user_id = e.user_id AND t.task_id = e.task_id
WHERE e.task_id <> id
ORDER BY similarity DESC, e.user_id, e.task_id
LIMIT n;

-- The local time in a zone at an instant; UTC if the zone is unknown.
CREATE MACRO local_time(instant, zone) AS timezone(
    CASE WHEN zone IN (SELECT name FROM pg_timezone_names()) THEN zone ELSE 'UTC' END, instant);

-- Bounds of the 95 % interval of the share k of n (Wilson, Journal of the American Statistical Association 22, 1927).
CREATE MACRO share_low(k, n) AS CASE WHEN k = 0 THEN 0.0 * n ELSE
    (k / n + 1.9208 / n - 1.96 * sqrt(k / n * (1 - k / n) / n + 0.9604 / n / n)) / (1 + 3.8416 / n) END;
CREATE MACRO share_high(k, n) AS
    (k / n + 1.9208 / n + 1.96 * sqrt(k / n * (1 - k / n) / n + 0.9604 / n / n)) / (1 + 3.8416 / n);

-- Whether a reaction shows that the tip was welcome.
CREATE MACRO is_welcome(reaction) AS reaction IN ('accepted', 'done');

-- The day on which a task is due for its user. Todoist writes a date, a local time, or an instant with Z.
CREATE MACRO due_day(due_date, zone) AS
    CASE WHEN due_date LIKE '%Z' THEN local_time(due_date::TIMESTAMPTZ, zone)::DATE ELSE left(due_date, 10)::DATE END;
