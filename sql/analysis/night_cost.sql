-- What did the runs of each day cost, in all and for each fetch of a user?
WITH nights AS (
    SELECT started_at::DATE AS day, work, sum(done) AS done, sum(saved) AS saved, sum(seconds) AS seconds
    FROM ledger WHERE step <> 'serving' GROUP BY ALL
), looked AS (
    SELECT day, done AS n_fetches FROM nights WHERE work = 'todoist_calls'
)
SELECT day, work, done, saved, round(seconds, 3) AS seconds,
       done / nullif(n_fetches, 0) AS done_a_fetch,
       1000 * seconds / nullif(n_fetches, 0) AS ms_a_fetch
FROM nights LEFT JOIN looked USING (day)
ORDER BY day, work
