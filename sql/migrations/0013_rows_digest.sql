-- The digest of the stored rows that a user's sync token continues: a file with other rows, such as a restored one, lacks
-- changes that Todoist will not report again, so the next fetch of the user is a full one. NULL: not known yet.
ALTER TABLE todoist_accounts ADD COLUMN rows_digest BYTEA;
