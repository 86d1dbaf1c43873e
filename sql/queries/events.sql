-- name: write_events
-- Store events, each for every user with the account of its owner, and return the outcome of each by its number:
--   stored   the event is now the newest form of its object, at least for one of these users
--   older    a newer form, or this one, was stored before
--   foreign  no active user has connected this account of Todoist
-- An object may occur once. Of two forms of an object the newer one is that with the later updated_at, of two with the
-- same that which ended the object, and else that which Todoist made later, as also if one of them has no updated_at. A
-- form of an account that was replaced is older than any of the present one.
-- What ended stays so if the newer form has no content, and an occurrence of a recurring task also if the task is then
-- updated: only item:uncompleted reopens it.
WITH event AS (
    SELECT * FROM unnest(:numbers::INTEGER[], :todoist_user_ids::TEXT[], :object_types::TEXT[], :object_ids::TEXT[],
                         :event_names::TEXT[], :objects::TEXT[], :is_ended::BOOLEAN[], :updated_at::TIMESTAMPTZ[],
                         :triggered_at::TIMESTAMPTZ[])
        AS e(number, todoist_user_id, object_type, object_id, event_name, object, is_ended, updated_at, triggered_at)
), addressed AS MATERIALIZED (
    SELECT e.*, a.user_id, a.connection_number
    FROM event e JOIN todoist_accounts a USING (todoist_user_id) JOIN users u USING (user_id)
    WHERE a.connected AND u.active
    FOR KEY SHARE OF u  -- before any event, as an erasure locks them: else one of both could wait for the other for ever
), stored AS (
    INSERT INTO todoist_events AS t (user_id, connection_number, object_type, object_id, event_name, object, is_ended,
                                     updated_at, triggered_at, received_at)
    SELECT user_id, connection_number, object_type, object_id, event_name, object::JSONB, is_ended, updated_at,
           triggered_at, :received_at::TIMESTAMPTZ
    FROM addressed
    ORDER BY user_id, object_type, object_id  -- in the same order everywhere, so that no two statements deadlock
    ON CONFLICT (user_id, object_type, object_id) DO UPDATE
    SET connection_number = excluded.connection_number, event_name = excluded.event_name, object = excluded.object,
        is_ended = excluded.is_ended OR (
            t.is_ended AND t.connection_number = excluded.connection_number AND (
                excluded.object = '{}' OR (t.event_name = 'item:updated' AND excluded.event_name = 'item:updated'
                                           AND t.object -> 'checked' IS DISTINCT FROM 'true'))),
        updated_at = excluded.updated_at, triggered_at = excluded.triggered_at,
        received_at = excluded.received_at, first_received_at = coalesce(t.first_received_at, t.received_at)
    WHERE CASE
        WHEN t.connection_number <> excluded.connection_number THEN t.connection_number < excluded.connection_number
        WHEN t.updated_at IS NULL OR excluded.updated_at IS NULL
        THEN coalesce(t.triggered_at, t.received_at) < coalesce(excluded.triggered_at, excluded.received_at)
        ELSE (t.updated_at, t.is_ended, coalesce(t.triggered_at, t.received_at))
            < (excluded.updated_at, excluded.is_ended, coalesce(excluded.triggered_at, excluded.received_at))
    END
    RETURNING user_id, object_type, object_id
)
SELECT e.number,
       CASE WHEN bool_or(s.user_id IS NOT NULL) THEN 'stored'
            WHEN bool_or(a.user_id IS NOT NULL) THEN 'older'
            ELSE 'foreign' END AS outcome
FROM event e
LEFT JOIN addressed a USING (number)
LEFT JOIN stored s ON s.user_id = a.user_id AND s.object_type = e.object_type AND s.object_id = e.object_id
GROUP BY e.number;

-- name: note_delivery!
-- Note that the webhooks delivered something at :delivered_at; at most one write a second. An instant from more than
-- :clock_difference ahead is from before a clock was set back.
UPDATE todoist_channel SET last_delivery_at = :delivered_at
WHERE last_delivery_at IS NULL OR last_delivery_at < :delivered_at::TIMESTAMPTZ - INTERVAL '1 second'
   OR last_delivery_at > :delivered_at::TIMESTAMPTZ + :clock_difference::INTERVAL;

-- name: users_to_refresh
-- Read the next :max_users users with unfolded events after the user :after, or :only_user alone. A user's context is due for a
-- refresh if it lacks an event and the user will ask for a tip before :until with a probability of at least :threshold.
-- It is not due while events go on, until one is pending since :waiting_since, and not if it was fetched after
-- :fetched_before, because each refresh is a full call. Events go on if one came after :quiet_since.
-- The probability is that of the user alone: the share of all users hardly counts within minutes.
WITH page AS MATERIALIZED (
    SELECT e.user_id FROM todoist_events e
    WHERE e.user_id > :after AND (:only_user::TEXT IS NULL OR e.user_id = :only_user)
      AND e.folded_form IS DISTINCT FROM e.received_at
    GROUP BY e.user_id ORDER BY e.user_id LIMIT :max_users
)
SELECT p.user_id, due.connection_number, due.user_id IS NOT NULL AS is_due
FROM page p LEFT JOIN LATERAL (
    SELECT a.user_id, a.connection_number
    FROM users u JOIN todoist_accounts a USING (user_id) JOIN context_store c USING (user_id)
    CROSS JOIN LATERAL (
        SELECT max(e.received_at) AS last_at, min(coalesce(e.first_received_at, e.received_at)) AS first_at
        FROM todoist_events e
        WHERE e.user_id = a.user_id AND e.connection_number = a.connection_number
          AND e.received_at > c.materialized_at AND e.folded_form IS DISTINCT FROM e.received_at
    ) pending
    WHERE a.user_id = p.user_id AND u.active AND a.connected AND a.auth_failures = 0
      AND is_of_account(c.connection_number, c.materialized_at, a.connection_number, a.connected_at)
      AND fetched_at(c.materialized_at, c.rows_digest, a.rows_digest, a.observed_at) <= :fetched_before::TIMESTAMPTZ
      AND (pending.last_at <= :quiet_since::TIMESTAMPTZ OR pending.first_at <= :waiting_since::TIMESTAMPTZ)
      AND :threshold::FLOAT <= (
          SELECT probability FROM request_forecast(u.user_id, u.timezone, u.created_at, :now::TIMESTAMPTZ,
                                                   :until::TIMESTAMPTZ, 0))
) due ON TRUE
ORDER BY p.user_id;
