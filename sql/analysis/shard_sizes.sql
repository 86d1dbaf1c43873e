-- Are the shards of each asset of like size, and when were they made?
SELECT asset, count(*) AS n_shards, count(DISTINCT code_version) AS n_code_versions,
       min(n_rows) AS rows_at_least, median(n_rows) AS rows_median, max(n_rows) AS rows_at_most,
       sum(n_rows)::BIGINT AS n_rows, min(materialized_at) AS oldest_at, max(materialized_at) AS newest_at
FROM shards
GROUP BY asset
ORDER BY asset
