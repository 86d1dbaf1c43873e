"""The graph of assets, read from their signatures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from assets.engine.asset import Asset, check_columns
from assets.engine.errors import GraphError, did_you_mean


@dataclass(frozen=True)
class Graph:
    """Assets by name, each after all of its inputs."""

    assets: Mapping[str, Asset]

    @classmethod
    def from_assets(cls, assets: Iterable[Asset]) -> Graph:
        """Build and check the graph; GraphError names an unknown input or column and the nearest known one."""
        by_name: dict[str, Asset] = {}
        for asset in assets:
            if asset.name in by_name:
                raise GraphError(f"two assets are named '{asset.name}'. Rename one: a name is a folder and a view.")
            by_name[asset.name] = asset
        for reader in by_name.values():
            for edge in reader.inputs:
                if edge.asset not in by_name:
                    raise GraphError(
                        f"{reader.name} asks for '{edge.asset}', which no asset makes."
                        + did_you_mean(edge.asset, by_name)
                    )
                check_columns(reader, edge, by_name[edge.asset])
        return cls({name: by_name[name] for name in _sorted(by_name)})

    def __getitem__(self, name: str) -> Asset:
        """Return the asset of this name; GraphError names the nearest one."""
        if name not in self.assets:
            raise GraphError(f"there is no asset '{name}'." + did_you_mean(name, self.assets))
        return self.assets[name]

    def __iter__(self) -> Iterator[Asset]:
        """Iterate over the assets, each after all of its inputs."""
        return iter(self.assets.values())

    @property
    def steps(self) -> Mapping[str, tuple[Asset, ...]]:
        """The assets of every step, steps and assets in the order in which they run."""
        names = dict.fromkeys(asset.step for asset in self)
        return {step: tuple(asset for asset in self if asset.step == step) for step in names}

    def is_source_step(self, step: str) -> bool:
        """Whether a step holds assets without inputs: the step that fetches from the outside world."""
        return any(asset.is_source for asset in self.steps[step])

    def ancestors(self, name: str) -> frozenset[str]:
        """Return the names of all direct and indirect inputs of `name`."""
        direct = {edge.asset for edge in self[name].inputs}
        return frozenset(direct.union(*(self.ancestors(parent) for parent in direct)))

    def descendants(self, name: str) -> frozenset[str]:
        """Return the names of all assets that read `name`, directly or indirectly."""
        return frozenset(asset.name for asset in self if self[name].name in self.ancestors(asset.name))

    def triggers(self, step: str) -> frozenset[str]:
        """Return the names of the assets of other steps whose change must start `step`.

        These are the nearest inputs only: an ancestor of a nearer input is left out, because the nearer input is
        published after it.
        """
        members = {asset.name for asset in self.steps[step]}
        inputs = {edge.asset for asset in self.steps[step] for edge in asset.inputs} - members
        return frozenset(name for name in inputs if not any(name in self.ancestors(other) for other in inputs))

    def select(self, expressions: Iterable[str]) -> tuple[Asset, ...]:
        """Return the assets named by expressions: `x`, `+x` with its ancestors, `x+` with its descendants."""
        names: set[str] = set()
        for expression in expressions:
            name = expression.strip("+")
            names.add(self[name].name)
            if expression.startswith("+"):
                names |= self.ancestors(name)
            if expression.endswith("+"):
                names |= self.descendants(name)
        return tuple(asset for asset in self if asset.name in names)


def _sorted(by_name: Mapping[str, Asset]) -> Iterator[str]:
    """Yield the names in topological order, in the given order as far as possible."""
    sorter = TopologicalSorter({name: [edge.asset for edge in asset.inputs] for name, asset in by_name.items()})
    try:
        sorter.prepare()
    except CycleError as error:
        raise GraphError(f"the assets read each other in a cycle: {' -> '.join(error.args[1])}.") from None
    position = list(by_name).index
    ready: list[str] = []
    while sorter.is_active():
        ready = sorted([*ready, *sorter.get_ready()], key=position)
        name = ready.pop(0)
        yield name
        sorter.done(name)
