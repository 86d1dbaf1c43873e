-- Whose Todoist an account is, and whether its changes are reported by webhooks: only users who signed in through the
-- product's app have any.
ALTER TABLE todoist_accounts
    ADD COLUMN todoist_user_id TEXT,             -- Todoist's id of the account's owner; NULL: not known yet
    ADD COLUMN oauth_connected_at TIMESTAMPTZ;   -- when the user signed in through the product's app; NULL: never

UPDATE todoist_accounts SET todoist_user_id = directory ->> 'todoist_user_id';

-- Two users can have connected the same account of Todoist.
CREATE INDEX todoist_accounts_by_owner ON todoist_accounts (todoist_user_id);

-- Changes that webhooks reported and that are not yet part of the mirror: one row per user and object with the newest
-- form. A row goes when it is folded, and with its user. It never holds who made the change.
CREATE TABLE todoist_events (
    user_id           TEXT NOT NULL REFERENCES users ON DELETE CASCADE,
    connection_number INTEGER NOT NULL,     -- of the account to which the event was delivered
    object_type       TEXT NOT NULL CHECK (object_type IN ('item', 'project', 'section')),
    object_id         TEXT NOT NULL,        -- Todoist's id
    event_name        TEXT NOT NULL,        -- such as item:updated
    object            JSONB NOT NULL,       -- the fields that the mirror reads; {}: not believed, it came too late
    is_ended          BOOLEAN NOT NULL,     -- whether the event ends the object, or this occurrence of a recurring task
    updated_at        TIMESTAMPTZ,          -- the object's own; NULL: unset, unreadable, or not believed
    triggered_at      TIMESTAMPTZ,          -- when Todoist made the event; NULL: unreadable
    received_at       TIMESTAMPTZ NOT NULL, -- by the clock of the service
    PRIMARY KEY (user_id, object_type, object_id)
);

-- Todoist's webhooks as a whole; one row.
CREATE TABLE todoist_channel (
    is_only_row      BOOLEAN PRIMARY KEY DEFAULT TRUE CHECK (is_only_row),
    last_delivery_at TIMESTAMPTZ             -- of the newest delivery that was not late; NULL: there was none
);

INSERT INTO todoist_channel DEFAULT VALUES;
