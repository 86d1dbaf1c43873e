-- Every answered request for a tip, and what the user made of it.
CREATE TABLE decisions (
    decision_id  UUID PRIMARY KEY,
    user_id      TEXT NOT NULL REFERENCES users ON DELETE CASCADE,
    decided_at   TIMESTAMPTZ NOT NULL,
    tip_kind     TEXT,
    theme        TEXT,
    context_hash TEXT
);
CREATE INDEX decisions_by_user ON decisions (user_id, decided_at);

CREATE TABLE reactions (
    decision_id UUID PRIMARY KEY REFERENCES decisions ON DELETE CASCADE,
    reaction    TEXT NOT NULL CHECK (reaction IN ('accepted', 'done', 'snoozed', 'dismissed', 'ignored')),
    reacted_at  TIMESTAMPTZ NOT NULL
);
