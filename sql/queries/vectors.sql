-- name: known
-- The vectors that a model made of some texts, whoever wrote them.
SELECT text_hash, vector FROM text_vectors WHERE text_hash = ANY(:hashes::BYTEA[]) AND model = :model;

-- name: used!
-- Texts that somebody wrote again are kept for longer. Rows are locked in one order: runs of other shards use them, too.
WITH again AS (
    SELECT text_hash FROM text_vectors
    WHERE text_hash = ANY(:hashes::BYTEA[]) AND model = :model AND used_on < :today
    ORDER BY text_hash FOR UPDATE
)
UPDATE text_vectors v SET used_on = :today FROM again WHERE v.text_hash = again.text_hash AND v.model = :model;

-- name: keep!
-- New vectors, in one order for all who write; somebody else may have made one of them meanwhile.
INSERT INTO text_vectors (text_hash, model, used_on, vector)
SELECT text_hash, :model, :today, vector FROM unnest(:hashes::BYTEA[], :vectors::BYTEA[]) AS n (text_hash, vector)
ORDER BY text_hash
ON CONFLICT DO NOTHING;

-- name: forget!
-- What any model made of some texts.
DELETE FROM text_vectors WHERE text_hash = ANY(:hashes::BYTEA[]);

-- name: expire!
-- Texts that nobody wrote since a day.
DELETE FROM text_vectors WHERE used_on < :keep_from;
