-- One row per asset and run of its step: what was done, what was spared.
CREATE TABLE materializations (
    run_id          TEXT NOT NULL,
    step            TEXT NOT NULL,
    asset           TEXT NOT NULL,
    started_at      TIMESTAMPTZ NOT NULL,
    finished_at     TIMESTAMPTZ NOT NULL,
    n_shards        INTEGER NOT NULL,
    n_shards_run    INTEGER NOT NULL,
    n_users         INTEGER NOT NULL,      -- users of the asset after the run
    n_users_changed INTEGER NOT NULL,      -- users computed; the others were carried over
    n_rows          BIGINT NOT NULL,
    data_version    TEXT NOT NULL,
    changed         BOOLEAN NOT NULL,      -- whether data_version is a new one
    counts          JSONB NOT NULL,        -- the asset's own: calls, texts, rows written
    PRIMARY KEY (run_id, asset)
);
CREATE INDEX materializations_by_time ON materializations (started_at);
