-- How did each policy do, and how far did it explore?
-- Versions of one policy count as one.
SELECT split_part(policy_version, '@', 1) AS policy,
       count(*) AS n_tips,
       avg(propensity) AS mean_propensity,
       avg(n_candidates) AS mean_candidates,
       count(reward) AS n_rewarded,
       avg(reward) AS mean_reward,
       1.96 * stddev_samp(reward) / sqrt(count(reward)) AS margin
FROM decisions LEFT JOIN reactions USING (decision_id)
WHERE policy_version IS NOT NULL
GROUP BY policy
ORDER BY policy
