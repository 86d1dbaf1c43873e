"""Flipped bits in the files of a whole pipeline: each is found, or changes nothing."""

from __future__ import annotations

import logging
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from analysts import open_world_session
from scribe import Scribe, ask_daily
from world import NOON, World

from assets.definitions import GRAPH
from assets.engine.errors import AssetError, ShardUnreadable, SnapshotError
from contexts.assembly.history import HISTORY, HistoryUnreadable

log = logging.getLogger(__name__)

N_FLIPS = int(os.environ.get("BIT_ROT_FLIPS", "12"))
"""Flips in each file; the environment can ask for more."""

REFUSALS = (ShardUnreadable, HistoryUnreadable, SnapshotError)


@pytest.fixture
def files(world: World, account: Any) -> list[Path]:
    """The files of a pipeline after its first run: those of every asset, of the history and of step runs."""
    world.add("ann", account("call the dentist", "buy milk", "buy bread", "call the bank"))
    world.add("cem", account())
    for user in ("ann", "cem"):
        ask_daily(world, user, NOON + timedelta(hours=1))
    world.new_generator = Scribe
    world.night()
    return sorted(world.root.rglob("data.parquet"))


@pytest.fixture
def readers(world: World, database_url: str) -> Iterator[dict[str, Callable[[Path], object]]]:
    """A function for each kind of file that returns all data in it."""

    def shard(path: Path) -> object:
        asset, number = GRAPH[path.parts[-3]], int(path.parts[-2].removeprefix("shard="))
        footer = world.shards.footer(asset, number)
        assert footer
        with world.shards.open(asset, number) as opened:
            assert opened
            assert opened.footer == footer
            return footer, footer.index.input_digests_by_user(), opened.read_all().to_pylist()

    def history(_: Path) -> object:
        return [world.history.versions_of(user) for user in ("ann", "cem")]

    with open_world_session(world, database_url) as session:

        def step_runs(_: Path) -> object:
            result = session.sql("FROM step_runs ORDER BY ALL")
            assert result
            return result.fetchall()

        yield {**dict.fromkeys(GRAPH.assets, shard), HISTORY: history, "step_runs": step_runs}


def test_flipped_bits(files: list[Path], world: World, readers: dict[str, Callable[[Path], object]]) -> None:
    """A flipped bit in any file is refused with the file's name, or leaves all data equal; no process dies of it."""
    chance, outcomes = random.Random(15), dict[str, Counter[str]]()
    for file in files:
        table = file.relative_to(world.root).parts[0]
        outcomes.setdefault(table, Counter()).update(flips(file, readers[table], chance))
    for table, counts in outcomes.items():
        log.info("%s: %s", table, dict(counts))
    assert outcomes.keys() == {*GRAPH.assets, HISTORY, "step_runs"}
    assert set().union(*outcomes.values()) <= {"refused", "equal"}


def flips(file: Path, read: Callable[[Path], object], chance: random.Random) -> Iterator[str]:
    """Yield the outcome of each of N_FLIPS flips of one bit of a file."""
    content, before = file.read_bytes(), read(file)
    for _ in range(N_FLIPS):
        position, bit = chance.randrange(len(content)), chance.randrange(8)
        file.write_bytes(content[:position] + bytes([content[position] ^ (1 << bit)]) + content[position + 1 :])
        yield in_a_process(lambda: compare(read, file, before))
    file.write_bytes(content)


def compare(read: Callable[[Path], object], file: Path, before: object) -> str:
    try:
        return "equal" if read(file) == before else "different"
    except REFUSALS as error:
        return "refused" if str(file.parent) in str(error) else f"a refusal that does not name the file: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def in_a_process(call: Callable[[], str]) -> str:
    """Return what a function returns in a fork of this process, or how the fork died."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, call().encode()[:4000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        outcome = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    return outcome if status == 0 else f"died: {status}"


def test_a_damaged_file_in_an_analysis(world: World, files: list[Path], database_url: str) -> None:
    """An analysis over a damaged file names the file and its remedy."""
    with open_world_session(world, database_url) as session:
        for table, remedy in (
            ("user_contexts", "python -m assets rebuild user_contexts --shard 0000"),
            (HISTORY, "python -m assets rebuild context_history --day 20"),
            ("step_runs", "Remove it: the next run writes it again"),
        ):
            file = next(file for file in files if table in file.parts)
            content = file.read_bytes()
            file.write_bytes(content[:40] + bytes([content[40] ^ 4]) + content[41:])
            with pytest.raises(AssetError, match=rf"{file} cannot be read .*{remedy}"):
                session.sql(f"SELECT count(*) FROM {table}")
            file.write_bytes(content)
            assert session.sql(f"SELECT count(*) FROM {table}")
