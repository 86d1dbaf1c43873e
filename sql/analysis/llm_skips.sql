-- How many tips needed no LLM call, by day?
SELECT decided_at::DATE AS day,
       count(*) AS n_tips,
       count(*) FILTER (WHERE llm = 'called') AS n_called,
       count(*) FILTER (WHERE llm = 'skipped') AS n_skipped,
       count(*) FILTER (WHERE llm = 'fallback') AS n_fallback,
       n_skipped / n_tips AS share_skipped
FROM decisions
GROUP BY day
ORDER BY day
