-- A calibration has the means that are subtracted from the model's vectors, and the spread of the cosines of random pairs.
-- Rows from before have neither: their themes stay as they are until the next run of embed_tasks calibrates again.
ALTER TABLE cluster_thresholds
    ADD COLUMN spread  DOUBLE PRECISION,   -- standard deviation of the cosines of random pairs; NULL: not measured
    ADD COLUMN n_means INTEGER,            -- number of means; NULL: from before
    ADD COLUMN means   BYTEA;              -- float32, little-endian, n_means rows
