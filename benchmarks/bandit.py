"""`python -m benchmarks.bandit`: the policy of the service compared with others, in simulated worlds.

Vowpal Wabbit and gittins are included if `vowpalwabbit` and `gittins` are installed, which the project does not need.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.bandit_world import Features, KindWorld, Player, PlayResult, Thompson, TipWorld, play
from benchmarks.output import numbers_table
from tips.bandit import Choice, ThompsonPolicy

_SEEDS = range(5)
_SPREADS = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
_WORLDS: Mapping[str, Callable[[int], TipWorld]] = {
    "new texts": TipWorld.drawn,
    "weak taste": partial(TipWorld.drawn, strength=1.0),
    "few kinds": KindWorld.drawn,
}

PlayerFactory = Callable[[TipWorld, int], Player]
"""Creates a player for a world and a seed."""


class Oracle:
    """Knows the taste and chooses the best candidate."""

    def __init__(self, world: TipWorld) -> None:
        self._world = world

    def decide(self, features: Features, seed: int) -> Choice:
        """Choose the candidate with the highest expected reward."""
        expected = self._world.expected(features)
        return Choice(int(expected.argmax()), (expected == expected.max()).astype(np.float32))

    def learn(self, features: Features, choice: Choice, reward: float) -> None:
        """Learn nothing."""


class RandomChoice:
    """Chooses at random."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def decide(self, features: Features, seed: int) -> Choice:
        """Choose each candidate with equal probability."""
        n = len(features)
        return Choice(int(self._rng.integers(n)), np.full(n, 1 / n, np.float32))

    def learn(self, features: Features, choice: Choice, reward: float) -> None:
        """Learn nothing."""


class VowpalWabbit:
    """The contextual bandit of Vowpal Wabbit with features of actions; explores with bootstrapped models ("bag").

    Source: Bietti, Agarwal, Langford, "A contextual bandit bake-off", JMLR 22, 2021.
    """

    def __init__(self, seed: int, options: str = "--bag 5") -> None:
        vw = import_module("vowpalwabbit")
        self._vw = vw.Workspace(f"--cb_explore_adf {options} --random_seed {seed + 1} --quiet")
        self._rng = np.random.default_rng(seed)

    def decide(self, features: Features, seed: int) -> Choice:
        """Choose by the predicted probabilities."""
        probabilities = np.array(self._vw.predict(_vw_lines(features)), np.float64)
        propensities = probabilities / probabilities.sum()
        return Choice(int(self._rng.choice(len(features), p=propensities)), propensities.astype(np.float32))

    def learn(self, features: Features, choice: Choice, reward: float) -> None:
        """Learn the negative reward as the cost of the choice."""
        lines = _vw_lines(features)
        lines[choice.chosen] = f"0:{-reward}:{choice.propensities[choice.chosen]} {lines[choice.chosen]}"
        self._vw.learn(lines)


class Gittins:
    """The package gittins with its default settings."""

    def __init__(self) -> None:
        self._gittins: Any = import_module("gittins")
        self._state = self._gittins.create(bits=12, horizon=1e9)
        self._decision_ids: dict[Choice, str] = {}

    def decide(self, features: Features, seed: int) -> Choice:
        """Choose with the package, which returns no probabilities of the other candidates."""
        candidates = [
            (str(n), dict(zip(_FEATURE_NAMES, row, strict=False))) for n, row in enumerate(features.tolist())
        ]
        record = self._gittins.decide(self._state, {}, candidates, float(seed), str(seed))
        choice = Choice(record.chosen, np.full(len(features), np.nan, np.float32))
        self._decision_ids[choice] = record.decision_id
        return choice

    def learn(self, features: Features, choice: Choice, reward: float) -> None:
        """Learn the reward of the decision with the choice's id."""
        self._gittins.learn(self._state, self._decision_ids.pop(choice), reward, 1.0)


_FEATURE_NAMES = [f"f{number}" for number in range(99)]


def _vw_lines(features: Features) -> list[str]:
    """The candidates in the text format of Vowpal Wabbit."""
    rows = features.tolist()
    return ["|a " + " ".join(f"{n}:{value:.6g}" for n, value in enumerate(row)) for row in rows]


def available_players() -> dict[str, PlayerFactory]:
    """The players whose packages are installed, by name."""
    factories: dict[str, PlayerFactory] = {
        "oracle": lambda world, _: Oracle(world),
        "service": partial(_thompson, ThompsonPolicy("service")),
    }
    if find_spec("vowpalwabbit"):
        factories["VW --bag 5"] = lambda _, seed: VowpalWabbit(seed)
        factories["VW --bag 5 --epsilon 0.05"] = lambda _, seed: VowpalWabbit(seed, "--bag 5 --epsilon 0.05")
        factories["VW --squarecb"] = lambda _, seed: VowpalWabbit(seed, "--squarecb")
    if find_spec("gittins"):
        factories["gittins"] = lambda _, seed: Gittins()
    return factories | {"random": lambda _, seed: RandomChoice(seed)}


def main() -> int:
    """Play every world with every player and print the results."""
    console = Console(highlight=False)
    console.print(_players_table(available_players()))
    console.print(_spreads_table())
    return 0


def _players_table(factories: Mapping[str, PlayerFactory]) -> Table:
    title = f"Share of the gap to the oracle over 3,000 requests, mean of {len(_SEEDS)} seeds"
    table = numbers_table(title, "", *_WORLDS, "us per\ndecision", "us per\nupdate")
    for name, factory in factories.items():
        results = {world: _play_seeds(factory, draw_world) for world, draw_world in _WORLDS.items()}
        timed = results["new texts"]
        costs = (np.mean([result.decide_us for result in timed]), np.mean([result.learn_us for result in timed]))
        table.add_row(name, *map(_mean_share, results.values()), *(f"{cost:.0f}" for cost in costs))
    return table


def _spreads_table() -> Table:
    """The results from which the default of `ThompsonPolicy.spread` was chosen."""
    table = numbers_table("The policy of the service with other spreads (worst seed)", "spread", *_WORLDS)
    for spread in _SPREADS:
        factory = partial(_thompson, ThompsonPolicy("service", spread=spread))
        results = [_play_seeds(factory, draw_world) for draw_world in _WORLDS.values()]
        cells = [f"{_mean_share(world)} ({min(result.share for result in world):.2f})" for world in results]
        table.add_row(f"{spread}", *cells)
    return table


def _thompson(policy: ThompsonPolicy, world: TipWorld, _: int) -> Player:
    return Thompson(len(world.taste) + 1, policy)


def _play_seeds(factory: PlayerFactory, draw_world: Callable[[int], TipWorld]) -> list[PlayResult]:
    worlds = {seed: draw_world(seed) for seed in _SEEDS}
    return [play(world, factory(world, seed), seed) for seed, world in worlds.items()]


def _mean_share(results: Iterable[PlayResult]) -> str:
    return f"{np.mean([result.share for result in results]):.3f}"


if __name__ == "__main__":
    sys.exit(main())
