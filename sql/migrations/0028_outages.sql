-- Changes from before the end of an outage say nothing about the channel of events after it. Misses keep counting: the
-- audits since the last outage are evidence or, if their bound is lower, those since trust last ended (evidence_since).
ALTER TABLE todoist_channel ADD COLUMN outage_ended_at TIMESTAMPTZ;  -- or events were switched off; NULL: never

UPDATE todoist_channel SET outage_ended_at = evidence_since;
