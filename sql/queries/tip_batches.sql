-- name: users_under_way
-- Users with a request in a batch under way: those of some shards of :n_shards, or of all if :shards is NULL.
SELECT DISTINCT r.user_id
FROM llm_batch_requests r JOIN users u USING (user_id)
WHERE r.ended_at IS NULL AND (:shards::BIGINT[] IS NULL OR mod(u.shard_key, :n_shards) = ANY(:shards::BIGINT[]))
ORDER BY r.user_id;

-- name: among_under_way
-- Those of these users who have a request in a batch under way.
SELECT DISTINCT user_id FROM llm_batch_requests WHERE ended_at IS NULL AND user_id = ANY(:user_ids);

-- name: users_batched
-- Those of these users who had a request in a batch since an instant.
SELECT DISTINCT r.user_id
FROM llm_batch_requests r JOIN llm_batches b USING (batch_id)
WHERE r.user_id = ANY(:user_ids) AND b.created_at >= :since;

-- name: add_batch!
-- Record the intent to submit a batch.
INSERT INTO llm_batches (batch_id, model, created_at, expires_at) VALUES (:batch_id, :model, :created_at, :expires_at);

-- name: add_batch_request$
-- Record a request of a batch, unless the account was replaced, removed or deactivated meanwhile; returns TRUE if the
-- request was recorded.
INSERT INTO llm_batch_requests (batch_id, user_id, custom_id, connection_number, context_hash, context_json, likely_at)
SELECT :batch_id, u.user_id, :custom_id, :connection_number, :context_hash, :context_json, :likely_at
FROM users u JOIN todoist_accounts a USING (user_id)
WHERE u.user_id = :user_id AND u.active AND a.connected AND a.connection_number = :connection_number
RETURNING TRUE;

-- name: record_submission!
-- Record that the provider has a batch.
UPDATE llm_batches SET handle = :handle, submitted_at = :submitted_at, expires_at = :expires_at
WHERE batch_id = :batch_id;

-- name: update_handle!
-- Record the present state of a batch.
UPDATE llm_batches SET handle = :handle WHERE batch_id = :batch_id;

-- name: batches_of_users
-- The batches under way with requests of these users, the oldest first.
SELECT DISTINCT b.batch_id, b.created_at
FROM llm_batches b JOIN llm_batch_requests r USING (batch_id)
WHERE b.ended_at IS NULL AND r.ended_at IS NULL AND r.user_id = ANY(:user_ids)
ORDER BY b.created_at, b.batch_id;

-- name: batches_to_finish
-- The batches whose files may still be at the provider, and that have ended, have no user left, or were created before
-- :overdue; the oldest first.
SELECT b.batch_id FROM llm_batches b
WHERE b.files_deleted_at IS NULL
  AND (b.ended_at IS NOT NULL OR b.created_at < :overdue
       OR NOT EXISTS (SELECT FROM llm_batch_requests r WHERE r.batch_id = b.batch_id AND r.ended_at IS NULL))
ORDER BY b.created_at, b.batch_id;

-- name: batch
-- A batch.
SELECT batch_id, model, created_at, submitted_at, handle, expires_at, ended_at, files_deleted_at
FROM llm_batches WHERE batch_id = :batch_id;

-- name: requests_under_way
-- The requests of a batch without a read answer, and whether the LLM wrote for the user since the batch was made.
SELECT r.user_id, r.custom_id, r.connection_number, r.context_hash, r.context_json, r.likely_at,
       EXISTS (SELECT FROM candidate_sets s
               WHERE s.user_id = r.user_id AND s.author = 'llm' AND s.made_at > b.created_at) AS is_superseded
FROM llm_batch_requests r JOIN llm_batches b USING (batch_id)
WHERE r.batch_id = :batch_id AND r.ended_at IS NULL
ORDER BY r.custom_id;

-- name: end_request!
-- Record that the answer to a request was read, or given up, and forget its context.
UPDATE llm_batch_requests SET ended_at = :ended_at, context_json = NULL
WHERE batch_id = :batch_id AND user_id = :user_id;

-- name: end_batch!
-- Record the end of a batch, unless it is recorded, and forget the contexts of its requests.
WITH ended AS (
    UPDATE llm_batch_requests SET ended_at = :ended_at, context_json = NULL
    WHERE batch_id = :batch_id AND ended_at IS NULL
)
UPDATE llm_batches SET ended_at = :ended_at, outcome = :outcome
WHERE batch_id = :batch_id AND ended_at IS NULL;

-- name: record_deletion!
-- Record that the provider has no files of a batch any more.
UPDATE llm_batches SET files_deleted_at = :deleted_at WHERE batch_id = :batch_id;

-- name: forget_batches!
-- Delete the records of batches that ended before an instant and left no file at the provider.
DELETE FROM llm_batches WHERE ended_at < :before AND files_deleted_at IS NOT NULL;

-- name: held_until$
-- The latest expiry of a batch with a context of a user whose files may still be at the provider; NULL if there is none.
SELECT max(b.expires_at)
FROM llm_batches b JOIN llm_batch_requests r USING (batch_id)
WHERE r.user_id = :user_id AND b.files_deleted_at IS NULL;
