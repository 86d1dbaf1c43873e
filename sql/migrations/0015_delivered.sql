-- Whether the answer with this decision reached its client, as far as the service knows. FALSE: the client left, the
-- request took longer than its budget, or sending failed; nothing is learned from such a decision. A reaction makes it
-- TRUE again.
ALTER TABLE decisions ADD COLUMN delivered BOOLEAN NOT NULL DEFAULT TRUE;

-- The choice of the users to fetch reads the instants of many decisions, now with `delivered`.
DROP INDEX decisions_by_user;
CREATE INDEX decisions_by_user ON decisions (user_id, decided_at) INCLUDE (delivered);
