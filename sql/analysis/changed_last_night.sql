-- Whose context changed in the last 24 hours, by whom, and by how many tasks?
SELECT user_id, assembled_at, author, former_open AS n_open_before, open AS n_open
FROM (
    SELECT user_id, assembled_at, author, context_hash, (context_json::JSON -> 'counts' ->> 'open')::INTEGER AS open,
           lag(context_hash) OVER versions AS former, lag(open) OVER versions AS former_open
    FROM context_history
    WINDOW versions AS (PARTITION BY user_id ORDER BY assembled_at, context_hash)
)
WHERE assembled_at > as_of() - INTERVAL 24 HOURS AND context_hash IS DISTINCT FROM former
ORDER BY assembled_at, user_id
