-- Every `accounts add` makes a new connection of a user to Todoist, with a number of its own and a higher one than all
-- before. Whatever is made from an account carries its number, and is used only while that is the account's number.
CREATE SEQUENCE connection_numbers AS INTEGER;

ALTER TABLE todoist_accounts
    ADD COLUMN connection_number INTEGER NOT NULL DEFAULT 0,  -- 0: from before connections had numbers
    ADD COLUMN connected_at TIMESTAMPTZ;  -- later than all fetches of earlier connections; NULL: there were none, or 0

-- Of the account that a row was made from; NULL if its writer did not tell.
ALTER TABLE context_store ADD COLUMN connection_number INTEGER;
ALTER TABLE candidate_sets ADD COLUMN connection_number INTEGER;

-- Whether a row was made from an account: by its number, or, if it has none, by the time that it was made.
CREATE FUNCTION is_of_account(row_number INTEGER, made_at TIMESTAMPTZ, account_number INTEGER, connected_at TIMESTAMPTZ)
RETURNS BOOLEAN LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN row_number IS NULL THEN made_at >= coalesce(connected_at, '-infinity')
                ELSE row_number = account_number END
$$;
