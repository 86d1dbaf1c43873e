-- name: lock
-- Wait for a lock of this session.
SELECT pg_advisory_lock(7403, hashtext(:name));

-- name: unlock
-- Give it back.
SELECT pg_advisory_unlock(7403, hashtext(:name));
