-- name: calibration^
-- Read the calibration of a model.
SELECT threshold, spread, n_means, means FROM cluster_thresholds WHERE model = :model;

-- name: set_calibration_if_better!
-- Write a calibration unless the model has one, with three exceptions: one without means is replaced, a final one
-- replaces a provisional one, and one from fewer than 1,000 texts is replaced by one from ten times as many, but no final
-- one by a provisional one.
INSERT INTO cluster_thresholds AS t (model, threshold, spread, n_means, means, n_texts, is_provisional)
VALUES (:model, :threshold, :spread, :n_means, :means, :n_texts, :is_provisional)
ON CONFLICT (model) DO UPDATE
SET threshold = excluded.threshold, spread = excluded.spread, n_means = excluded.n_means, means = excluded.means,
    n_texts = excluded.n_texts, is_provisional = excluded.is_provisional, calibrated_at = now()
WHERE (t.n_means IS NULL AND (t.is_provisional OR NOT excluded.is_provisional))
   OR (t.is_provisional AND NOT excluded.is_provisional)
   OR (t.n_texts < 1000 AND excluded.n_texts >= 10 * t.n_texts AND t.is_provisional = excluded.is_provisional);

-- name: set_calibration!
-- Write a calibration, whether the model has one or not.
INSERT INTO cluster_thresholds AS t (model, threshold, spread, n_means, means, n_texts)
VALUES (:model, :threshold, :spread, :n_means, :means, :n_texts)
ON CONFLICT (model) DO UPDATE
SET threshold = excluded.threshold, spread = excluded.spread, n_means = excluded.n_means, means = excluded.means,
    n_texts = excluded.n_texts, is_provisional = FALSE, calibrated_at = now();

-- name: wants_calibration$
-- Whether :n_texts texts would give a model's first calibration or a better one, see set_calibration_if_better.
SELECT NOT EXISTS (
    SELECT FROM cluster_thresholds t
    WHERE model = :model AND NOT (
        (t.n_means IS NULL AND (t.is_provisional OR NOT :is_provisional))
        OR (t.is_provisional AND NOT :is_provisional)
        OR (t.n_texts < 1000 AND :n_texts >= 10 * t.n_texts AND t.is_provisional = :is_provisional)
    )
);
