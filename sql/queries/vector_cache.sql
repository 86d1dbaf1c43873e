-- name: read_vectors
-- The vectors that a model produced for some texts of any user.
SELECT text_hash, vector FROM text_vectors WHERE text_hash = ANY(:text_hashes::BYTEA[]) AND model = :model_key;

-- name: claim_texts
-- Lock those of some texts that no other session has locked, and return them.
SELECT text_hash FROM unnest(:text_hashes::BYTEA[]) AS t (text_hash)
WHERE pg_try_advisory_lock(7404, hashtext(:prefix || encode(text_hash, 'hex')));

-- name: wait_for_texts
-- Lock texts as soon as no other session has them locked.
SELECT pg_advisory_lock(7404, hashtext(:prefix || encode(text_hash, 'hex')))
FROM unnest(:text_hashes::BYTEA[]) AS t (text_hash);

-- name: release_texts
-- Unlock texts that this session has locked.
SELECT pg_advisory_unlock(7404, hashtext(:prefix || encode(text_hash, 'hex')))
FROM unnest(:text_hashes::BYTEA[]) AS t (text_hash);

-- name: mark_used!
-- Extend the life of vectors that were used again. Rows are locked in one order: runs of other shards use them, too.
WITH used_again AS (
    SELECT text_hash FROM text_vectors
    WHERE text_hash = ANY(:text_hashes::BYTEA[]) AND model = :model_key AND used_on < :today
    ORDER BY text_hash FOR UPDATE
)
UPDATE text_vectors v SET used_on = :today
FROM used_again WHERE v.text_hash = used_again.text_hash AND v.model = :model_key;

-- name: add_vectors!
-- Add new vectors, in one order for all writers; other runs may have added some of them in the meantime.
INSERT INTO text_vectors (text_hash, model, used_on, vector)
SELECT text_hash, :model_key, :today, vector
FROM unnest(:text_hashes::BYTEA[], :vectors::BYTEA[]) AS n (text_hash, vector)
ORDER BY text_hash
ON CONFLICT DO NOTHING;

-- name: erase_vectors!
-- Delete the vectors of some texts, of all models.
DELETE FROM text_vectors WHERE text_hash = ANY(:text_hashes::BYTEA[]);

-- name: expire_vectors!
-- Delete vectors that were last used before a day.
DELETE FROM text_vectors WHERE used_on < :keep_from;
