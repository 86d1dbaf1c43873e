"""Faults of the service's rows in Postgres: broken ones, and those of another version."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from faults.load import Load
from faults.row import Row, require
from faults.service import RunningService, ServiceTrial, service_trial, wait_until
from local.service import ServiceError
from local.todoist import Fault
from serving.composition import POLICY
from tips.features import N_FEATURES

_ROOT = Path(__file__).parents[2]
_RATE = 5.0
_N_DECISIONS = 20_000
_MAX_EVALUATION_S, _MAX_EVALUATION_MIB = 60.0, 600.0

NEWER_VERSION = """
UPDATE context_store c SET context_json = newer, context_hash = encode(sha256(convert_to(newer, 'UTF8')), 'hex')
FROM (SELECT user_id, regexp_replace(context_json, '"version":[0-9]+', '"version":99') AS newer FROM context_store) n
WHERE c.user_id = n.user_id
"""

MORE_DECISIONS = """
INSERT INTO decisions (decision_id, decided_at, user_id, policy_version, seed, chosen, propensities, features)
SELECT gen_random_uuid(), now() - INTERVAL '2 days' - n * INTERVAL '1 second', user_id, policy_version, seed, chosen,
       propensities, CASE WHEN n %% 100 = 0 THEN substr(features, 1, 9) ELSE features END
