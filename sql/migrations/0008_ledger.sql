-- One row per step and run: what was planned, what was done, what was spared by not doing it again. Each is an object of
-- numbers by the name of the work (todoist_calls, texts_embedded ...). The request path has a row a day, its step is
-- 'serving' and its run the date (UTC).
CREATE TABLE ledger (
    run_id      TEXT NOT NULL,
    step        TEXT NOT NULL,
    started_at  TIMESTAMPTZ NOT NULL,
    finished_at TIMESTAMPTZ,               -- NULL: not yet, or the run died
    n_users     BIGINT,                    -- users of the step after the run, or who asked
    planned     JSONB NOT NULL DEFAULT '{}',
    done        JSONB NOT NULL DEFAULT '{}',
    saved       JSONB NOT NULL DEFAULT '{}',
    seconds     JSONB NOT NULL DEFAULT '{}',  -- of work, over all shards
    PRIMARY KEY (run_id, step)
);
CREATE INDEX ledger_by_time ON ledger (started_at);
