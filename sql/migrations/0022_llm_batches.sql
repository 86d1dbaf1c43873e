-- Batches of requests to the LLM ahead of requests for tips. A row is committed before the batch is submitted, and
-- batch_id travels as the batch's metadata: a run that dies in between leaves a batch that the next run finds.
CREATE TABLE llm_batches (
    batch_id         UUID PRIMARY KEY,
    model            TEXT NOT NULL,         -- provider:name, with which any process can collect the batch
    created_at       TIMESTAMPTZ NOT NULL,
    submitted_at     TIMESTAMPTZ,           -- when the provider accepted it; NULL: not known
    handle           JSONB,                 -- pydantic-ai's Batch as plain data: ids and states, no texts
    expires_at       TIMESTAMPTZ NOT NULL,  -- when the provider gives up what it has not answered
    ended_at         TIMESTAMPTZ,           -- when its results were stored; NULL: it is under way
    outcome          TEXT,                  -- the provider's word for its end, or 'not submitted', 'lost'
    files_deleted_at TIMESTAMPTZ            -- when its files were deleted at the provider; NULL: they may be there
);
CREATE INDEX llm_batches_to_finish ON llm_batches (created_at) WHERE files_deleted_at IS NULL;

-- The requests of a batch. One without ended_at is under way: nothing else is written ahead for its user.
CREATE TABLE llm_batch_requests (
    batch_id          UUID NOT NULL REFERENCES llm_batches ON DELETE CASCADE,
    user_id           TEXT NOT NULL REFERENCES users ON DELETE CASCADE,
    custom_id         TEXT NOT NULL,         -- names the request in the batch
    connection_number BIGINT NOT NULL,       -- of the account that the context was made from
    context_hash      TEXT NOT NULL,
    context_json      TEXT,                  -- the context, with which the answer is checked; NULL once it has ended
    likely_at         TIMESTAMPTZ NOT NULL,  -- the probable request for a tip
    ended_at          TIMESTAMPTZ,           -- when its answer was read, or given up
    PRIMARY KEY (batch_id, user_id)
);
CREATE INDEX llm_batch_requests_of_user ON llm_batch_requests (user_id);
CREATE INDEX llm_batch_requests_under_way ON llm_batch_requests (user_id) WHERE ended_at IS NULL;
