-- Replace the project's own names with standard terms: step run, asset run, task groups, subject hash.
ALTER TABLE ledger RENAME TO step_runs;
ALTER INDEX ledger_pkey RENAME TO step_runs_pkey;
ALTER INDEX ledger_by_time RENAME TO step_runs_by_time;

ALTER TABLE materializations RENAME TO asset_runs;
ALTER INDEX materializations_pkey RENAME TO asset_runs_pkey;
ALTER INDEX materializations_by_time RENAME TO asset_runs_by_time;

ALTER TABLE asset_runs RENAME COLUMN n_users_changed TO n_users_computed;

ALTER TABLE candidate_sets RENAME COLUMN bases TO subject_hashes;

-- Themes and duplicates of a user's tasks. The oldest rows hold a bare list of themes. Inside a JSON string a quote
-- follows a backslash, so the replaced text is always the key and never a part of a label.
ALTER TABLE context_store RENAME COLUMN themes TO groups_json;
ALTER TABLE context_store ALTER COLUMN groups_json SET DEFAULT '{"themes":[],"duplicates":[]}';
UPDATE context_store
SET groups_json = CASE
    WHEN groups_json LIKE '[%' THEN '{"themes":' || groups_json || ',"duplicates":[]}'
    ELSE replace(groups_json, ',"alike":', ',"duplicates":')
END;
