"""`python -m serving.evaluate`: the reward of other policies, estimated from the log of decisions."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.rows import dict_row
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from contexts.postgres.errors import describe_error
from contexts.postgres.migrate import MigrationsMissing, check_migrated
from contexts.postgres.sql import connect, queries
from contexts.settings import DatabaseSettings, SettingsError, read_settings
from serving.row_formats import Unreadable, read_logged_decision
from serving.settings import EVALUATION_DAYS
from tips.bandit import FloatArray, Posterior, ThompsonPolicy
from tips.estimators import Evaluation, LoggedDecision, evaluate, fitted_posterior, user_folds
from tips.sets import CandidateOrigin

_BATCH_ROWS = 2000
_BLOCK_DECISIONS = 500
_MAX_UNREADABLE_NOTES = 20

POLICIES = ("logged", "uniform", "greedy", "thompson")
UNKNOWN_ORIGIN = "unknown"
ORIGINS = (*get_args(CandidateOrigin), UNKNOWN_ORIGIN)
"""How the candidates of a decision were made; unknown: logged by an earlier version."""

_CROSS_FITTING_NOTE = (
    "greedy and thompson learned from one half of the users and are evaluated on the other half, and vice versa."
    " The stored posterior has learned from all of these rewards, so its estimate would be too high."
)
_COLUMNS = ("policy", "estimator", "mean reward", "95 % interval", "effective\ndecisions", "largest\nweight")


@dataclass(frozen=True)
class DecisionLog:
    """The decisions of one policy with a reaction, oldest first, and the numbers of decisions left out.

    n_other_policies: also decisions with a different number of features. unreadable: a sentence for each decision
    that cannot be read, by its id. n_by_origin: of the decisions, by the origin of their candidates.
    """

    policy: str
    decisions: tuple[LoggedDecision, ...]
    n_other_policies: int
    n_without_reaction: int
    unreadable: tuple[str, ...] = ()
    n_by_origin: Mapping[str, int] = field(default_factory=dict)
    n_other_origins: int = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table of estimates; returns 0, or 1 with a sentence on stderr if that fails."""
    options = _parser().parse_args(arguments)
    until = datetime.now(UTC) - timedelta(hours=options.ignored_after)
    try:
        with connect(read_settings(DatabaseSettings).database_url) as connection:
            check_migrated(connection)
            log = read_log(connection, until - timedelta(days=options.days), until, options.origin)
        evaluations = {
            name: evaluate(
                log.decisions,
                target_probabilities(name, log, options.seed),
                seed=options.seed,
                clip=options.clip,
            )
            for name in options.policy or POLICIES
        }
    except (SettingsError, MigrationsMissing, ValueError, psycopg.Error) as error:
        sys.stderr.write(f"{describe_error(error)}\n")
        return 1
    _print_report(log, evaluations, options)
    return 0


def read_log(
    connection: psycopg.Connection[Any], since: datetime, until: datetime, origins: Sequence[str] | None = None
) -> DecisionLog:
    """The newest policy's decisions with a reaction between two instants; raises ValueError if there are none.

    A policy is identified by its name and the version of its features, the part of `policy_version` before the @, and
    by the number of features. origins: of the candidates; None for all.
    """
    counts, unreadable, decisions = Counter[str](), list[str](), list[LoggedDecision]()
    by_origin = Counter[str]()
    newest: tuple[str, int] | None = None
    for row in _stream(connection, since=since, until=until):
        counts["read"] += 1
        if row["reaction"] is None:
            counts["without_reaction"] += 1
            continue
        origin = row["origin"] or UNKNOWN_ORIGIN
        if origins and origin not in origins:
            counts["other_origins"] += 1
            continue
        try:
            decision = read_logged_decision(row)
        except Unreadable as error:
            unreadable.append(str(error))
            continue
        key = row["policy"], decision.features.shape[1]
        newest = newest or key
        if key == newest:
            decisions.append(decision)
            by_origin[origin] += 1
        else:
            counts["other_policies"] += 1
    if newest is None:
        raise ValueError(
            f"none of {counts['read']} decisions from {since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} UTC has a"
            f" reaction and can be read ({len(unreadable)} are unreadable): there is nothing to evaluate. Read more"
            " of the log with --days"
        )
    decisions.reverse()
    return DecisionLog(
        newest[0],
        tuple(decisions),
        counts["other_policies"],
        counts["without_reaction"],
        tuple(unreadable),
        dict(by_origin.most_common()),
        counts["other_origins"],
    )


def _stream(connection: psycopg.Connection[Any], **period: datetime) -> Iterator[Mapping[str, Any]]:
    """The decisions of a period, newest first, a batch in memory at a time."""
    with connection.transaction(), connection.cursor("decisions", row_factory=dict_row) as cursor:
        cursor.itersize = _BATCH_ROWS
        statement = queries("evaluation").decisions_between.sql.encode()
        yield from cursor.execute(statement, period, binary=True)


