"""`python -m serving.evaluate`: what other policies would have earned, estimated from the log of decisions."""

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

from contexts.settings import DatabaseSettings, SettingsError, read_settings
from contexts.sql import connect, queries
from serving.bandit import REWARDS, Posterior, ThompsonPolicy
from serving.estimators import Evaluation, Logged, Numbers, evaluate, folds, learned

POLICIES = ("logged", "uniform", "greedy", "thompson")

_HALVES = (
    "greedy and thompson learned from one half of the users and are evaluated on the other half, and the other way"
    " round. The stored posterior learned from all of these rewards: evaluated on them it would look too good."
)
_COLUMNS = ("policy", "estimator", "mean reward", "95 % interval", "effective\ndecisions", "largest\nweight")


@dataclass(frozen=True)
class Log:
    """The decisions of one policy that can be evaluated, oldest first, and how many of others were left out."""

    policy: str
    decisions: tuple[Logged, ...]
    n_of_others: int
    n_without_reaction: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table of estimates; 0 when it was done, 1 with a sentence on stderr when not."""
    options = _parser().parse_args(arguments)
    until = datetime.now(UTC) - timedelta(hours=options.ignored_after)
    try:
        with connect(read_settings(DatabaseSettings).database_url) as connection:
            log = read_log(connection, until - timedelta(days=options.days), until)
        evaluations = {
            name: evaluate(log.decisions, target(name, log, options.seed), seed=options.seed, clip=options.clip)
            for name in options.policy or POLICIES
        }
    except (SettingsError, ValueError, psycopg.Error) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    _show(log, evaluations, options)
    return 0


def read_log(connection: psycopg.Connection[Any], since: datetime, until: datetime) -> Log:
    """The newest policy's decisions with a reaction between two instants; ValueError when there are none.

    One policy is one name and version of features, what stands before the @ of its version, and one number of them.
    """
    rows = [_Row(*row) for row in queries("evaluation").decided(connection, since=since, until=until)]
    told = [row for row in rows if row.reaction is not None]
    if not told:
        raise ValueError(
            f"of {len(rows)} decisions from {since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M} UTC none has a reaction:"
            " there is nothing to evaluate. More --days reach further back"
        )
    newest = told[-1].origin
    n_of = Counter(row.origin == newest for row in told)
    decisions = tuple(row.logged for row in told if row.origin == newest)
    return Log(newest[0], decisions, n_of[False], len(rows) - len(told))


def target(name: str, log: Log, seed: int) -> list[Numbers]:
    """The probabilities with which a policy of POLICIES would have chosen, for each decision shape (K,).

    greedy and thompson know what the decisions of the other half of the users taught, see `estimators.learned`.
    """
    if name == "logged":
        return [each.propensities.astype(np.float64) for each in log.decisions]
    if name == "uniform":
        return [np.full(len(each.features), 1 / len(each.features)) for each in log.decisions]
    half = folds(log.decisions, 2, seed)
    taught = [learned([each for each, at in zip(log.decisions, half, strict=True) if at != this]) for this in (0, 1)]
    seeds = np.random.default_rng(seed).integers(2**63, size=len(half)).tolist()
    choose = _TARGETS[name]
    return [choose(taught[at], each.features, own) for each, at, own in zip(log.decisions, half, seeds, strict=True)]


def _greedy(posterior: Posterior, features: NDArray[np.float32], _: int) -> Numbers:
    best: Numbers = np.eye(len(features))[(features @ posterior.mean).argmax()]
    return best


def _thompson(posterior: Posterior, features: NDArray[np.float32], seed: int) -> Numbers:
    return ThompsonPolicy("thompson").choose(posterior, features, seed).propensities.astype(np.float64)


_TARGETS: dict[str, Callable[[Posterior, NDArray[np.float32], int], Numbers]] = {
    "greedy": _greedy,
    "thompson": _thompson,
}


class _Row(NamedTuple):
    """A row of the statement `decided`."""

    policy: str
    user_id: str
    features: bytes
    propensities: list[float]
    chosen: int
    reaction: str | None
    reward: float | None

    @property
    def origin(self) -> tuple[str, float]:
        """What decisions must have in common: the policy, and the number of features."""
        return self.policy, len(self.features) / (4 * len(self.propensities))

    @property
    def logged(self) -> Logged:
        features = np.frombuffer(self.features, np.float32).reshape(len(self.propensities), -1)
        reward = REWARDS[self.reaction or "ignored"] if self.reward is None else self.reward
        return Logged(self.user_id, features, np.array(self.propensities, np.float32), self.chosen, reward)


def _show(log: Log, evaluations: dict[str, Evaluation], options: argparse.Namespace) -> None:
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
    for policy, each in evaluations.items():
        weights = (f"{each.effective_sample_size:.0f}", f"{each.largest_weight:.1f}")
        for name, estimate in (("IPW", each.ipw), ("SNIPW", each.snipw), ("DR", each.dr)):
            interval = f"{estimate.low:.3f} to {estimate.high:.3f}"
            more = (policy, weights) if name == "IPW" else ("", ("", ""))
            table.add_row(more[0], name, f"{estimate.value:.3f}", interval, *more[1])
        table.add_section()
    return table


def _notes(log: Log, evaluations: dict[str, Evaluation], clip: float | None) -> list[str]:
    notes = [_HALVES] if evaluations.keys() & _TARGETS.keys() else []
    if clip is not None:
        clipped = ", ".join(f"{each.n_clipped} of {name}" for name, each in evaluations.items())
        notes.append(f"Weights clipped to {clip:g}: {clipped}. Estimates with clipped weights are biased.")
    left_out = f"{log.n_of_others} of other policies or features, {log.n_without_reaction} without a reaction"
    return [*notes, f"Left out: {left_out}."]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.evaluate",
        description="What other policies would have earned, from the log of the newest one's decisions.",
    )
    parser.add_argument("--policy", action="append", choices=POLICIES, help="may be repeated; all by default")
    parser.add_argument("--days", type=_positive, default=28, help="how far back decisions are read (28)")
    parser.add_argument(
        "--ignored-after",
        type=_positive,
        default=24,
        metavar="HOURS",
        help="as IGNORED_AFTER of the service (24); of younger decisions only quick reactions are known: not read",
    )
    parser.add_argument("--clip", type=_positive, help="the highest weight allowed; none by default")
    parser.add_argument("--seed", type=int, default=0, help="of the halves, folds and resamples (0)")
    return parser


def _positive(text: str) -> float:
    if not (number := float(text)) > 0:
        raise argparse.ArgumentTypeError(f"{text}: a number above 0 is wanted")
    return number


if __name__ == "__main__":
    sys.exit(main())