FROM decisions, generate_series(1, %s) n
"""
REACTIONS = """
INSERT INTO reactions (decision_id, reaction, reacted_at)
SELECT decision_id, CASE WHEN random() < 0.5 THEN 'done' ELSE 'ignored' END, now()
FROM decisions WHERE decided_at < now() - INTERVAL '1 day'
"""

_NAN = np.float32("nan").tobytes().hex()


def unreadable(service: RunningService) -> float:
    """The number of unreadable rows that a service has met."""
    return service.counters().get("unreadable_rows", 0.0)


def all_answered(service: RunningService, users: list[str], source: str) -> Load:
    """A tip for each user; all answered from this source."""
    load = service.offer(users, rate=_RATE, seconds=len(users) / _RATE)
    require(set(load.statuses) == {200}, f"the statuses are {dict(load.statuses)}")
    sources = {reply.json["source"] for reply in load.of(200)}
    require(sources == {source}, f"the sources are {sources}")
    return load


def newer_contexts(trial: ServiceTrial) -> str:
    """Let all contexts be of a newer version, with candidates that do not fit them."""
    service, users = trial.start(), list(trial.ready[:50])
    trial.connection.execute(NEWER_VERSION.encode())
    load = all_answered(service, users, "inline")
    n_unreadable = unreadable(service)
    again = all_answered(service, users, "stored")
    require(unreadable(service) == n_unreadable, "rows are still unreadable afterwards")
    return f"{load.figures()}; {n_unreadable:.0f} unreadable rows; then {again.figures()}"


def contexts_without_todoist(trial: ServiceTrial) -> str:
    """Let contexts be no JSON while Todoist is down, and then up again."""
    service, users = trial.start(todoist_timeout=0.5), list(trial.ready[:40])
    trial.connection.execute(b"UPDATE context_store SET context_json = '{', context_hash = 'x'")
    trial.todoist.fail_at_rate(1.0, Fault.server_error(503))
    load = all_answered(service, users, "none")
    trial.todoist.fail_at_rate(0)
    seconds = wait_until(
        lambda: service.tip(users[-1]).json["source"] == "inline", "the context is not assembled again", 60
    )
    return f"{load.figures()}, all generic; assembled {seconds:.1f} s after Todoist was back"


def _broken_candidates(trial: ServiceTrial, change: str) -> str:
    service, broken, sound = trial.start(), list(trial.ready[:20]), list(trial.ready[20:40])
    trial.connection.execute(f"UPDATE candidate_sets SET {change} WHERE user_id = ANY(%s)".encode(), [broken])
    load = all_answered(service, [user for pair in zip(broken, sound, strict=True) for user in pair], "stored")
    others = [reply for reply in all_answered(service, sound, "stored").of(200) if reply.json["llm"] != "skipped"]
    require(not others, f"{len(others)} other users got new candidates")
    n_unreadable = unreadable(service)
    all_answered(service, broken, "stored")
    require(unreadable(service) == n_unreadable, "candidates are still unreadable afterwards")
    return f"{load.figures()}; {n_unreadable:.0f} unreadable rows of 20 users"


def nan_candidates(trial: ServiceTrial) -> str:
    """Put a NaN into the features of candidates of every other user."""
    return _broken_candidates(trial, f"features = overlay(features PLACING '\\x{_NAN}'::BYTEA FROM 9)")


def cut_candidates(trial: ServiceTrial) -> str:
    """Cut the features of candidates of every other user."""
    return _broken_candidates(trial, "features = substr(features, 1, 50)")


def odd_tips(trial: ServiceTrial) -> str:
    """Let the tips of every other user be something else."""
    return _broken_candidates(trial, "tips = array_fill('{\"a\": 1}'::TEXT, ARRAY[cardinality(tips)])")


def _reacted(service: RunningService, users: list[str]) -> None:
    for user in users:
        decision_id = service.tip(user).json["decision_id"]
        reply = service.request("POST", f"/v1/decisions/{decision_id}/reaction", b'{"reaction": "done"}')
        require(reply.status == 200, f"a reaction got {reply.status}")


def _broken_posterior(trial: ServiceTrial, precision: Any) -> str:
    service, users = trial.start(), list(trial.ready[:40])
    _reacted(service, users[:20])
    values = [np.asarray(precision).tobytes(), POLICY]
    trial.connection.execute(
        b"UPDATE policies SET precision = %s, n_updates = n_updates + 1 WHERE policy = %s", values
    )
    started = time.monotonic()
    load = all_answered(service, users, "stored")
    _reacted(service, users[20:])
    wait_until(lambda: trial.one("SELECT count(*) FROM unreadable_policies"), "the row is not set aside")
    seconds = time.monotonic() - started
    trace = trial.one("SELECT precision FROM policies WHERE policy = %s", POLICY)
    learned = np.frombuffer(trace).reshape(N_FEATURES, N_FEATURES)
    constant = learned[0, 0] - 1  # the first feature is 1 in each decision
    require(constant == 40, f"the new posterior has learned from {constant:g} of 40 reactions")
    return f"{load.figures()}; 20 reactions; learned again, with all 40, within {seconds:.1f} s"


def singular_posterior(trial: ServiceTrial) -> str:
    """Let the posterior be singular."""
    return _broken_posterior(trial, np.zeros((N_FEATURES, N_FEATURES)))


def nan_posterior(trial: ServiceTrial) -> str:
    """Let the posterior be full of NaN."""
    return _broken_posterior(trial, np.full((N_FEATURES, N_FEATURES), np.nan))


def nan_decision(trial: ServiceTrial) -> str:
    """Put a NaN into one of 40 decisions that are then ignored."""
    service, users = trial.start(ignored_after="00:00:01"), list(trial.ready[:40])
    all_answered(service, users, "stored")
    broken = trial.one("SELECT decision_id FROM decisions ORDER BY decided_at LIMIT 1")
    change = f"UPDATE decisions SET features = overlay(features PLACING '\\x{_NAN}'::BYTEA FROM 1)".encode()
    trial.connection.execute(change + b", chosen = 0 WHERE decision_id = %s", [broken])
    body = b'{"reaction": "done"}'
    reply = service.request("POST", f"/v1/decisions/{broken}/reaction", body)
    require(reply.status == 200, f"a reaction to it got {reply.status}")
    _reacted(service, users[:10])
    learned = trial.one("SELECT n_updates FROM policies WHERE policy = %s", POLICY)
    require(learned == 10, f"{learned} of the 10 other reactions were learned")
    require(str(broken) in service.log(), "the log does not name the decision")
    return "the reaction is stored; 10 of 10 others learned"


def one_undecryptable_account(trial: ServiceTrial) -> str:
    """Let no key decrypt the first 150 accounts, and start."""
    trial.connection.execute(
        b"UPDATE todoist_accounts SET credentials = 'x' WHERE user_id IN"
        b" (SELECT user_id FROM users ORDER BY user_id LIMIT 150)"
    )
    started = time.monotonic()
    service = trial.start()
    seconds = time.monotonic() - started
    load = all_answered(service, list(trial.ready[:40]), "stored")
    require("todoist_accounts, user-0000" in service.log(), "the log does not name the account")
    return f"started in {seconds:.1f} s, {unreadable(service):.0f} accounts named; {load.figures()}"


def wrong_keys(trial: ServiceTrial) -> str:
    """Let no key decrypt any account, and start."""
    trial.connection.execute(b"UPDATE todoist_accounts SET credentials = 'x'")
    try:
        trial.start()
    except ServiceError as error:
        require("CREDENTIALS_KEYS" in str(error), "the message does not name the setting")
        return "refused, with the setting"
    require(False, "the service started")
    return ""


def evaluation(trial: ServiceTrial) -> str:
    """Evaluate 20,000 decisions, one in a hundred of which is broken."""
    service = trial.start()
    all_answered(service, list(trial.ready[:100]), "stored")
    trial.connection.execute(MORE_DECISIONS.encode(), [_N_DECISIONS // 100])
    trial.connection.execute(REACTIONS.encode())
    return _evaluated(trial.database_url)


def _evaluated(database_url: str) -> str:
    """Run the command; figures of time and memory."""
    started, peak = time.monotonic(), 0.0
    environment = {**os.environ, "DATABASE_URL": database_url}
    command = [sys.executable, "-m", "serving.evaluate"]
    process = psutil.Popen(command, cwd=_ROOT, env=environment, stdout=-1, stderr=-1, text=True)
    while process.poll() is None:
        peak = max(peak, process.memory_info().rss / 2**20)
        time.sleep(0.02)
    out, err = process.communicate()
    seconds = time.monotonic() - started
    require(process.returncode == 0, f"exit status {process.returncode}: {err[-200:]}")
    require("200 that cannot be read" in " ".join(out.split()), "the broken decisions are not left out")
    require(seconds < _MAX_EVALUATION_S and peak < _MAX_EVALUATION_MIB, f"{seconds:.0f} s and {peak:.0f} MiB")
    return f"{_N_DECISIONS:,} decisions in {seconds:.1f} s, at most {peak:.0f} MiB; 200 left out"


def _row(fault: str, promise: str, run: object, n_quick: int = 0) -> Row:
    return Row(fault, "service: rows", promise, run, open=service_trial, n_quick=n_quick)  # type: ignore[arg-type]


_MADE_AGAIN = "made again for their users; the others keep theirs"
_LEARNED_AGAIN = "tips and reactions go on; learned again from the log"

ROWS = (
    _row("contexts of a newer version", "assembled in the request, and replaced", newer_contexts, n_quick=1),
    _row("contexts that are no JSON, Todoist down", "generic tips, then all is well", contexts_without_todoist),
    _row("candidates with a NaN", _MADE_AGAIN, nan_candidates),
    _row("candidates with cut features", _MADE_AGAIN, cut_candidates),
    _row("candidates that are no tips", _MADE_AGAIN, odd_tips),
    _row("a singular posterior", _LEARNED_AGAIN, singular_posterior),
    _row("a posterior of NaN", _LEARNED_AGAIN, nan_posterior),
    _row("a decision with a NaN", "its reaction is stored, all others learned", nan_decision),
    _row("150 accounts that no key decrypts", "the service starts and names them", one_undecryptable_account),
    _row("no account that a key decrypts", "the service refuses to start", wrong_keys),
    _row("an evaluation with broken decisions", "left out by their ids, in bounded time and memory", evaluation),
)
