"""`python -m assets`: look at the graph and at the shards, set a broken shard aside."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

import duckdb

from assets.definitions import GRAPH
from assets.errors import AssetError
from assets.parquet import Shards
from assets.views import create_views
from contexts.settings import Settings, SettingsError, read_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it was done, 1 with a sentence on stderr when not."""
    options = _parser().parse_args(arguments)
    try:
        settings = read_settings(Settings)
        shards = Shards(settings.data_root, settings.n_shards)
        for line in _run(options, shards):
            print(line)
    except (SettingsError, AssetError, duckdb.Error) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace, shards: Shards) -> Iterator[str]:
    if options.command == "graph":
        yield from _graph()
    elif options.command == "shards":
        yield from _shards(shards, options.asset)
    elif options.command == "query":
        with duckdb.connect() as connection:
            create_views(connection, GRAPH, shards)
            yield str(connection.sql(options.sql))
    else:
        asset = GRAPH[options.asset]
        aside = shards.set_aside(asset, options.shard)
        yield f"{aside} is what was there; the next run of {asset.step} makes shard {options.shard} anew"


def _graph() -> Iterator[str]:
    for step, members in GRAPH.steps.items():
        yield step
        for member in members:
            reads = ", ".join(edge.asset for edge in member.inputs) or "the world outside"
            yield f"  {member.name:16} reads {reads}"


def _shards(shards: Shards, name: str) -> Iterator[str]:
    for footer in shards.footers(GRAPH[name]):
        yield (
            f"shard {footer.shard:>4}  {footer.n_users:>7} users  {footer.n_rows:>9} rows"
            f"  {footer.materialized_at:%Y-%m-%d %H:%M}  data {footer.data_version[:12]}  {dict(footer.recipe)}"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m assets", description="The assets under DATA_ROOT.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("graph", help="the steps, their assets and what these read")
    commands.add_parser("shards", help="each shard's rows, time and versions").add_argument("asset")
    query = commands.add_parser("query", help="a DuckDB query over a view per asset, of the asset's name")
    query.add_argument("sql")
    rebuild = commands.add_parser("rebuild", help="set a shard's file aside, so that the next run makes it anew")
    rebuild.add_argument("asset")
    rebuild.add_argument("--shard", type=int, required=True)
    return parser


if __name__ == "__main__":
    sys.exit(main())
