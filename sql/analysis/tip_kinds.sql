-- Which kinds of tips are welcome, and how certain is that?
SELECT tip_kind,
       count(*) AS n_tips,
       count(reaction) AS n_reacted,
       count(*) FILTER (WHERE is_welcome(reaction)) AS n_welcome,
       n_welcome / nullif(n_reacted, 0) AS share_welcome,
       share_low(n_welcome, nullif(n_reacted, 0)) AS share_low,
       share_high(n_welcome, nullif(n_reacted, 0)) AS share_high
FROM decisions
LEFT JOIN reactions USING (decision_id)
GROUP BY tip_kind
ORDER BY share_welcome DESC NULLS LAST, tip_kind
