-- name: users_to_fold
-- Covered users with events that are not folded yet, whose next audit is not due, and the instant of their last fetch.
-- That is no earlier than the last end of trust, until which events may have been lost.
-- A context that a request has assembled since then is not replaced by older tasks, even with events in them: not such a
-- user.
-- The users of some shards of :n_shards, or of all shards if :shards is NULL.
SELECT a.user_id, a.observed_at
FROM todoist_channel c CROSS JOIN todoist_accounts a JOIN users u USING (user_id)
WHERE c.is_trusted AND u.active AND a.is_covered AND a.sync_token IS NOT NULL
  AND a.observed_at >= greatest(:now - c.audit_every + INTERVAL '4 hours', c.evidence_since)
  AND NOT EXISTS (SELECT FROM context_store s WHERE s.user_id = a.user_id AND s.materialized_at > a.observed_at)
  AND (:shards::BIGINT[] IS NULL OR mod(u.shard_key, :n_shards) = ANY(:shards::BIGINT[]))
  AND EXISTS (SELECT FROM todoist_events e
              WHERE e.user_id = a.user_id AND e.connection_number = a.connection_number
                AND e.folded_form IS DISTINCT FROM e.received_at)
ORDER BY a.user_id;

-- name: users_told
-- Of some users, those who signed in through the product's app and were fetched since: their last call, since when changes
-- are evidence, whether they are covered, whether their events may be folded, and whether their next audit is to be a full
-- one, as each fourth is.
SELECT a.user_id, a.observed_at, a.synced_at, greatest(a.observed_at, c.outage_ended_at) AS evidence_since, a.is_covered,
       c.is_trusted AND a.is_covered
           AND a.observed_at >= greatest(:now - c.audit_every + INTERVAL '4 hours', c.evidence_since) AND NOT EXISTS (
               SELECT FROM context_store s WHERE s.user_id = a.user_id AND s.materialized_at > a.observed_at) AS may_fold,
       a.is_covered AND (
           SELECT count(*) >= 3 FROM event_audits e
           WHERE e.user_id = a.user_id AND e.audited_at > coalesce(
               (SELECT max(f.audited_at) FROM event_audits f WHERE f.user_id = a.user_id AND f.kind = 'full'),
               '-infinity')
       ) AS wants_full
FROM todoist_accounts a CROSS JOIN todoist_channel c
WHERE a.user_id = ANY(:user_ids) AND a.oauth_connected_at <= a.observed_at AND a.synced_at IS NOT NULL;

-- name: pending_events
-- The events of some users' present accounts that are not folded yet.
SELECT e.user_id, e.object_type, e.object_id, e.event_name AS name, e.object AS content, e.updated_at, e.received_at,
       e.triggered_at
FROM todoist_events e JOIN todoist_accounts a USING (user_id, connection_number)
WHERE e.user_id = ANY(:user_ids) AND e.folded_form IS DISTINCT FROM e.received_at;

-- name: tombstones
-- The last changes of objects of some users' present accounts that the stored tasks do not show.
SELECT t.user_id, t.object_type, t.object_id, t.updated_at
FROM todoist_tombstones t JOIN todoist_accounts a USING (user_id, connection_number)
WHERE t.user_id = ANY(:user_ids);

-- name: lock_events!
-- Lock the events of some users until the end of the transaction, in the order in which the service writes them: else one
-- of both could wait for the other for ever.
SELECT FROM todoist_events WHERE user_id = ANY(:user_ids) ORDER BY user_id, object_type, object_id FOR UPDATE;

-- name: save_fold*!
-- Store what events changed beside the tasks, after the tasks are stored, unless the account was replaced meanwhile. The
-- sync token and the instant of the last fetch stay.
UPDATE todoist_accounts
SET directory = :directory, rows_digest = :rows_digest,
    changed_at = CASE WHEN rows_digest = :rows_digest THEN changed_at
                      ELSE greatest(:folded_at, observed_at + INTERVAL '1 microsecond') END
WHERE user_id = :user_id AND connection_number = :connection_number;

-- name: mark_folded*!
-- Mark the form of an event that the stored tasks contain, unless a newer form has come meanwhile.
UPDATE todoist_events SET folded_form = received_at, folded_at = :folded_at
WHERE user_id = :user_id AND object_type = :object_type AND object_id = :object_id AND received_at = :received_at;

-- name: drop_event*!
-- Delete an event that is older than the stored tasks, unless a newer form has come meanwhile.
WITH gone AS (
    DELETE FROM todoist_events
    WHERE user_id = :user_id AND object_type = :object_type AND object_id = :object_id AND received_at = :received_at
    RETURNING received_at, triggered_at
)
INSERT INTO event_arrivals (received_at, delay_s)
SELECT received_at, greatest(0, extract(EPOCH FROM received_at - triggered_at)) FROM gone;

