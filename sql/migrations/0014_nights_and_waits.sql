-- The users that a run fetched: 'all', 'nightly' or 'likely'; NULL for other steps and for parts of the pipeline. The
-- scheduled run that finds no finished 'all' or 'nightly' since the last night hour is the nightly one.
ALTER TABLE step_runs ADD COLUMN scope TEXT;

-- The shards in which a step waits for an earlier step, and the first run that did: the wait has a bound.
CREATE TABLE waiting_shards (
    step  TEXT NOT NULL,
    shard INTEGER NOT NULL,
    since TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (step, shard)
);

-- Whether the threshold is from a part of the texts, as after a first night that was broken off: the next run that
-- has all of them calibrates again.
ALTER TABLE cluster_thresholds ADD COLUMN is_provisional BOOLEAN NOT NULL DEFAULT FALSE;
