-- The usage of a call of the LLM is NULL if its server told impossible figures, or none.
ALTER TABLE llm_calls ALTER COLUMN input_tokens DROP NOT NULL, ALTER COLUMN output_tokens DROP NOT NULL;