-- name: answer_events!
-- Mark the events of users whom a call answered as folded: those that came before it began.
UPDATE todoist_events SET folded_form = received_at, folded_at = :folded_at
WHERE user_id = ANY(:user_ids) AND received_at <= :answered_at AND folded_form IS DISTINCT FROM received_at;

-- name: settle_events!
-- Delete the folded events of some users that the stored contexts contain: those folded before the run at :now began to
-- read. A context that a request assembled later contains the events from before that only.
WITH gone AS (
    DELETE FROM todoist_events e USING todoist_accounts a, context_store s
    WHERE e.user_id = ANY(:user_ids) AND a.user_id = e.user_id AND s.user_id = e.user_id
      AND e.folded_form = e.received_at AND e.folded_at <= :now
      AND (s.materialized_at <= a.observed_at OR e.received_at < s.materialized_at)
    RETURNING e.received_at, e.triggered_at
)
INSERT INTO event_arrivals (received_at, delay_s)
SELECT received_at, greatest(0, extract(EPOCH FROM received_at - triggered_at)) FROM gone;

-- name: save_tombstone*!
-- Store the last change of an object that the stored tasks do not show.
INSERT INTO todoist_tombstones AS t (user_id, connection_number, object_type, object_id, updated_at)
SELECT a.user_id, a.connection_number, :object_type, :object_id, :updated_at
FROM todoist_accounts a WHERE a.user_id = :user_id AND a.connection_number = :connection_number
ON CONFLICT (user_id, object_type, object_id) DO UPDATE
SET connection_number = excluded.connection_number,
    updated_at = CASE WHEN t.connection_number = excluded.connection_number
                      THEN greatest(t.updated_at, excluded.updated_at) ELSE excluded.updated_at END;

-- name: save_audit*!
-- Store the result of a covered user's call.
INSERT INTO event_audits (user_id, audited_at, since, kind, n_changes, n_missed)
SELECT user_id, :audited_at, :since, :kind, :n_changes, :n_missed FROM users WHERE user_id = :user_id
ON CONFLICT DO NOTHING;

-- name: confirm_events!
-- Store that a call has confirmed events of these users.
UPDATE todoist_accounts SET events_confirmed_at = :confirmed_at WHERE user_id = ANY(:user_ids);

-- name: end_cover!
-- End the cover of users of whose changes no event came, until a call confirms an event again.
UPDATE todoist_accounts SET events_confirmed_at = NULL WHERE user_id = ANY(:user_ids);

-- name: watch_channel^
-- End the trust in the channel if it is silent although more than :improbable events were to be expected, as many as came
-- a week before (a day before, in the first week), or if no service with the endpoint ran for longer than :longest_outage;
-- else silence counts until :now. sees_endpoint: whether the caller is such a service.
-- An instant from more than :clock_difference ahead is from before a clock was set back.
-- Returns whether the channel is alive, whether it is trusted, and whether trust ended now.
WITH channel AS MATERIALIZED (SELECT * FROM todoist_channel FOR UPDATE),
lag AS (
    SELECT CASE WHEN EXISTS (SELECT FROM event_arrivals WHERE received_at < :now::TIMESTAMPTZ - INTERVAL '7 days')
           THEN INTERVAL '7 days' ELSE INTERVAL '1 day' END AS shift
), expected AS (
    SELECT count(*) AS n
    FROM channel c CROSS JOIN lag JOIN (
        SELECT received_at FROM event_arrivals UNION ALL SELECT received_at FROM todoist_events
    ) e ON e.received_at > c.last_delivery_at - lag.shift AND e.received_at <= :now::TIMESTAMPTZ - lag.shift
), found AS (
    SELECT c.is_trusted, c.last_delivery_at, c.endpoint_seen_at, c.trust_ended_by,
           CASE WHEN c.trusted_until <= :now::TIMESTAMPTZ + :clock_difference::INTERVAL THEN c.trusted_until END
               AS trusted_until,
           CASE WHEN c.evidence_since > :now::TIMESTAMPTZ THEN :now::TIMESTAMPTZ ELSE c.evidence_since END
               AS evidence_since,
           CASE WHEN c.outage_ended_at > :now::TIMESTAMPTZ THEN :now::TIMESTAMPTZ ELSE c.outage_ended_at END
               AS outage_ended_at,
           c.last_delivery_at IS NULL OR expected.n > :improbable::FLOAT8 AS is_silent,
           coalesce(:now::TIMESTAMPTZ - c.endpoint_seen_at > :longest_outage::INTERVAL, TRUE) AS is_cut
    FROM channel c CROSS JOIN expected
)
UPDATE todoist_channel t
SET endpoint_seen_at = CASE WHEN :sees_endpoint::BOOLEAN THEN :now::TIMESTAMPTZ ELSE t.endpoint_seen_at END,
    is_trusted = f.is_trusted AND NOT f.is_silent AND NOT f.is_cut,
    trusted_until = CASE WHEN NOT f.is_trusted THEN f.trusted_until
        WHEN f.is_silent OR f.is_cut THEN least(f.trusted_until, CASE WHEN f.is_silent THEN f.last_delivery_at END,
                                                CASE WHEN f.is_cut THEN f.endpoint_seen_at END)
        ELSE greatest(f.trusted_until, :now::TIMESTAMPTZ) END,
    evidence_since = CASE WHEN f.is_silent OR f.is_cut THEN :now::TIMESTAMPTZ ELSE f.evidence_since END,
    outage_ended_at = CASE WHEN f.is_silent OR f.is_cut THEN :now::TIMESTAMPTZ ELSE f.outage_ended_at END,
    trust_ended_by = CASE WHEN NOT f.is_trusted THEN f.trust_ended_by WHEN f.is_cut THEN 'outage'
        WHEN f.is_silent THEN 'silence' ELSE f.trust_ended_by END
