-- Every `accounts add` makes a new connection of a user to Todoist, with a number of its own and a higher one than all
-- before. Whatever is made from an account carries its number, and is used only while that is the account's number.
CREATE SEQUENCE connection_numbers AS INTEGER;

ALTER TABLE todoist_accounts
    ADD COLUMN connection_number INTEGER NOT NULL DEFAULT 0,  -- 0: from before connections had numbers
    ADD COLUMN connected_at TIMESTAMPTZ;  -- later than all fetches of earlier connections; NULL: there were none, or 0

ALTER TABLE context_store ADD COLUMN connection_number INTEGER NOT NULL DEFAULT 0;  -- of the account it was made from

ALTER TABLE candidate_sets ADD COLUMN connection_number INTEGER NOT NULL DEFAULT 0;  -- of the account they are about
