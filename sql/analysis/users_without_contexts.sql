-- Which active users have no context, and why?
SELECT user_id, created_at,
       CASE WHEN NOT connected THEN 'Todoist takes the token no more'
            WHEN refused_at IS NOT NULL AND observed_at IS NULL THEN 'Todoist refused the token'
            WHEN observed_at IS NULL THEN 'not fetched yet'
            ELSE 'fetched, but not assembled yet'
       END AS why
FROM users
WHERE active AND user_id NOT IN (SELECT user_id FROM context_store)
ORDER BY created_at, user_id
