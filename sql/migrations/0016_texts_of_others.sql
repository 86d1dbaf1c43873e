-- Contexts tell which texts other people may have written. The next fetch of each account reads everything, because a
-- project of a team's workspace counts as shared from now on.
UPDATE todoist_accounts SET sync_token = NULL, directory = '{}';

-- Tips that an LLM wrote while it was told such texts are not shown again.
UPDATE candidate_sets SET expires_at = least(expires_at, now()), renew_at = now()
WHERE author IN ('llm', 'kept') AND renew_at > now();
