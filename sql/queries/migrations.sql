-- name: lock_migrations
-- One migrator at a time, until the transaction ends.
SELECT pg_advisory_xact_lock(7402031);

-- name: create_log#
-- Which migrations were applied.
CREATE TABLE IF NOT EXISTS schema_migrations (
    name TEXT PRIMARY KEY, applied_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- name: applied
-- Names of the migrations applied so far.
SELECT name FROM schema_migrations;

-- name: log_migration!
-- One more.
INSERT INTO schema_migrations (name) VALUES (:name);
