-- Are the shards of each asset similar in size, and when were they materialized?
SELECT asset, count(*) AS n_shards, count(DISTINCT code_version) AS n_code_versions,
       min(n_rows) AS min_rows, median(n_rows) AS median_rows, max(n_rows) AS max_rows,
       sum(n_rows)::BIGINT AS n_rows, min(materialized_at) AS oldest_at, max(materialized_at) AS newest_at
FROM shards
GROUP BY asset
ORDER BY asset
