"""Causes of LLM calls and of saved calls, and authors of the shown tips, from the tables of the service."""

from __future__ import annotations

from typing import Any

import psycopg

from benchmarks.week.workload import MONDAY

_LLM_CALLS = """
    SELECT CASE WHEN l.renew_at < l.expires_at AND l.renew_at <= c.called_at THEN 'after rule-based tips'
                WHEN l.expires_at > c.called_at THEN 'changed, too few valid'
                WHEN l.renew_at > c.called_at THEN 'new day, too few valid'
                ELSE 'too old, or none stored' END AS cause, count(*)
    FROM llm_calls c LEFT JOIN LATERAL (
        SELECT expires_at, renew_at FROM candidate_sets s
        WHERE s.user_id = c.user_id AND s.made_at <= c.called_at
          AND s.candidate_set_id IS DISTINCT FROM c.candidate_set_id
        ORDER BY s.made_at DESC LIMIT 1
    ) l ON TRUE
    WHERE c.called_at >= %s GROUP BY 1 ORDER BY 2 DESC
"""

_SAVED_CALLS = """
    SELECT CASE WHEN d.llm = 'fallback' THEN 'fallback to rules'
                WHEN d.nth > 1 THEN 'same context'
                WHEN l.expires_at > d.decided_at THEN 'changed, enough valid'
                ELSE 'new day, enough valid' END AS cause, count(*)
    FROM (
        SELECT *, row_number() OVER (PARTITION BY candidate_set_id ORDER BY decided_at) AS nth FROM decisions
    ) d LEFT JOIN LATERAL (
        SELECT expires_at FROM candidate_sets s
        WHERE s.user_id = d.user_id AND s.made_at <= d.decided_at
          AND s.candidate_set_id IS DISTINCT FROM d.candidate_set_id
        ORDER BY s.made_at DESC LIMIT 1
    ) l ON TRUE
    WHERE d.decided_at >= %s AND d.delivered AND d.llm <> 'called' GROUP BY 1 ORDER BY 2 DESC
"""

_AUTHORS = """
    SELECT CASE WHEN s.subject_hashes[d.chosen + 1] <> '' THEN 'llm' ELSE 'rules' END AS author, count(*)
    FROM decisions d LEFT JOIN candidate_sets s USING (candidate_set_id)
    WHERE d.decided_at >= %s AND d.delivered GROUP BY 1 ORDER BY 2 DESC
"""


def llm_calls_by_cause(connection: psycopg.Connection[Any]) -> dict[str, int]:
    """The LLM calls of the week by cause."""
    return _counts(connection, _LLM_CALLS)


def saved_calls_by_cause(connection: psycopg.Connection[Any]) -> dict[str, int]:
    """The requests of the week without an LLM call, by the reason that saved the call.

    A candidate set is written for its first decision; later decisions had the same context.
    """
    return _counts(connection, _SAVED_CALLS)


def tips_by_author(connection: psycopg.Connection[Any]) -> dict[str, int]:
    """The shown tips of the week by author: the rules fill a set with too few valid tips of the LLM."""
    return _counts(connection, _AUTHORS)


def _counts(connection: psycopg.Connection[Any], sql: str) -> dict[str, int]:
    return dict(connection.execute(sql.encode(), [MONDAY]).fetchall())
