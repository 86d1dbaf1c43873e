-- Changes from before the end of an outage say nothing of the channel of events after it. Misses keep counting: evidence is
-- what was audited since the last outage or, if that is better, since trust last ended, which evidence_since says.
ALTER TABLE todoist_channel ADD COLUMN outage_ended_at TIMESTAMPTZ;  -- or events were switched off; NULL: never

UPDATE todoist_channel SET outage_ended_at = evidence_since;
