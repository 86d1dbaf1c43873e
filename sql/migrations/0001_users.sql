-- Users, and where each one's Todoist account stands.
CREATE TABLE users (
    user_id    TEXT PRIMARY KEY,
    email      TEXT NOT NULL,
    timezone   TEXT NOT NULL,              -- IANA name; what Todoist says replaces it at the first fetch
    active     BOOLEAN NOT NULL DEFAULT TRUE,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    -- 32 bits of md5(user_id); the shard is this modulo N_SHARDS, as assets/versions.py says
    shard_key  BIGINT NOT NULL GENERATED ALWAYS AS (('x' || left(md5(user_id), 8))::BIT(32)::BIGINT) STORED
);

-- An instant as the clock on a user's wall shows it; UTC where Postgres does not know the zone.
CREATE FUNCTION local_time(at TIMESTAMPTZ, zone TEXT) RETURNS TIMESTAMP LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN at AT TIME ZONE zone;
EXCEPTION WHEN invalid_parameter_value THEN
    RETURN at AT TIME ZONE 'UTC';
END $$;

CREATE TABLE todoist_accounts (
    user_id       TEXT PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    credentials   TEXT NOT NULL,           -- Fernet: user id, access token, refresh token
    sync_token    TEXT,                    -- NULL: the next fetch asks for everything
    directory     JSONB NOT NULL DEFAULT '{}',  -- names of projects and sections as of sync_token
    observed_at   TIMESTAMPTZ,             -- when the signals were last fetched without an error
    auth_failures INTEGER NOT NULL DEFAULT 0,   -- runs in a row in which Todoist refused the token
    refused_at    TIMESTAMPTZ,             -- the last of them
    connected     BOOLEAN NOT NULL DEFAULT TRUE
);
