-- name: record!
-- One asset's part in a run of its step; a retried run replaces its own row.
INSERT INTO materializations (run_id, step, asset, started_at, finished_at, n_shards, n_shards_run, n_users,
                              n_users_changed, n_rows, data_version, changed, counts)
VALUES (:run_id, :step, :asset, :started_at, :finished_at, :n_shards, :n_shards_run, :n_users,
        :n_users_changed, :n_rows, :data_version, :changed, :counts)
ON CONFLICT (run_id, asset) DO UPDATE
SET finished_at = excluded.finished_at, n_shards_run = excluded.n_shards_run, n_users = excluded.n_users,
    n_users_changed = excluded.n_users_changed, n_rows = excluded.n_rows, data_version = excluded.data_version,
    changed = excluded.changed, counts = excluded.counts;

-- name: since
-- The rows of runs that began at or after an instant.
SELECT * FROM materializations WHERE started_at >= :since ORDER BY started_at, asset;

-- name: latest_version^
-- An asset's version after its last recorded run other than :run_id, which may be a retry.
SELECT data_version FROM materializations
WHERE asset = :asset AND run_id <> :run_id
ORDER BY finished_at DESC LIMIT 1;

-- name: open_page!
-- What a run of a step is about to do; a retried run plans anew.
INSERT INTO ledger (run_id, step, started_at, planned) VALUES (:run_id, :step, :started_at, :planned)
ON CONFLICT (run_id, step) DO UPDATE SET planned = excluded.planned;

-- name: close_page!
-- What a run did and spared.
INSERT INTO ledger (run_id, step, started_at, finished_at, n_users, done, saved, seconds)
VALUES (:run_id, :step, :started_at, :finished_at, :n_users, :done, :saved, :seconds)
ON CONFLICT (run_id, step) DO UPDATE
SET finished_at = excluded.finished_at, n_users = excluded.n_users, done = excluded.done, saved = excluded.saved,
    seconds = excluded.seconds;

-- name: last_request_day$
-- The day of the request path's last page.
SELECT coalesce(max(started_at), '2000-01-01 00:00+00') FROM ledger WHERE step = 'serving';

-- name: add_request_pages!
-- The request path's rows of the days from :since on, made anew from what it logged. Spared: a Todoist call for every
-- answer from a stored row, a call of the LLM for every answer that needed none, at that day's tokens a call (or those
-- of the last thirty days).
INSERT INTO ledger (run_id, step, started_at, finished_at, n_users, done, saved, seconds)
SELECT to_char(day, 'YYYY-MM-DD'), 'serving', day AT TIME ZONE 'UTC', :now, n_users,
       jsonb_build_object('tips', n_tips, 'todoist_calls', n_inline, 'llm_calls', n_calls, 'llm_tokens', n_tokens),
       jsonb_build_object('todoist_calls', n_stored, 'llm_calls', n_skipped,
                          'llm_tokens', round(n_skipped * coalesce(n_tokens / nullif(n_calls, 0), usual, 0))),
       jsonb_build_object('llm_calls', llm_seconds)
FROM (
    SELECT date_trunc('day', decided_at AT TIME ZONE 'UTC') AS day, count(DISTINCT user_id) AS n_users,
           count(*) AS n_tips, count(*) FILTER (WHERE source = 'inline') AS n_inline,
           count(*) FILTER (WHERE source = 'stored') AS n_stored, count(*) FILTER (WHERE llm = 'skipped') AS n_skipped
    FROM decisions WHERE decided_at >= :since GROUP BY 1
) d
LEFT JOIN (
    SELECT date_trunc('day', called_at AT TIME ZONE 'UTC') AS day, sum(n_requests) AS n_calls,
           sum(input_tokens + output_tokens) AS n_tokens, round(sum(seconds)::NUMERIC, 3) AS llm_seconds
    FROM llm_calls WHERE called_at >= :since GROUP BY 1
) l USING (day)
CROSS JOIN (
    SELECT sum(input_tokens + output_tokens) / nullif(sum(n_requests), 0) AS usual
    FROM llm_calls WHERE called_at >= :since::TIMESTAMPTZ - INTERVAL '30 days'
) u
ON CONFLICT (run_id, step) DO UPDATE
SET finished_at = excluded.finished_at, n_users = excluded.n_users, done = excluded.done, saved = excluded.saved,
    seconds = excluded.seconds;

-- name: pages
-- The rows of runs that began at or after an instant, oldest first.
SELECT * FROM ledger WHERE started_at >= :since ORDER BY started_at, step;

-- name: pace
-- Of each kind of work, the medians over the nights since an instant (a night: a fetch and all until the next one):
-- seconds and units done for each user looked at; and seconds for a unit planned, over the runs that had any to do.
WITH pages AS (
    SELECT * FROM ledger WHERE started_at >= :since AND step <> 'serving' AND finished_at IS NOT NULL
), nights AS (
    SELECT started_at, lead(started_at) OVER (ORDER BY started_at) AS until, (done ->> 'todoist_calls')::FLOAT AS looks
    FROM pages WHERE done ? 'todoist_calls'
), works AS (
    SELECT DISTINCT jsonb_object_keys(seconds) AS work FROM pages
), by_night AS (
    SELECT w.work, coalesce(sum((p.seconds ->> w.work)::FLOAT), 0) / n.looks AS seconds_a_look,
           coalesce(sum((p.done ->> w.work)::FLOAT), 0) / n.looks AS units_a_look
    FROM nights n CROSS JOIN works w
    LEFT JOIN pages p ON p.started_at >= n.started_at AND p.started_at < coalesce(n.until, 'infinity')
    WHERE n.looks > 0
    GROUP BY w.work, n.started_at, n.looks
), by_run AS (
    SELECT w.work, (p.seconds ->> w.work)::FLOAT / (p.planned ->> w.work)::FLOAT AS seconds_a_unit
    FROM pages p JOIN works w ON (p.planned ->> w.work)::FLOAT > 0 AND p.seconds ? w.work
)
SELECT work,
       (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds_a_unit) FROM by_run r WHERE r.work = works.work),
       (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds_a_look) FROM by_night n WHERE n.work = works.work),
       (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY units_a_look) FROM by_night n WHERE n.work = works.work)
FROM works;
