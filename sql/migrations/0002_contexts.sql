-- What the request path reads: one ready row per user.
CREATE TABLE context_store (
    user_id         TEXT PRIMARY KEY,
    materialized_at TIMESTAMPTZ NOT NULL,  -- when the signals were fetched
    context_json    TEXT NOT NULL,         -- serialized UserContext, canonical JSON
    context_hash    TEXT NOT NULL          -- sha256 of context_json
) WITH (fillfactor = 85);                  -- room for freshness to be touched in place

-- A similarity threshold belongs to a model and is chosen once, or every cluster would drift.
CREATE TABLE cluster_thresholds (
    model         TEXT PRIMARY KEY,        -- model, revision, prompt, dimension
    threshold     DOUBLE PRECISION NOT NULL,
    n_texts       INTEGER NOT NULL,
    calibrated_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
