-- Every few seconds the service looks for users with unfolded events, of whom there are few among all with stored events.
CREATE INDEX todoist_events_unfolded ON todoist_events (user_id) WHERE folded_form IS DISTINCT FROM received_at;
