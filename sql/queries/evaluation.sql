-- name: decisions_between
-- Delivered decisions of policies between two instants, newest first, with the reaction and its reward if there is one.
SELECT regexp_replace(d.policy_version, '@[^@]*$', '') AS policy, d.decision_id, d.user_id, d.features, d.propensities,
       cardinality(d.propensities) AS n_candidates, d.chosen, d.origin, r.reaction, r.reward
FROM decisions d LEFT JOIN reactions r USING (decision_id)
WHERE d.decided_at >= :since AND d.decided_at < :until
  AND d.policy_version IS NOT NULL AND d.chosen IS NOT NULL AND d.features IS NOT NULL
  AND cardinality(d.propensities) > 0 AND d.delivered
ORDER BY d.decided_at DESC, d.decision_id DESC;
