-- Which contexts changed in the last 24 hours, through a pipeline run or a request, and by how many open tasks?
SELECT user_id, assembled_at, author, previous_n_open AS n_open_before, n_open
FROM (
    SELECT user_id, assembled_at, author, context_hash, (context_json::JSON -> 'counts' ->> 'open')::INTEGER AS n_open,
           lag(context_hash) OVER versions AS previous_hash, lag(n_open) OVER versions AS previous_n_open
    FROM context_history
    WINDOW versions AS (PARTITION BY user_id ORDER BY assembled_at, context_hash)
)
WHERE assembled_at > as_of() - INTERVAL 24 HOURS AND context_hash IS DISTINCT FROM previous_hash
ORDER BY assembled_at, user_id
