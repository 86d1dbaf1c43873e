-- Vectors by content: whoever writes a text, a model embeds it once. Only a cache, so it is not logged (no WAL, nothing
-- on replicas, and a crash of Postgres empties it): the vectors of users' tasks stand in the Parquet of task_embeddings.
CREATE UNLOGGED TABLE text_vectors (
    text_hash BYTEA NOT NULL,              -- 16 bytes of the sha256 of the text
    model     BYTEA NOT NULL,              -- 8 bytes of the sha256 of the model's version
    used_on   DATE NOT NULL,               -- the last day (UTC) on which somebody wrote it anew
    vector    BYTEA NOT NULL,              -- float16, little-endian, unit length
    PRIMARY KEY (text_hash, model)
);
ALTER TABLE text_vectors ALTER COLUMN vector SET STORAGE EXTERNAL;  -- as it is; beside the row where it is long
CREATE INDEX text_vectors_by_day ON text_vectors USING brin (used_on);
