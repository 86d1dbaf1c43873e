"""`python -m assets`: what would run and why, run it, what it saved, why a context changed; look into the shards."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

import duckdb
import psycopg

from assets import commands
from assets.errors import AssetError
from contexts.accounts import Look
from contexts.embed import EmbeddingError
from contexts.history import HistoryUnreadable
from contexts.settings import SettingsError
from contexts.todoist import TodoistError
from contexts.vault import VaultError
from contexts.why import UnknownDecision

_FAILURES = (
    SettingsError,
    AssetError,
    EmbeddingError,
    HistoryUnreadable,
    TodoistError,
    VaultError,
    UnknownDecision,
    duckdb.Error,
    psycopg.Error,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it was done, 1 with a sentence on stderr when not."""
    options = vars(_parser().parse_args(arguments))
    logging.basicConfig(format="  %(message)s")
    for name in ("assets", "contexts"):
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        for line in options.pop("command")(**options):
            print(line, flush=True)
    except _FAILURES as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever reads has read enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("stopped: what was written is whole, the rest is for the next run", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m assets", description="The assets under DATA_ROOT.")
    add = parser.add_subparsers(required=True).add_parser
    for name, command, words in (
        ("plan", commands.plan, "what a night would run now, why, and what that comes to; changes nothing"),
        ("materialize", commands.materialize, "run a night, or a part of one, in this process"),
    ):
        found = add(name, help=words)
        found.set_defaults(command=command)
        _add_order(found)
        if command is commands.plan:
            found.add_argument("--each", action="store_true", help="also a line for each asset and shard")
    ledger = add("ledger", help="what the last nights and days planned, did and spared")
    ledger.set_defaults(command=commands.ledger)
    ledger.add_argument("--days", type=int, default=7, help="how far back; 7 by default")
    why = add("why", help="what changed in a user's context, or which context a tip was made from")
    why.set_defaults(command=commands.why)
    whom = why.add_mutually_exclusive_group(required=True)
    whom.add_argument("user", nargs="?", metavar="USER")
    whom.add_argument("--decision", metavar="ID", help="the decision_id that came with a tip")
    why.add_argument("--last", type=int, default=10, help="how many versions; 10 by default")
    forget = add("forget", help="remove every trace of a user: Postgres, Parquet, history")
    forget.set_defaults(command=commands.forget_user)
    forget.add_argument("user", metavar="USER")
    calibrate = add("calibrate", help="choose the similarity threshold of themes for the model, once")
    calibrate.set_defaults(command=commands.calibrate)
    calibrate.add_argument("--force", action="store_true", help="replace the one that is kept: themes change")
    map_ = add("map", help="draw a user's tasks in two dimensions, coloured by theme")
    map_.set_defaults(command=commands.draw_map)
    map_.add_argument("user", metavar="USER")
    map_.add_argument("path", nargs="?", metavar="FILE", help="USER.png by default; svg and pdf work, too")
    add("graph", help="the steps, their assets and what these read").set_defaults(command=commands.graph)
    shards = add("shards", help="each shard's rows, time and versions")
    shards.set_defaults(command=commands.shards)
    shards.add_argument("asset")
    sql = add("sql", help="DuckDB over views of the assets, the ledger, contexts, tips and reactions")
    sql.set_defaults(command=commands.sql)
    sql.add_argument("statements", nargs="?", metavar="SQL", help="what to answer; none: it is read from the input")
    sql.add_argument("--days", type=int, default=90, help="how far back tips and calls are read; 90 by default")
    rebuild = add("rebuild", help="set a shard's file aside, so that the next run makes it anew")
    rebuild.set_defaults(command=commands.rebuild)
    rebuild.add_argument("asset")
    rebuild.add_argument("--shard", type=int, required=True)
    return parser


def _add_order(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--select", default="", help="assets, with commas: x, +x with all it reads, x+ with what reads it"
    )
    parser.add_argument("--user", default="", help="compute these users only, with commas")
    parser.add_argument("--shards", default="", help="these shards only: 0-3,7")
    parser.add_argument("--force", action="store_true", help="compute also what is up to date")
    parser.add_argument(
        "--look",
        type=Look,
        default=Look.EVERYBODY,
        choices=list(Look),
        help="whom to fetch: everybody (default), as the night does, or as the runs between nights do",
    )


if __name__ == "__main__":
    sys.exit(main())
