-- How far the events of Todoist's webhooks are believed: per user, and for all of them together.
ALTER TABLE todoist_accounts
    ADD COLUMN synced_at TIMESTAMPTZ,            -- the last fetch's calls had ended; NULL: an earlier version fetched
    ADD COLUMN events_confirmed_at TIMESTAMPTZ;  -- a call last confirmed an event; NULL: none of this connection

-- An event that the stored tasks contain stays until the stored context contains it, too.
ALTER TABLE todoist_events
    ADD COLUMN folded_form TIMESTAMPTZ,          -- received_at of the form that the stored tasks contain; NULL: none
    ADD COLUMN folded_at TIMESTAMPTZ,            -- when that form was folded
    ADD COLUMN first_received_at TIMESTAMPTZ;    -- of the row's first form; NULL: no other form has come

CREATE INDEX todoist_events_by_time ON todoist_events (received_at);

-- The last changes of objects of which the stored tasks keep no instant: ended tasks, and places changed by events. An
-- older event of them is dropped. A descendant is a task that ended with its place or its parent task.
CREATE TABLE todoist_tombstones (
    user_id           TEXT NOT NULL REFERENCES users ON DELETE CASCADE,
    connection_number INTEGER NOT NULL,
    object_type       TEXT NOT NULL CHECK (object_type IN ('item', 'project', 'section', 'descendant')),
    object_id         TEXT NOT NULL,
    updated_at        TIMESTAMPTZ NOT NULL,      -- by Todoist's clock
    PRIMARY KEY (user_id, object_type, object_id)
);
CREATE INDEX todoist_tombstones_by_time ON todoist_tombstones (updated_at);

-- When events came, once they are no longer pending; no word of whose they were.
CREATE TABLE event_arrivals (
    received_at TIMESTAMPTZ NOT NULL,
    delay_s     REAL                             -- seconds since Todoist made the event; NULL: unknown
);
CREATE INDEX event_arrivals_by_time ON event_arrivals (received_at);

-- Calls of covered users: what Todoist answered beside what events had told.
CREATE TABLE event_audits (
    user_id    TEXT NOT NULL REFERENCES users ON DELETE CASCADE,
    audited_at TIMESTAMPTZ NOT NULL,
    since      TIMESTAMPTZ NOT NULL,             -- the user's previous call
    kind       TEXT NOT NULL CHECK (kind IN ('incremental', 'full')),
    n_changes  INTEGER NOT NULL,                 -- objects that changed since then, late enough to be told
    n_missed   INTEGER NOT NULL,                 -- those of them that no event told
    PRIMARY KEY (user_id, audited_at)
);
CREATE INDEX event_audits_by_time ON event_audits (audited_at);

ALTER TABLE todoist_channel
    ADD COLUMN endpoint_seen_at TIMESTAMPTZ,     -- a service with the endpoint last ran
    ADD COLUMN is_trusted BOOLEAN NOT NULL DEFAULT FALSE,
    ADD COLUMN trusted_until TIMESTAMPTZ,        -- silence of the channel until then counts; NULL: it never did
    ADD COLUMN evidence_since TIMESTAMPTZ,       -- audits of changes from then on count; NULL: all do
    ADD COLUMN trust_ended_by TEXT CHECK (trust_ended_by IN ('misses', 'silence', 'outage', 'setting')),  -- the last end
    ADD COLUMN n_changes INTEGER NOT NULL DEFAULT 0,  -- of the audits that count
    ADD COLUMN n_missed INTEGER NOT NULL DEFAULT 0,
    ADD COLUMN miss_rate_bound REAL NOT NULL DEFAULT 1,  -- upper end of the 95 % interval of the miss rate
    ADD COLUMN audit_every INTERVAL NOT NULL DEFAULT '1 day',
    ADD COLUMN delay_p50 INTERVAL,
    ADD COLUMN delay_p99 INTERVAL;               -- of the events of the last four weeks; NULL: there were none

-- Whether events tell the changes of an account: its user signed in through the product's app, and a call has confirmed
-- an event since.
ALTER TABLE todoist_accounts ADD COLUMN is_covered BOOLEAN NOT NULL GENERATED ALWAYS AS (
    connected AND auth_failures = 0 AND coalesce(events_confirmed_at >= oauth_connected_at, FALSE)) STORED;

-- As of when the tasks of a user are known, of which the last fetch was at fetched_at. For a covered account the silence of
-- a trusted channel counts, until the first event that the context may lack, up to the delay of events, and for no longer
-- than audits make certain; observed_at: the last fetch by the pipeline, which fetched_at must not be older than. Events may have been lost
-- until trust last ended: an account that was not fetched since has none of the silence after that. The one rule of
-- freshness: requests, the choice of users to fetch, and the plan ask it. In plpgsql, because a session plans it once:
-- inlined into the read of a request, it would be planned with each.
CREATE FUNCTION known_as_of(account_user_id TEXT, account_number INTEGER, observed_at TIMESTAMPTZ, is_covered BOOLEAN,
                            fetched_at TIMESTAMPTZ, believes_events BOOLEAN)
RETURNS TIMESTAMPTZ LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
BEGIN
    IF believes_events AND is_covered AND fetched_at >= observed_at THEN
        RETURN coalesce((
            SELECT greatest(fetched_at, least(c.trusted_until, (
                SELECT min(coalesce(e.first_received_at, e.received_at)) FROM todoist_events e
                WHERE e.user_id = account_user_id AND e.connection_number = account_number
                  AND e.received_at >= fetched_at)) - c.delay_p99)
            FROM todoist_channel c
            WHERE observed_at >= c.trusted_until - c.audit_every - INTERVAL '1 day'
              AND (c.trusted_until <= c.evidence_since OR observed_at >= coalesce(c.evidence_since, '-infinity'))
        ), fetched_at);
    END IF;
    RETURN fetched_at;
END $$;
