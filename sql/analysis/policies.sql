-- How well did each policy perform, and how much did it explore?
-- All versions of a policy count together.
SELECT split_part(policy_version, '@', 1) AS policy,
       count(*) AS n_tips,
       avg(propensity) AS mean_propensity,
       avg(n_candidates) AS mean_candidates,
       count(reward) AS n_rewarded,
       avg(reward) AS mean_reward,
       1.96 * stddev_samp(reward) / sqrt(count(reward)) AS margin_of_error
FROM decisions LEFT JOIN reactions USING (decision_id)
WHERE policy_version IS NOT NULL
GROUP BY policy
ORDER BY policy
