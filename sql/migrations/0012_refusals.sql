-- Refusals of a token wait until the end of their run, which tells refusals of single accounts from an outage of
-- Todoist. auth_failures counts days on which Todoist refused the token, without a successful fetch in between;
-- refused_at is the last refusal that was counted.
ALTER TABLE todoist_accounts
    ADD COLUMN pending_refused_at TIMESTAMPTZ;  -- the run that saw a refusal and has not ended

CREATE INDEX todoist_accounts_pending ON todoist_accounts (pending_refused_at) WHERE pending_refused_at IS NOT NULL;
