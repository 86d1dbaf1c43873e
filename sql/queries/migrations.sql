-- name: lock_migrations
-- Allow one migrator at a time, until the transaction ends.
SELECT pg_advisory_xact_lock(7402031);

-- name: limit_waits
-- Bound the time that this transaction waits for each lock of a table.
SELECT set_config('lock_timeout', :lock_timeout, TRUE);

-- name: create_migrations_table#
-- Create the table of applied migrations.
CREATE TABLE IF NOT EXISTS schema_migrations (
    name TEXT PRIMARY KEY, applied_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- name: applied
-- Read the names of the applied migrations.
SELECT name FROM schema_migrations;

-- name: add_migration!
-- Add an applied migration.
INSERT INTO schema_migrations (name) VALUES (:name);
