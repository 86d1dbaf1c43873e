-- Tips are written ahead for each user for whom the LLM was never called.
CREATE INDEX llm_calls_by_user ON llm_calls (user_id);

-- The share of the active users who asked for a tip between these two times of the day (UTC), on average over the last
-- seven days: what is expected of a user without a history.
CREATE FUNCTION share_of_users_asking(since TIMESTAMPTZ, until TIMESTAMPTZ) RETURNS FLOAT LANGUAGE sql STABLE AS $$
    SELECT least(1.0, asked.n / (7.0 * greatest(everybody.n, 1)))
    FROM (
        SELECT count(*) AS n FROM users u JOIN todoist_accounts a USING (user_id) WHERE u.active AND a.connected
    ) everybody, (
        SELECT count(DISTINCT (d.user_id, day)) AS n
        FROM generate_series(1, 7) AS day
        JOIN decisions d ON d.decided_at >= since - day * INTERVAL '1 day'
                        AND d.decided_at < until - day * INTERVAL '1 day' AND d.delivered
        JOIN users u USING (user_id) JOIN todoist_accounts a USING (user_id) WHERE u.active AND a.connected
    ) asked
$$;

-- The probability that a user asks for a tip from `since` on, before `until`; `until` is at most a day later. It is the
-- share of the last 21 days on which the user asked between these times of the user's day; days on which this time was
-- over before the user was created do not count. A day weighs 0.9 of the day after it, and `expected`, the share of all
-- users, weighs like half a day more.
-- likely_at: the instant of the earliest of these requests, moved to the next day; NULL without any.
CREATE FUNCTION request_forecast(
    asker TEXT, zone TEXT, created_at TIMESTAMPTZ, since TIMESTAMPTZ, until TIMESTAMPTZ, expected FLOAT
) RETURNS TABLE (probability FLOAT, likely_at TIMESTAMPTZ) LANGUAGE sql STABLE AS $$
    SELECT (coalesce(sum(power(0.9::FLOAT, days.day)), 0) + 0.5 * expected)
               / (9 * (1 - power(0.9::FLOAT, known.n_days)) + 0.5),
           min(days.likely_at)
    FROM (
        SELECT least(21, greatest(0, ceil(extract(EPOCH FROM until - created_at) / 86400) - 1))::INTEGER AS n_days,
               local_time(since, zone)::TIME AS wall
    ) known
    LEFT JOIN LATERAL (
        SELECT ceil(extract(EPOCH FROM since - d.decided_at) / 86400)::INTEGER AS day,
               min(next_time.at) AS likely_at
        FROM decisions d
        CROSS JOIN LATERAL (SELECT local_time(d.decided_at, zone)::TIME - known.wall AS later) clock
        CROSS JOIN LATERAL (
            SELECT since + later + CASE WHEN later < INTERVAL '0' THEN INTERVAL '1 day' ELSE INTERVAL '0' END AS at
        ) next_time
        WHERE d.user_id = asker AND d.delivered
          AND d.decided_at >= since - known.n_days * INTERVAL '1 day' AND d.decided_at < since
          AND next_time.at < until
        GROUP BY 1
    ) days ON TRUE
    GROUP BY known.n_days
$$;

DROP FUNCTION next_ask;