def target_probabilities(name: str, log: DecisionLog, seed: int) -> list[FloatArray]:
    """The probabilities with which a policy of POLICIES would have chosen, shape (K,) for each decision.

    greedy and thompson use a posterior fitted on the other half of the users.
    """
    if name == "logged":
        return [decision.propensities.astype(np.float64) for decision in log.decisions]
    if name == "uniform":
        return [np.full(len(decision.features), 1 / len(decision.features)) for decision in log.decisions]
    halves = user_folds(log.decisions, 2, seed)
    posteriors = [
        fitted_posterior([decision for decision, half in zip(log.decisions, halves, strict=True) if half != this])
        for this in (0, 1)
    ]
    choose = _LEARNING_POLICIES[name]
    probabilities: list[FloatArray] = [np.empty(0)] * len(log.decisions)
    for half, positions in _blocks(log.decisions, halves):
        features = np.stack([log.decisions[position].features for position in positions])
        for position, row in zip(positions, choose(posteriors[half], features), strict=True):
            probabilities[position] = row
    return probabilities


def _blocks(decisions: Sequence[LoggedDecision], halves: NDArray[np.int64]) -> Iterator[tuple[int, list[int]]]:
    """Positions of decisions of the same half with equally many candidates, with the half."""
    groups: dict[tuple[int, int], list[int]] = {}
    for position, (decision, half) in enumerate(zip(decisions, halves.tolist(), strict=True)):
        groups.setdefault((half, len(decision.features)), []).append(position)
    for (half, _), positions in groups.items():
        for start in range(0, len(positions), _BLOCK_DECISIONS):
            yield half, positions[start : start + _BLOCK_DECISIONS]


def _greedy(posterior: Posterior, features: NDArray[np.float32]) -> FloatArray:
    best: FloatArray = np.eye(features.shape[1])[(features @ posterior.mean).argmax(axis=-1)]
    return best


_LEARNING_POLICIES: dict[str, Callable[[Posterior, NDArray[np.float32]], FloatArray]] = {
    "greedy": _greedy,
    "thompson": ThompsonPolicy("thompson").propensities,
}


def _print_report(log: DecisionLog, evaluations: dict[str, Evaluation], options: argparse.Namespace) -> None:
    console = Console(highlight=False)
    first = next(iter(evaluations.values()))
    console.print(
        f"{first.n_decisions} decisions of {first.n_users} users, made by {log.policy} in {options.days:g} days"
    )
    console.print(_table(evaluations))
    for line in _notes(log, evaluations, options.clip):
        console.print(line, markup=False)


def _table(evaluations: dict[str, Evaluation]) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name in _COLUMNS[:2] else "right", no_wrap=True)
    for policy, evaluation in evaluations.items():
        weights = (f"{evaluation.effective_sample_size:.0f}", f"{evaluation.largest_weight:.1f}")
        estimates = {"IPW": evaluation.ipw, "SNIPW": evaluation.snipw, "DR": evaluation.dr}
        for estimator, estimate in estimates.items():
            interval = f"{estimate.low:.3f} to {estimate.high:.3f}"
            name, last_cells = (policy, weights) if estimator == "IPW" else ("", ("", ""))
            table.add_row(name, estimator, f"{estimate.value:.3f}", interval, *last_cells)
        table.add_section()
    return table


def _notes(log: DecisionLog, evaluations: dict[str, Evaluation], clip: float | None) -> list[str]:
    notes = [_CROSS_FITTING_NOTE] if evaluations.keys() & _LEARNING_POLICIES.keys() else []
    if clip is not None:
        clipped = ", ".join(f"{evaluation.n_clipped} of {name}" for name, evaluation in evaluations.items())
        notes.append(f"Weights clipped to {clip:g}: {clipped}. Estimates with clipped weights are biased.")
    left_out = f"{log.n_other_policies} of other policies or features, {log.n_without_reaction} without a reaction"
    if log.n_other_origins:
        left_out += f", {log.n_other_origins} with candidates of another origin"
    if log.unreadable:
        left_out += f", {len(log.unreadable)} that cannot be read"
    origins = ", ".join(f"{n} {origin}" for origin, n in log.n_by_origin.items())
    return [
        *notes,
        f"Origin of the candidates: {origins}.",
        f"Left out: {left_out}.",
        *_unreadable_notes(log.unreadable),
    ]


def _unreadable_notes(unreadable: Sequence[str]) -> list[str]:
    notes = [f"Cannot be read: {each}" for each in unreadable[:_MAX_UNREADABLE_NOTES]]
    n_more = len(unreadable) - len(notes)
    return [*notes, f"Cannot be read: {n_more} more"] if n_more else notes


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.evaluate",
        description="Estimate the reward of other policies from the decisions of the newest one.",
    )
    parser.add_argument(
        "--policy", action="append", choices=POLICIES, help="a policy to evaluate; may be repeated (default: all)"
    )
    parser.add_argument(
        "--origin",
        action="append",
        choices=ORIGINS,
        help="evaluate decisions with candidates of this origin; may be repeated (default: all)",
    )
    parser.add_argument(
        "--days",
        type=_positive_number,
        default=EVALUATION_DAYS,
        help=f"age of the oldest decision to read ({EVALUATION_DAYS})",
    )
    parser.add_argument(
        "--ignored-after",
        type=_positive_number,
        default=24,
        metavar="HOURS",
        help="IGNORED_AFTER of the service (24); newer decisions are left out, because only their quick reactions are"
        " known",
    )
    parser.add_argument("--clip", type=_positive_number, help="upper bound of the weights (default: none)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the halves, folds and resamples (0)")
    return parser


def _positive_number(text: str) -> float:
    if not (number := float(text)) > 0:
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0")
    return number


if __name__ == "__main__":
    sys.exit(main())
