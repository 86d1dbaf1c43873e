-- Contexts that requests assembled, until a run of the night takes them into the Parquet history: no tip without a trace.
CREATE TABLE request_contexts (
    user_id         TEXT NOT NULL REFERENCES users ON DELETE CASCADE,
    assembled_at    TIMESTAMPTZ NOT NULL,
    materialized_at TIMESTAMPTZ NOT NULL,  -- when the signals were fetched
    context_hash    TEXT NOT NULL,
    context_json    TEXT NOT NULL,
    PRIMARY KEY (user_id, assembled_at, context_hash)
);
