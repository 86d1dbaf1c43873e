-- Descriptions, versions and freshness of all views. {folder} is the folder of the snapshot.

CREATE VIEW shards AS
SELECT footer ->> 'asset' AS asset,
       (footer ->> 'shard')::INTEGER AS shard,
       (footer ->> 'n_users')::BIGINT AS n_users,
       (footer ->> 'n_rows')::BIGINT AS n_rows,
       (footer ->> 'materialized_at')::TIMESTAMPTZ AS materialized_at,
       sha256((footer -> 'columns')::VARCHAR) AS data_version,
       footer -> 'recipe' ->> 'code' AS code_version,
       footer -> 'recipe' AS recipe,
       footer -> 'inputs' AS inputs
FROM (
    SELECT decode(value)::JSON AS footer
    FROM parquet_kv_metadata('{folder}/*/shard=*/*.parquet')
    WHERE decode(key) = 'asset'
);

CREATE VIEW catalog AS
SELECT CASE WHEN c.schema_name = 'main' THEN '' ELSE c.schema_name || '.' END || c.table_name AS view_name,
       c.column_name,
       nullif(regexp_extract(c.comment, '\[([^\]]+)\]$', 1), '') AS unit,
       regexp_replace(c.comment, ' \[[^\]]+\]$', '') AS meaning,
       s.newest_at,
       s.oldest_at,
       s.n_rows,
       s.n_shards,
       c.data_type,
       v.comment AS view_meaning
FROM duckdb_columns() c
JOIN duckdb_views() v ON v.database_name = c.database_name AND v.schema_name = c.schema_name AND v.view_name = c.table_name
LEFT JOIN (
    SELECT asset, count(*) AS n_shards, sum(n_rows)::BIGINT AS n_rows, min(materialized_at) AS oldest_at,
           max(materialized_at) AS newest_at
    FROM shards GROUP BY asset
) s ON s.asset = c.table_name AND c.schema_name = 'main'
WHERE NOT v.internal AND c.schema_name IN ('main', 'analysis')
ORDER BY c.schema_name DESC, c.table_name, c.column_index;
