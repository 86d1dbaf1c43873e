"""`python -m benchmarks.bandit`: the policy of the service beside others, in simulated worlds.

Vowpal Wabbit and gittins take part where `vowpalwabbit` and `gittins` are installed; the project needs neither.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.bandit_world import Features, KindWorld, Played, Player, Thompson, TipWorld, play
from serving.bandit import Choice, ThompsonPolicy

SEEDS = range(5)
SPREADS = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
WORLDS: Mapping[str, Callable[[int], TipWorld]] = {
    "fresh texts": TipWorld.drawn,
    "faint taste": partial(TipWorld.drawn, strength=1.0),
    "few kinds": KindWorld.drawn,
}

Entrant = Callable[[TipWorld, int], Player]


class Oracle:
    """Knows the taste, takes the best."""

    def __init__(self, world: TipWorld) -> None:
        self._world = world

    def decide(self, features: Features, seed: int) -> Choice:
        """The best candidate, for certain."""
        expected = self._world.expected(features)
        return Choice(int(expected.argmax()), (expected == expected.max()).astype(np.float32))

    def learn(self, features: Features, choice: Choice, reward: float) -> None:
        """Nothing that it does not know."""


class Blind:
    """Takes any."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def decide(self, features: Features, seed: int) -> Choice:
        """Each candidate with equal probability."""
        n = len(features)
        return Choice(int(self._rng.integers(n)), np.full(n, 1 / n, np.float32))

    def learn(self, features: Features, choice: Choice, reward: float) -> None:
        """Nothing."""


class VowpalWabbit:
    """Its contextual bandit with features of actions, explored by bootstrapped models ("bag").

    Bietti, Agarwal, Langford, "A contextual bandit bake-off", JMLR 22, 2021.
    """

    def __init__(self, seed: int, options: str = "--bag 5") -> None:
        vw = import_module("vowpalwabbit")
        self._vw = vw.Workspace(f"--cb_explore_adf {options} --random_seed {seed + 1} --quiet")
        self._rng = np.random.default_rng(seed)

    def decide(self, features: Features, seed: int) -> Choice:
        """A candidate drawn from the probabilities that it gives."""
        found = np.array(self._vw.predict(_lines(features)), np.float64)
        propensities = found / found.sum()
        return Choice(int(self._rng.choice(len(features), p=propensities)), propensities.astype(np.float32))

    def learn(self, features: Features, choice: Choice, reward: float) -> None:
        """Costs are rewards turned round."""
        lines = _lines(features)
        lines[choice.chosen] = f"0:{-reward}:{choice.propensities[choice.chosen]} {lines[choice.chosen]}"
        self._vw.learn(lines)


class Gittins:
    """The package of that name, as it comes."""

    def __init__(self) -> None:
        self._gittins: Any = import_module("gittins")
        self._state = self._gittins.create(bits=12, horizon=1e9)
        self._open: dict[Choice, str] = {}

    def decide(self, features: Features, seed: int) -> Choice:
        """The candidate that it takes; it tells no probability but that one's, and nobody asks."""
        candidates = [(str(n), dict(zip(_NAMES, row, strict=False))) for n, row in enumerate(features.tolist())]
        record = self._gittins.decide(self._state, {}, candidates, float(seed), str(seed))
        choice = Choice(record.chosen, np.full(len(features), np.nan, np.float32))
        self._open[choice] = record.decision_id
        return choice

    def learn(self, features: Features, choice: Choice, reward: float) -> None:
        """The reward under the decision's own id."""
        self._gittins.learn(self._state, self._open.pop(choice), reward, 1.0)


_NAMES = [f"f{number}" for number in range(99)]


def _lines(features: Features) -> list[str]:
    rows = features.tolist()
    return ["|a " + " ".join(f"{n}:{value:.6g}" for n, value in enumerate(row)) for row in rows]


def entrants() -> dict[str, Entrant]:
    """Who can take part here, by name."""
    found: dict[str, Entrant] = {
        "oracle": lambda world, _: Oracle(world),
        "ours": lambda world, _: Thompson(len(world.taste) + 1, ThompsonPolicy("ours")),
    }
    if find_spec("vowpalwabbit"):
        found["VW --bag 5"] = lambda _, seed: VowpalWabbit(seed)
        found["VW --bag 5 --epsilon 0.05"] = lambda _, seed: VowpalWabbit(seed, "--bag 5 --epsilon 0.05")
        found["VW --squarecb"] = lambda _, seed: VowpalWabbit(seed, "--squarecb")
    if find_spec("gittins"):
        found["gittins"] = lambda _, seed: Gittins()
    return found | {"random": lambda _, seed: Blind(seed)}


def main() -> int:
    """Let everybody play in every world and print what came of it."""
    console = Console(highlight=False)
    console.print(_compare(entrants()))
    console.print(_spreads())
    return 0


def _compare(found: Mapping[str, Entrant]) -> Table:
    table = _table(f"Share of the oracle's gap over 3,000 requests, mean of {len(SEEDS)} seeds", "", *WORLDS)
    table.add_column("us a decision", justify="right")
    table.add_column("us an update", justify="right")
    for name, entrant in found.items():
        played = {world: _played(entrant, drawn) for world, drawn in WORLDS.items()}
        first = played["fresh texts"]
        costs = (np.mean([each.decide_us for each in first]), np.mean([each.learn_us for each in first]))
        table.add_row(name, *map(_mean, played.values()), *(f"{cost:.0f}" for cost in costs))
    return table


def _spreads() -> Table:
    """What the default of `ThompsonPolicy.spread` was chosen by."""
    table = _table("The same for other spreads (worst seed)", "spread", *WORLDS)
    for spread in SPREADS:
        policy = ThompsonPolicy("ours", spread=spread)
        played = [_played(partial(_ours, policy), drawn) for drawn in WORLDS.values()]
        table.add_row(f"{spread}", *(f"{_mean(each)} ({min(one.share for one in each):.2f})" for each in played))
    return table


def _ours(policy: ThompsonPolicy, world: TipWorld, _: int) -> Player:
    return Thompson(len(world.taste) + 1, policy)


def _played(entrant: Entrant, drawn: Callable[[int], TipWorld]) -> list[Played]:
    return [play(world, entrant(world, seed), seed) for seed in SEEDS for world in [drawn(seed)]]


def _mean(played: Iterable[Played]) -> str:
    return f"{np.mean([each.share for each in played]):.3f}"


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column(first, no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right")
    return table


if __name__ == "__main__":
    sys.exit(main())
