"""Why the LLM was called or not, and whose tips were shown, told by what the service wrote down."""

from __future__ import annotations

from typing import Any

import psycopg

from benchmarks.week.workload import MONDAY

_CALLED = """
    SELECT CASE WHEN l.renew_at < l.expires_at AND l.renew_at <= c.called_at THEN 'tried again after a failure'
                WHEN l.expires_at > c.called_at THEN 'changed, and too few stood'
                WHEN l.renew_at > c.called_at THEN 'another day, and too few stood'
                ELSE 'too old, or none there' END AS cause, count(*)
    FROM llm_calls c LEFT JOIN LATERAL (
        SELECT expires_at, renew_at FROM candidate_sets s
        WHERE s.user_id = c.user_id AND s.made_at <= c.called_at
          AND s.candidate_set_id IS DISTINCT FROM c.candidate_set_id
        ORDER BY s.made_at DESC LIMIT 1
    ) l ON TRUE
    WHERE c.called_at >= %s GROUP BY 1 ORDER BY 2 DESC
"""

_SPARED = """
    SELECT CASE WHEN d.llm = 'fallback' THEN 'made by rules'
                WHEN d.nth > 1 THEN 'the same context'
                WHEN l.expires_at > d.decided_at THEN 'changed, and enough stood'
                ELSE 'another day, and enough stood' END AS cause, count(*)
    FROM (
        SELECT *, row_number() OVER (PARTITION BY candidate_set_id ORDER BY decided_at) AS nth FROM decisions
    ) d LEFT JOIN LATERAL (
        SELECT expires_at FROM candidate_sets s
        WHERE s.user_id = d.user_id AND s.made_at <= d.decided_at
          AND s.candidate_set_id IS DISTINCT FROM d.candidate_set_id
        ORDER BY s.made_at DESC LIMIT 1
    ) l ON TRUE
    WHERE d.decided_at >= %s AND d.llm <> 'called' GROUP BY 1 ORDER BY 2 DESC
"""

_AUTHORS = """
    SELECT CASE WHEN s.bases[d.chosen + 1] <> '' THEN 'llm' ELSE 'rules' END AS author, count(*)
    FROM decisions d LEFT JOIN candidate_sets s USING (candidate_set_id)
    WHERE d.decided_at >= %s GROUP BY 1 ORDER BY 2 DESC
"""


def called(connection: psycopg.Connection[Any]) -> dict[str, int]:
    """Calls of the LLM in the week, by cause."""
    return _counts(connection, _CALLED)


def spared(connection: psycopg.Connection[Any]) -> dict[str, int]:
    """Requests of the week without one, by what spared it: a set's first decision is the one that it was made for."""
    return _counts(connection, _SPARED)


def authors(connection: psycopg.Connection[Any]) -> dict[str, int]:
    """Whose tips were shown in the week: where too few of an LLM's still stand, rules add theirs."""
    return _counts(connection, _AUTHORS)


def _counts(connection: psycopg.Connection[Any], sql: str) -> dict[str, int]:
    return dict(connection.execute(sql.encode(), [MONDAY]).fetchall())
