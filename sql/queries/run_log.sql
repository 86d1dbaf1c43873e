-- name: write_asset_run!
-- Write one asset's part in a run of its step; a retried run replaces its own row.
INSERT INTO asset_runs (run_id, step, asset, started_at, finished_at, n_shards, n_shards_run, n_users,
                        n_users_computed, n_rows, data_version, changed, counts)
VALUES (:run_id, :step, :asset, :started_at, :finished_at, :n_shards, :n_shards_run, :n_users,
        :n_users_computed, :n_rows, :data_version, :changed, :counts)
ON CONFLICT (run_id, asset) DO UPDATE
SET finished_at = excluded.finished_at, n_shards_run = excluded.n_shards_run, n_users = excluded.n_users,
    n_users_computed = excluded.n_users_computed, n_rows = excluded.n_rows, data_version = excluded.data_version,
    changed = excluded.changed, counts = excluded.counts;

-- name: asset_runs_since
-- Read the asset runs of pipeline runs that began at or after an instant.
SELECT * FROM asset_runs WHERE started_at >= :since ORDER BY started_at, asset;

-- name: latest_version^
-- Read an asset's version after its last recorded run other than :run_id, which may be a retry.
SELECT data_version FROM asset_runs
WHERE asset = :asset AND run_id <> :run_id
ORDER BY finished_at DESC LIMIT 1;

-- name: begin_step_run!
-- Write that a step's run began, before it has a plan; a retried run keeps what it wrote.
INSERT INTO step_runs (run_id, step, started_at) VALUES (:run_id, :step, :started_at)
ON CONFLICT (run_id, step) DO NOTHING;

-- name: start_step_run!
-- Write the plan of a step's run; a retried run replaces it.
INSERT INTO step_runs (run_id, step, started_at, planned, scope)
VALUES (:run_id, :step, :started_at, :planned, :scope)
ON CONFLICT (run_id, step) DO UPDATE SET planned = excluded.planned, scope = excluded.scope;

-- name: finish_step_run!
-- Write the work that a step's run did and saved.
INSERT INTO step_runs (run_id, step, started_at, finished_at, n_users, done, saved, seconds)
VALUES (:run_id, :step, :started_at, :finished_at, :n_users, :done, :saved, :seconds)
ON CONFLICT (run_id, step) DO UPDATE
SET finished_at = excluded.finished_at, n_users = excluded.n_users, done = excluded.done, saved = excluded.saved,
    seconds = excluded.seconds;

-- name: had_night$
-- Whether a run that began at or after :since, and before :before, fetched everybody who was due, and finished. A later
-- one is from before the clock was set back.
SELECT EXISTS (
    SELECT FROM step_runs
    WHERE started_at >= :since AND started_at < :before AND scope IN ('all', 'nightly') AND finished_at IS NOT NULL
);

-- name: waiting_since
-- The shards in which a step waits for an earlier one, and the first run that did.
SELECT shard, since FROM waiting_shards WHERE step = :step;

-- name: begin_waits!
-- Write the shards in which a step waits, those that it waits in already with the earlier instant.
INSERT INTO waiting_shards AS w (step, shard, since) SELECT :step, shard, :now FROM unnest(:shards::INTEGER[]) AS shard
ON CONFLICT (step, shard) DO UPDATE SET since = excluded.since WHERE w.since > excluded.since;

-- name: end_waits!
-- Delete the shards in which a step waits no longer.
DELETE FROM waiting_shards WHERE step = :step AND shard = ANY(:shards::INTEGER[]);

-- name: forget_waits!
-- Delete all waits: after the rows were moved to another number of shards, their numbers are those of other users.
DELETE FROM waiting_shards;

-- name: last_request_day$
-- Read the last day with a row of the request path.
SELECT coalesce(max(started_at), '2000-01-01 00:00+00') FROM step_runs WHERE step = 'serving';

-- name: add_request_days!
-- Rebuild the request path's rows of the days from :since on, from logged decisions and calls of the LLM. Saved work:
-- a Todoist call for each answer from a stored row, and the calls of the LLM that are fewer than the answers, at that
-- day's tokens per call (or those of the last thirty days). Calls ahead of requests and behind answers count, too.
INSERT INTO step_runs (run_id, step, started_at, finished_at, n_users, done, saved, seconds)
SELECT to_char(day, 'YYYY-MM-DD'), 'serving', day AT TIME ZONE 'UTC', :now, n_users,
       jsonb_build_object('tips', n_tips, 'todoist_calls', n_inline, 'llm_calls', coalesce(n_calls, 0),
                          'llm_tokens', CASE WHEN n_calls IS NULL THEN 0 ELSE n_tokens END),
       jsonb_build_object('todoist_calls', n_stored, 'llm_calls', n_saved,
                          'llm_tokens', round(n_saved * coalesce(n_tokens / nullif(n_calls, 0), usual, 0))),
       jsonb_build_object('llm_calls', coalesce(llm_seconds, 0))
