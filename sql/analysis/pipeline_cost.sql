-- What did the pipeline runs of each day cost, in total and per fetch of a user?
WITH days AS (
    SELECT started_at::DATE AS day, work, sum(done) AS done, sum(saved) AS saved, sum(seconds) AS seconds
    FROM step_runs WHERE step <> 'serving' GROUP BY ALL
), fetches AS (
    SELECT day, done AS n_fetches FROM days WHERE work = 'todoist_calls'
)
SELECT day, work, done, saved, round(seconds, 3) AS seconds,
       done / nullif(n_fetches, 0) AS done_per_fetch,
       1000 * seconds / nullif(n_fetches, 0) AS ms_per_fetch
FROM days LEFT JOIN fetches USING (day)
ORDER BY day, work
