"""The graph of assets, read from their signatures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from assets.asset import Asset, check_columns
from assets.errors import GraphError, did_you_mean


@dataclass(frozen=True)
class Graph:
    """Assets by name, each after all that it reads."""

    assets: Mapping[str, Asset]

    @classmethod
    def of(cls, assets: Iterable[Asset]) -> Graph:
        """Build and check the graph; GraphError names an unknown dependency or column and the nearest known one."""
        known: dict[str, Asset] = {}
        for each in assets:
            if each.name in known:
                raise GraphError(f"two assets are named '{each.name}'. Rename one: a name is a folder and a view.")
            known[each.name] = each
        for reader in known.values():
            for edge in reader.inputs:
                if edge.asset not in known:
                    raise GraphError(
                        f"{reader.name} asks for '{edge.asset}', which no asset makes."
                        + did_you_mean(edge.asset, known)
                    )
                check_columns(reader, edge, known[edge.asset])
        return cls({name: known[name] for name in _sorted(known)})

    def __getitem__(self, name: str) -> Asset:
        if name not in self.assets:
            raise GraphError(f"there is no asset '{name}'." + did_you_mean(name, self.assets))
        return self.assets[name]

    def __iter__(self) -> Iterator[Asset]:
        return iter(self.assets.values())

    @property
    def steps(self) -> Mapping[str, tuple[Asset, ...]]:
        """The assets of every step, both in order of work."""
        names = dict.fromkeys(each.step for each in self)
        return {step: tuple(each for each in self if each.step == step) for step in names}

    def ancestors(self, name: str) -> frozenset[str]:
        """Names of all assets that `name` reads, directly or not."""
        direct = {edge.asset for edge in self[name].inputs}
        return frozenset(direct.union(*(self.ancestors(each) for each in direct)))

    def descendants(self, name: str) -> frozenset[str]:
        """Names of all assets that read `name`, directly or not."""
        return frozenset(each.name for each in self if self[name].name in self.ancestors(each.name))

    def wakers(self, step: str) -> frozenset[str]:
        """The assets of other steps whose news must wake `step`: those that it reads, the nearest only.

        What an ancestor of a nearer asset says is left out: the nearer one speaks after it.
        """
        members = {each.name for each in self.steps[step]}
        read = {edge.asset for each in self.steps[step] for edge in each.inputs} - members
        return frozenset(name for name in read if not any(name in self.ancestors(other) for other in read))

    def select(self, expressions: Iterable[str]) -> tuple[Asset, ...]:
        """The assets that expressions name: `x`, `+x` with all that it reads, `x+` with all that reads it."""
        names: set[str] = set()
        for expression in expressions:
            name = expression.strip("+")
            names.add(self[name].name)
            if expression.startswith("+"):
                names |= self.ancestors(name)
            if expression.endswith("+"):
                names |= self.descendants(name)
        return tuple(each for each in self if each.name in names)


def _sorted(known: Mapping[str, Asset]) -> Iterator[str]:
    """Names in topological order that keeps the given order where it can."""
    sorter = TopologicalSorter({name: [edge.asset for edge in each.inputs] for name, each in known.items()})
    try:
        sorter.prepare()
    except CycleError as error:
        raise GraphError(f"the assets read each other in a circle: {' -> '.join(error.args[1])}.") from None
    position = list(known).index
    ready: list[str] = []
    while sorter.is_active():
        ready = sorted([*ready, *sorter.get_ready()], key=position)
        name = ready.pop(0)
        yield name
        sorter.done(name)
