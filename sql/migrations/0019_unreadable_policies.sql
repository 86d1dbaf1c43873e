-- Rows of `policies` that no version of the service could use: kept as they were, while the service goes on with a
-- posterior that it rebuilt from decisions and reactions.
CREATE TABLE unreadable_policies (
    policy       TEXT NOT NULL,
    set_aside_at TIMESTAMPTZ NOT NULL,
    reason       TEXT NOT NULL,            -- the fault of the row
    n_features   INTEGER NOT NULL,
    precision    BYTEA NOT NULL,
    weighted     BYTEA NOT NULL,
    n_updates    BIGINT NOT NULL,
    updated_at   TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (policy, set_aside_at)
);
