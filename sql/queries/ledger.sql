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
