-- Old candidates are deleted, the oldest first.
CREATE INDEX candidate_sets_by_time ON candidate_sets (made_at);
