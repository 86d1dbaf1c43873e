"""The assets of the pipeline: each module of this package defines the asset of the same name."""

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

from assets.engine.asset import Asset
from assets.engine.errors import GraphError
from assets.engine.graph import Graph


def _assets() -> Iterator[Asset]:
    for name in sorted(module.name for module in iter_modules(__path__)):
        asset = getattr(import_module(f"{__name__}.{name}"), name, None)
        if not isinstance(asset, Asset):
            raise GraphError(f"assets/definitions/{name}.py defines no asset '{name}'. Give both the same name.")
        yield asset


GRAPH = Graph.from_assets(_assets())
