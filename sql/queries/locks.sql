-- name: lock
-- Wait for a lock of this database session.
SELECT pg_advisory_lock(7403, hashtext(:name));

-- name: unlock
-- Release the lock.
SELECT pg_advisory_unlock(7403, hashtext(:name));
