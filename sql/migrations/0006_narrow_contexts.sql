-- Long texts lie beside the rows of context_store: the many updates of nothing but the freshness find narrow rows.
ALTER TABLE context_store SET (
    toast_tuple_target = 256,              -- what makes a row longer lies beside it: context_json first, then themes
    fillfactor = 45,                       -- room for every row of a page once more: freshness moves in place (HOT)
    autovacuum_vacuum_scale_factor = 2,    -- updates in place clean up after themselves ...
    autovacuum_analyze_scale_factor = 10   -- ... and change nothing that a plan depends on
);
-- Storage holds for what is written from now on, so the rows that are there are written anew: an expression in place
-- of a column makes Postgres rewrite the whole table, and || gives a value that is not compressed.
-- Nobody reads or writes context_store meanwhile.
ALTER TABLE context_store
    ALTER COLUMN context_json TYPE TEXT USING context_json || '',
    ALTER COLUMN themes       TYPE TEXT USING themes || '',
    ALTER COLUMN context_json SET STORAGE EXTERNAL,  -- not compressed: half the cost of a write, less for a read
    ALTER COLUMN themes       SET STORAGE EXTERNAL,
    ALTER COLUMN user_id      SET STORAGE MAIN,      -- what an update of the freshness compares stays in the row
    ALTER COLUMN context_hash SET STORAGE PLAIN,
    ALTER COLUMN row_version  SET STORAGE PLAIN;
