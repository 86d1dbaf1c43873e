"""`python -m assets`: plan and run the pipeline, explain its results, inspect its shards."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated

import typer

from assets import commands
from assets.analysis.result_text import Format
from assets.options import RunOptions
from contexts import cli
from contexts.postgres.errors import describe_error
from contexts.settings import MAX_SHARDS, misspelt_names
from contexts.todoist.accounts import FetchScope

_MAX_DAYS = 36_500

app = cli.new_app("The assets under DATA_ROOT.")

Scope = Annotated[
    FetchScope,
    typer.Option(
        help="The users to fetch: all active ones, those of a nightly run, or only those likely to ask soon."
    ),
]
Select = Annotated[
    str,
    typer.Option(
        help="Assets, comma-separated: x, +x with its ancestors, x+ with its descendants.", show_default=False
    ),
]
Users = Annotated[str, typer.Option(help="Compute only these users, comma-separated.", show_default=False)]
ShardRanges = Annotated[str, typer.Option(help="Run only these shards, such as 0-3,7.", show_default=False)]
Force = Annotated[bool, typer.Option("--force", help="Compute up-to-date users, too.")]
AssetName = Annotated[str, typer.Argument(metavar="ASSET", help="The asset's name.", show_default=False)]
UserId = Annotated[str, typer.Argument(metavar="USER", help="The user's id.", show_default=False)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, and return the exit status."""
    logging.basicConfig(format="  %(message)s")
    for name in ("assets", "contexts"):
        logging.getLogger(name).setLevel(logging.INFO)
    for sentence in misspelt_names(os.environ):
        print(sentence, file=sys.stderr)
    return cli.run(
        app,
        "python -m assets",
        errors=commands.KNOWN_ERRORS,
        describe=describe_error,
        arguments=arguments,
        on_interrupt="stopped: every file written is complete, and the next run does the rest",
    )


@app.command()
def plan(
    scope: Scope = FetchScope.ALL,
    select: Select = "",
    user: Users = "",
    shards: ShardRanges = "",
    force: Force = False,
    each: Annotated[bool, typer.Option("--each", help="Add a line for each asset and shard.")] = False,
) -> None:
    """Show what would run now and why, with an estimate."""
    _print(
        commands.show_plan(RunOptions.parse(scope, select=select, user=user, shards=shards, force=force), each=each)
    )


@app.command()
def materialize(
    scope: Scope = FetchScope.ALL,
    select: Select = "",
    user: Users = "",
    shards: ShardRanges = "",
    force: Force = False,
) -> None:
    """Run the pipeline, or a part of it, in this process."""
    _print(commands.run_pipeline(RunOptions.parse(scope, select=select, user=user, shards=shards, force=force)))


@app.command()
def runs(days: Annotated[int, typer.Option(min=0, max=_MAX_DAYS, help="The number of days to show.")] = 7) -> None:
    """Show the work of past runs: planned, done, saved."""
    _print(commands.show_runs(days))


@app.command()
def why(
    user: Annotated[str | None, typer.Argument(metavar="USER", help="The user's id.", show_default=False)] = None,
    decision: Annotated[
        str | None, typer.Option(metavar="ID", help="The decision_id of a tip.", show_default=False)
    ] = None,
    last: Annotated[int, typer.Option(min=1, help="The number of versions to show.")] = 10,
) -> None:
    """Explain the changes of a context, or the origin of a tip."""
    if (user is None) == (decision is None):
        raise typer.BadParameter("name either a USER or a --decision ID")
    _print(commands.explain(user, decision, last))


@app.command()
def erase(user: UserId) -> None:
    """Erase a user from Postgres, Parquet and history."""
    _print(commands.erase_user(user))


@app.command()
def calibrate(
    force: Annotated[
        bool, typer.Option("--force", help="Replace the stored calibration: all themes change.")
    ] = False,
) -> None:
    """Measure the threshold, spread and means of the themes."""
    _print(commands.calibrate_threshold(force=force))


@app.command("map")
def draw_map(
    user: UserId,
    path: Annotated[
        str | None, typer.Argument(metavar="FILE", help="A png, svg or pdf file; .local/maps/USER.png by default.")
    ] = None,
) -> None:
    """Draw a user's tasks, coloured by theme."""
    _print(commands.draw_map(user, path))


@app.command()
def graph() -> None:
    """List the steps with their assets and inputs."""
    _print(commands.show_graph())


@app.command("shards")
def list_shards(asset: AssetName) -> None:
    """List the shards of an asset with their versions."""
    _print(commands.show_shards(asset))


@app.command(context_settings={"ignore_unknown_options": True})  # SQL can begin with a comment, "-- ..."
def sql(
    statements: Annotated[
        str | None, typer.Argument(metavar="SQL", help="Statements to answer; read from standard input by default.")
    ] = None,
    days: Annotated[
        int, typer.Option(min=0, max=_MAX_DAYS, help="How many days back tips, LLM calls and runs are read.")
    ] = 90,
    form: Annotated[
        Format | None,
        typer.Option("--format", help="Write whole results; a table by default, cut only at a terminal."),
    ] = None,
) -> None:
    """Answer DuckDB statements over all stored data."""
    _print(commands.answer_sql(statements, days, form))


@app.command()
def rebuild(
    asset: Annotated[
        str, typer.Argument(metavar="ASSET", help="The asset's name, or context_history.", show_default=False)
    ],
    shard: Annotated[int, typer.Option(min=0, help="The shard's number.")],
    day: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="The day of a file of context_history; all unreadable by default."),
    ] = None,
) -> None:
    """Set a shard's file aside; the next run rebuilds it."""
    _print(commands.rebuild_shard(asset, shard, day.date() if day else None))


@app.command()
def reshard(
    n_shards: Annotated[
        int, typer.Argument(metavar="N", min=1, max=MAX_SHARDS, help="The new number of shards.", show_default=False)
    ],
) -> None:
    """Move all rows to another number of shards.

    Run it again to finish a move that was broken off.
    """
    _print(commands.move_rows(n_shards))


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
