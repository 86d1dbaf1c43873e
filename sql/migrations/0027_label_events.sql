-- A label that is renamed or deleted changes tasks: its event is kept without content, and makes its user due for a call.
ALTER TABLE todoist_events
    DROP CONSTRAINT todoist_events_object_type_check,
    ADD CONSTRAINT todoist_events_object_type_check CHECK (object_type IN ('item', 'project', 'section', 'label'));
