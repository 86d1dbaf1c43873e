"""`python -m serving.evaluate`: the reward of other policies, estimated from the log of decisions."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import psycopg
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from contexts.postgres.sql import connect, queries
from contexts.settings import DatabaseSettings, SettingsError, read_settings
from tips.bandit import REWARDS, FloatArray, Posterior, ThompsonPolicy
from tips.estimators import Evaluation, LoggedDecision, evaluate, fitted_posterior, user_folds

POLICIES = ("logged", "uniform", "greedy", "thompson")

_CROSS_FITTING_NOTE = (
    "greedy and thompson learned from one half of the users and are evaluated on the other half, and vice versa."
    " The stored posterior has learned from all of these rewards, so its estimate would be too high."
)
_COLUMNS = ("policy", "estimator", "mean reward", "95 % interval", "effective\ndecisions", "largest\nweight")


@dataclass(frozen=True)
class DecisionLog:
    """The decisions of one policy with a reaction, oldest first, and the numbers of decisions left out.

    n_other_policies: also decisions with a different number of features.
    """

    policy: str
    decisions: tuple[LoggedDecision, ...]
    n_other_policies: int
    n_without_reaction: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table of estimates; returns 0, or 1 with a sentence on stderr if that fails."""
    options = _parser().parse_args(arguments)
    until = datetime.now(UTC) - timedelta(hours=options.ignored_after)
    try:
        with connect(read_settings(DatabaseSettings).database_url) as connection:
            log = read_log(connection, until - timedelta(days=options.days), until)
        evaluations = {
            name: evaluate(
                log.decisions,
                target_probabilities(name, log, options.seed),
                seed=options.seed,
                clip=options.clip,
            )
            for name in options.policy or POLICIES
        }
    except (SettingsError, ValueError, psycopg.Error) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    _print_report(log, evaluations, options)
    return 0


def read_log(connection: psycopg.Connection[Any], since: datetime, until: datetime) -> DecisionLog:
    """The newest policy's decisions with a reaction between two instants; raises ValueError if there are none.

    A policy is identified by its name and the version of its features, the part of `policy_version` before the @, and
    by the number of features.
    """
    rows = [_Row(*row) for row in queries("evaluation").decisions_between(connection, since=since, until=until)]
    with_reaction = [row for row in rows if row.reaction is not None]
    if not with_reaction:
        raise ValueError(
            f"none of {len(rows)} decisions from {since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} UTC has a reaction:"
            " there is nothing to evaluate. Read more of the log with --days"
        )
    newest = with_reaction[-1].policy_key
    n_by_match = Counter(row.policy_key == newest for row in with_reaction)
    decisions = tuple(row.decision for row in with_reaction if row.policy_key == newest)
    return DecisionLog(newest[0], decisions, n_by_match[False], len(rows) - len(with_reaction))


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
    seeds = np.random.default_rng(seed).integers(2**63, size=len(halves)).tolist()
    choose = _LEARNING_POLICIES[name]
    return [
        choose(posteriors[half], decision.features, decision_seed)
        for decision, half, decision_seed in zip(log.decisions, halves, seeds, strict=True)
    ]


def _greedy(posterior: Posterior, features: NDArray[np.float32], _: int) -> FloatArray:
    best: FloatArray = np.eye(len(features))[(features @ posterior.mean).argmax()]
    return best


def _thompson(posterior: Posterior, features: NDArray[np.float32], seed: int) -> FloatArray:
    return ThompsonPolicy("thompson").choose(posterior, features, seed).propensities.astype(np.float64)


_LEARNING_POLICIES: dict[str, Callable[[Posterior, NDArray[np.float32], int], FloatArray]] = {
    "greedy": _greedy,
    "thompson": _thompson,
}


class _Row(NamedTuple):
    """A row of the statement `decisions_between`."""

    policy: str
    user_id: str
    features: bytes
    propensities: list[float]
    chosen: int
    reaction: str | None
    reward: float | None

    @property
    def policy_key(self) -> tuple[str, float]:
        """The policy and its number of features: decisions are evaluated together if these are equal."""
        return self.policy, len(self.features) / (4 * len(self.propensities))

    @property
    def decision(self) -> LoggedDecision:
        """The decision for the estimators, with the usual reward of its reaction if none is stored."""
        features = np.frombuffer(self.features, np.float32).reshape(len(self.propensities), -1)
        reward = REWARDS[self.reaction or "ignored"] if self.reward is None else self.reward
        return LoggedDecision(self.user_id, features, np.array(self.propensities, np.float32), self.chosen, reward)


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
    return [*notes, f"Left out: {left_out}."]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.evaluate",
        description="Estimate the reward of other policies from the decisions of the newest one.",
    )
    parser.add_argument(
        "--policy", action="append", choices=POLICIES, help="a policy to evaluate; may be repeated (default: all)"
    )
    parser.add_argument("--days", type=_positive_number, default=28, help="age of the oldest decision to read (28)")
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