FROM found f
RETURNING NOT (f.is_silent OR f.is_cut) AS is_alive, t.is_trusted, f.is_trusted AND NOT t.is_trusted AS has_ended;

-- name: read_channel^
-- The state of the channel.
SELECT last_delivery_at, is_trusted, trusted_until, trust_ended_by, n_changes, n_missed, miss_rate_bound, audit_every,
       delay_p50, delay_p99
FROM todoist_channel;

-- name: event_evidence^
-- The audits since :since that are also since the last outage or, if :since_trust_ended, since trust last ended for any
-- reason; the earliest possible instant of a change that one of them missed; and the delays of events.
SELECT audits.n_changes, audits.n_missed, audits.missed_since,
       make_interval(secs => delays.p50) AS delay_p50, make_interval(secs => delays.p99) AS delay_p99
FROM (
    SELECT coalesce(sum(e.n_changes), 0) AS n_changes, coalesce(sum(e.n_missed), 0) AS n_missed,
           min(e.since) FILTER (WHERE e.n_missed > 0) AS missed_since
    FROM event_audits e CROSS JOIN todoist_channel c
    WHERE e.audited_at >= :since
      AND e.since >= coalesce(CASE WHEN :since_trust_ended THEN c.evidence_since ELSE c.outage_ended_at END, '-infinity')
) audits CROSS JOIN (
    SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY delay_s) AS p50,
           percentile_cont(0.99) WITHIN GROUP (ORDER BY delay_s) AS p99
    FROM event_arrivals WHERE received_at >= :since AND delay_s IS NOT NULL
) delays;

-- name: save_verdict!
-- Store the evidence and the verdict. When trust ends by misses, it goes back to :missed_since. A channel that stays
-- trusted keeps the instant until which it is trusted.
UPDATE todoist_channel
SET is_trusted = :is_trusted, n_changes = :n_changes, n_missed = :n_missed, miss_rate_bound = :miss_rate_bound,
    audit_every = :audit_every, delay_p50 = :delay_p50, delay_p99 = :delay_p99,
    trusted_until = CASE WHEN :is_trusted AND NOT is_trusted THEN greatest(trusted_until, :now)
        WHEN is_trusted AND NOT :is_trusted THEN least(trusted_until, :missed_since) ELSE trusted_until END,
    evidence_since = CASE WHEN is_trusted AND NOT :is_trusted THEN :now ELSE evidence_since END,
    trust_ended_by = CASE WHEN is_trusted AND NOT :is_trusted THEN 'misses' ELSE trust_ended_by END;

-- name: end_trust!
-- End the trust because of a setting.
UPDATE todoist_channel
SET is_trusted = FALSE, trust_ended_by = 'setting', evidence_since = :now, outage_ended_at = :now WHERE is_trusted;

-- name: expire_events!
DELETE FROM todoist_events WHERE received_at < :before;

-- name: expire_tombstones!
DELETE FROM todoist_tombstones WHERE updated_at < :before;

-- name: expire_arrivals!
DELETE FROM event_arrivals WHERE received_at < :before;

-- name: expire_audits!
DELETE FROM event_audits WHERE audited_at < :before;
