-- What the request path keeps: with each context what inline assembly needs, sets of candidates, decisions in full.
ALTER TABLE context_store
    ADD COLUMN valid_until TIMESTAMPTZ,    -- the local midnight at which a task moves bucket; NULL: never
    ADD COLUMN themes      TEXT NOT NULL DEFAULT '[]',  -- JSON: every theme of the last clustering with all its tasks
    ADD COLUMN row_version TEXT;           -- hash of the three and of context_hash; NULL: to be written anew

-- Candidates made for one context of one user; the last one made is the one that is scored. Append-only.
CREATE TABLE candidate_sets (
    candidate_set_id UUID PRIMARY KEY,
    user_id          TEXT NOT NULL REFERENCES users ON DELETE CASCADE,
    context_hash     TEXT NOT NULL,
    author           TEXT NOT NULL CHECK (author IN ('llm', 'kept', 'rules', 'generic')),
    made_at          TIMESTAMPTZ NOT NULL,
    expires_at       TIMESTAMPTZ NOT NULL,  -- the user's midnight: some of them may speak of the day
    renew_at         TIMESTAMPTZ NOT NULL,  -- from when on the LLM has to write new ones, whatever still stands
    tips             TEXT[] NOT NULL,      -- each a JSON object: kind, title, body, task_ids, theme
    bases            TEXT[] NOT NULL,      -- hash of what each tip speaks about: equal, so the tip stands
    kinds            TEXT[] NOT NULL,
    themes           TEXT[] NOT NULL,      -- '' where a tip is about none
    features         BYTEA NOT NULL        -- float32, one row per tip; the clock's part is added at each decision
);
CREATE INDEX candidate_sets_by_user ON candidate_sets (user_id, made_at DESC);

ALTER TABLE decisions
    ADD COLUMN candidate_set_id UUID,
    ADD COLUMN source          TEXT CHECK (source IN ('stored', 'inline', 'stale', 'none')),
    ADD COLUMN llm             TEXT CHECK (llm IN ('called', 'skipped', 'fallback')),
    ADD COLUMN materialized_at TIMESTAMPTZ,
    ADD COLUMN policy_version  TEXT,       -- name of the policy, @, updates of the posterior that it chose by
    ADD COLUMN seed            BIGINT,     -- with posterior and features it gives the same choice again
    ADD COLUMN chosen          SMALLINT,   -- position in the candidate set, from 0
    ADD COLUMN propensities    REAL[],     -- probability with which each candidate would have been chosen
    ADD COLUMN features        BYTEA;      -- float32, a row per candidate: what the policy saw
CREATE INDEX decisions_by_time ON decisions (decided_at);

ALTER TABLE reactions ADD COLUMN reward REAL;  -- what the policy learned from it

-- A policy's posterior as natural parameters: sums, so updates can come in any order.
CREATE TABLE policies (
    policy     TEXT PRIMARY KEY,           -- name and version of the features
    n_features INTEGER NOT NULL,
    precision  BYTEA NOT NULL,             -- float64, n_features squared: ridge + sum of x x'
    weighted   BYTEA NOT NULL,             -- float64: sum of reward * x
    n_updates  BIGINT NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL
);

-- Every call of the LLM, good or bad.
CREATE TABLE llm_calls (
    called_at        TIMESTAMPTZ NOT NULL,
    user_id          TEXT NOT NULL REFERENCES users ON DELETE CASCADE,
    candidate_set_id UUID,                 -- NULL: nothing usable came
    model            TEXT NOT NULL,
    outcome          TEXT NOT NULL CHECK (outcome IN ('answered', 'repaired', 'invalid', 'late', 'refused', 'failed')),
    n_requests       INTEGER NOT NULL,
    input_tokens     INTEGER NOT NULL,
    output_tokens    INTEGER NOT NULL,
    cost_usd         DOUBLE PRECISION,     -- NULL: the model's price is not known
    seconds          DOUBLE PRECISION NOT NULL
);
CREATE INDEX llm_calls_by_time ON llm_calls (called_at);

-- When the clock on a user's wall next shows what it showed at `asked`: the first such instant from `at` on.
CREATE FUNCTION next_ask(asked TIMESTAMPTZ, at TIMESTAMPTZ, zone TEXT) RETURNS TIMESTAMPTZ LANGUAGE plpgsql STABLE AS $$
DECLARE
    wall TIMESTAMP := local_time(at, zone);
    ahead INTERVAL := local_time(asked, zone)::TIME - wall::TIME;
BEGIN
    RETURN at + CASE WHEN ahead < INTERVAL '0' THEN ahead + INTERVAL '1 day' ELSE ahead END;
END $$;