FROM (
    SELECT date_trunc('day', decided_at AT TIME ZONE 'UTC') AS day, count(DISTINCT user_id) AS n_users,
           count(*) AS n_tips, count(*) FILTER (WHERE source = 'inline') AS n_inline,
           count(*) FILTER (WHERE source = 'stored') AS n_stored
    FROM decisions WHERE decided_at >= :since GROUP BY 1
) d
LEFT JOIN (
    SELECT date_trunc('day', called_at AT TIME ZONE 'UTC') AS day, sum(n_requests) AS n_calls,
           sum(input_tokens + output_tokens) AS n_tokens, round(sum(seconds)::NUMERIC, 3) AS llm_seconds
    FROM llm_calls WHERE called_at >= :since GROUP BY 1
) l USING (day)
CROSS JOIN (
    SELECT sum(input_tokens + output_tokens) / nullif(sum(n_requests), 0) AS usual
    FROM llm_calls WHERE called_at >= :since::TIMESTAMPTZ - INTERVAL '30 days' AND input_tokens IS NOT NULL
) u
CROSS JOIN LATERAL (SELECT greatest(0, n_tips - coalesce(n_calls, 0)) AS n_saved) s
ON CONFLICT (run_id, step) DO UPDATE
SET finished_at = excluded.finished_at, n_users = excluded.n_users, done = excluded.done, saved = excluded.saved,
    seconds = excluded.seconds;

-- name: step_runs_since
-- Read the step runs that began at or after an instant, oldest first.
SELECT * FROM step_runs WHERE started_at >= :since ORDER BY started_at, step;

-- name: throughput
-- For each kind of work, the median seconds per planned unit over the step runs that planned any: those that planned a
-- tenth to ten times of :units, if there are any, because each shard has a cost of its own. And the median seconds and
-- units per fetched user over the pipeline runs since an instant: those of the same scope, if there are any, else those
-- of any scope. A pipeline run is a fetch and all step runs until the next fetch. The very first one does not count: it
-- computes everything, and the others only what changed.
WITH runs AS (
    SELECT * FROM step_runs WHERE started_at >= :since AND step <> 'serving' AND finished_at IS NOT NULL
), fetches AS (
    SELECT started_at, lead(started_at) OVER (ORDER BY started_at) AS until, scope,
           (done ->> 'todoist_calls')::FLOAT AS n_users
    FROM runs WHERE done ? 'todoist_calls'
), later AS (
    SELECT * FROM fetches WHERE started_at > (
        SELECT min(started_at) FROM step_runs
        WHERE step <> 'serving' AND done ? 'todoist_calls' AND finished_at IS NOT NULL
    )
), comparable AS (
    SELECT * FROM later
    WHERE scope = :scope
       OR (scope IS NOT NULL AND NOT EXISTS (SELECT FROM later AS same WHERE same.scope = :scope))
), works AS (
    SELECT DISTINCT jsonb_object_keys(seconds) AS work FROM runs
), by_pipeline_run AS (
    SELECT w.work, coalesce(sum((r.seconds ->> w.work)::FLOAT), 0) / f.n_users AS seconds_per_user,
           coalesce(sum((r.done ->> w.work)::FLOAT), 0) / f.n_users AS units_per_user
    FROM comparable f CROSS JOIN works w
    LEFT JOIN runs r ON r.started_at >= f.started_at AND r.started_at < coalesce(f.until, 'infinity')
    WHERE f.n_users > 0
    GROUP BY w.work, f.started_at, f.n_users
), by_step_run AS (
    SELECT w.work, (r.seconds ->> w.work)::FLOAT / p.n_units AS seconds_per_unit,
           p.n_units BETWEEN u.n_units / 10 AND u.n_units * 10 AS is_alike
    FROM runs r JOIN works w ON (r.planned ->> w.work)::FLOAT > 0 AND r.seconds ? w.work
    CROSS JOIN LATERAL (SELECT (r.planned ->> w.work)::FLOAT AS n_units) p
    CROSS JOIN LATERAL (SELECT (:units::JSONB ->> w.work)::FLOAT AS n_units) u
), alike AS (
    SELECT * FROM by_step_run s
    WHERE is_alike OR NOT EXISTS (SELECT FROM by_step_run other WHERE other.work = s.work AND other.is_alike)
)
SELECT work,
       (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds_per_unit)
        FROM alike WHERE alike.work = works.work),
       (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds_per_user)
        FROM by_pipeline_run p WHERE p.work = works.work),
       (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY units_per_user)
        FROM by_pipeline_run p WHERE p.work = works.work)
FROM works;

-- name: delete_runs$
-- Delete the pipeline's runs that began before :before; returns the number of rows. Each asset's last run stays, because
-- the next one compares its data version. The days of the request path stay, too.
WITH of_assets AS (
    DELETE FROM asset_runs a
    WHERE a.started_at < :before
      AND EXISTS (SELECT FROM asset_runs later WHERE later.asset = a.asset AND later.finished_at > a.finished_at)
    RETURNING 1
), of_steps AS (
    DELETE FROM step_runs WHERE started_at < :before AND step <> 'serving' RETURNING 1
)
SELECT (SELECT count(*) FROM of_assets) + (SELECT count(*) FROM of_steps);
