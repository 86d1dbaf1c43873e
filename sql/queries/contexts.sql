-- name: refresh
-- Same content, looked at again: only the freshness moves, and only forward; gives the users of whom it did.
-- ANY says again what the join says: it keeps a shard's few users from being looked for in a scan of all rows.
UPDATE context_store c
SET materialized_at = n.materialized_at
FROM unnest(:user_ids::TEXT[], :versions::TEXT[], :instants::TIMESTAMPTZ[]) AS n (user_id, row_version, materialized_at)
WHERE c.user_id = ANY(:user_ids::TEXT[])
  AND c.user_id = n.user_id AND c.row_version = n.row_version AND c.materialized_at < n.materialized_at
RETURNING c.user_id;

-- name: stored_versions
-- The versions of the rows that these users have.
SELECT user_id, row_version FROM context_store WHERE user_id = ANY(:user_ids::TEXT[]);

-- name: write!
-- Whole rows, never over a newer one.
INSERT INTO context_store (user_id, materialized_at, context_json, context_hash, valid_until, themes, row_version)
SELECT * FROM unnest(:user_ids::TEXT[], :instants::TIMESTAMPTZ[], :contexts::TEXT[], :hashes::TEXT[],
                     :valid_until::TIMESTAMPTZ[], :themes::TEXT[], :versions::TEXT[])
ON CONFLICT (user_id) DO UPDATE
SET materialized_at = excluded.materialized_at, context_json = excluded.context_json,
    context_hash = excluded.context_hash, valid_until = excluded.valid_until, themes = excluded.themes,
    row_version = excluded.row_version
WHERE context_store.materialized_at <= excluded.materialized_at;

-- name: take_themes!
-- Of rows that somebody wrote meanwhile from newer tasks, the themes: those of the night are newer than the ones kept.
-- Without a version they are written whole as soon as their tasks are fetched again.
UPDATE context_store c SET themes = n.themes, row_version = NULL
FROM unnest(:user_ids::TEXT[], :instants::TIMESTAMPTZ[], :themes::TEXT[]) AS n (user_id, materialized_at, themes)
WHERE c.user_id = ANY(:user_ids::TEXT[])
  AND c.user_id = n.user_id AND c.materialized_at > n.materialized_at AND c.themes <> n.themes;

-- name: remove_orphans!
-- Rows of users who do not exist any more.
DELETE FROM context_store c
WHERE c.user_id = ANY(:user_ids) AND NOT EXISTS (SELECT FROM users u WHERE u.user_id = c.user_id);

-- name: reactions_since
-- What users made of their tips since an instant.
SELECT d.user_id, d.decision_id::TEXT AS decision_id, coalesce(d.tip_kind, '') AS tip_kind,
       coalesce(d.theme, '') AS theme, r.reaction, r.reacted_at
FROM reactions r JOIN decisions d USING (decision_id)
WHERE r.reacted_at >= :since AND d.user_id = ANY(:user_ids)
ORDER BY d.user_id, r.reacted_at, d.decision_id;

-- name: threshold^
-- The similarity threshold of a model.
SELECT threshold FROM cluster_thresholds WHERE model = :model;

-- name: keep_threshold!
-- A model's calibration stays, but for one of few texts when there are ten times as many.
INSERT INTO cluster_thresholds AS t (model, threshold, n_texts) VALUES (:model, :threshold, :n_texts)
ON CONFLICT (model) DO UPDATE
SET threshold = excluded.threshold, n_texts = excluded.n_texts, calibrated_at = now()
WHERE t.n_texts < 1000 AND excluded.n_texts >= 10 * t.n_texts;

-- name: set_threshold!
-- A calibration that somebody asked for.
INSERT INTO cluster_thresholds AS t (model, threshold, n_texts) VALUES (:model, :threshold, :n_texts)
ON CONFLICT (model) DO UPDATE
SET threshold = excluded.threshold, n_texts = excluded.n_texts, calibrated_at = now();

-- name: wants_calibration$
-- Whether :n_texts texts would give a model's first calibration or a better one.
SELECT NOT EXISTS (
    SELECT FROM cluster_thresholds WHERE model = :model AND (n_texts >= 1000 OR :n_texts < 10 * n_texts)
);
