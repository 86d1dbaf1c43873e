-- Which active users have no context, and why?
SELECT user_id, created_at,
       CASE WHEN connected IS NULL THEN 'no account'
            WHEN NOT connected THEN 'Todoist no longer accepts the token'
            WHEN observed_at IS NULL AND refused_at IS NOT NULL THEN 'Todoist refused the token'
            WHEN observed_at IS NULL THEN 'not fetched yet'
            ELSE 'fetched, but not assembled yet'
       END AS reason
FROM users
WHERE active AND materialized_at IS NULL
ORDER BY created_at, user_id
