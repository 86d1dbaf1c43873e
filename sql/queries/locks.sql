-- name: lock
-- Wait for a lock of this database session.
SELECT pg_advisory_lock(7403, hashtext(:name));

-- name: unlock
-- Release the lock.
SELECT pg_advisory_unlock(7403, hashtext(:name));

-- name: lock_shared
-- Wait for a share of a lock of this database session.
SELECT pg_advisory_lock_shared(7403, hashtext(:name));

-- name: unlock_shared
-- Release the share of the lock.
SELECT pg_advisory_unlock_shared(7403, hashtext(:name));
