-- How a set of candidates was made:
--   ahead   by the LLM before any request for it: by the pipeline, or for a new user
--   behind  by the LLM behind the answer to a request, which was chosen from other candidates
--   waited  by the LLM while a request waited for it
--   kept    of tips of an earlier set that are still valid, with rule-based ones
--   rules   by rules alone
--   generic the generic tip for a user without a context; no stored set
-- NULL: unknown, because the row is from an earlier version.
ALTER TABLE candidate_sets
    ADD COLUMN origin TEXT CHECK (origin IN ('ahead', 'behind', 'waited', 'kept', 'rules')),
    ADD COLUMN kept_from UUID;             -- of kept tips: the set as which the LLM wrote them; NULL: none, or unknown

-- How the candidates of the decision were made, and their age: off-policy evaluation can tell them apart.
ALTER TABLE decisions
    ADD COLUMN origin TEXT CHECK (origin IN ('ahead', 'behind', 'waited', 'kept', 'rules', 'generic')),
    ADD COLUMN set_age_s REAL;             -- seconds from the set's made_at to decided_at; NULL without a set

-- Where the LLM was called: 'request', while a request waited; 'behind' an answer; 'ahead' of any; NULL: unknown.
-- cached_tokens: the part of input_tokens that the provider read from its cache; NULL if it did not say.
ALTER TABLE llm_calls
    ADD COLUMN place TEXT CHECK (place IN ('request', 'behind', 'ahead')),
    ADD COLUMN cached_tokens INTEGER;

-- The service looks for new accounts every few seconds: those with the highest numbers.
CREATE INDEX todoist_accounts_by_number ON todoist_accounts (connection_number);
