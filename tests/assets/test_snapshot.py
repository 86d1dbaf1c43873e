"""Files that are held still while a night replaces them."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Event, Thread

import duckdb
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets.errors import SnapshotError
from assets.snapshot import Snapshot
from assets.views import SHARD, View

SCHEMA = pa.schema({"user_id": pa.string(), "night": pa.int64(), "noise": pa.float64()})
VIEW = View("numbers", SCHEMA, "numbers/shard=*/data.parquet", SHARD)


def write(root: str, shard: int, night: int, n_rows: int = 2000) -> None:
    """A shard as the engine writes it: beside its place, then over it."""
    fs, path = fsspec.core.url_to_fs(root)
    folder = f"{path}/numbers/shard={shard:04d}"
    fs.makedirs(folder, exist_ok=True)
    noise = np.random.default_rng(night).random(n_rows)
    table = pa.table([["ann"] * n_rows, [night] * n_rows, noise], schema=SCHEMA)
    with fs.open(f"{folder}/next.tmp", "wb") as file:
        pq.write_table(table, file, row_group_size=500)
    fs.mv(f"{folder}/next.tmp", f"{folder}/data.parquet")


@pytest.fixture(params=["folder", "file", "memory", "odd"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """DATA_ROOT as people write it, one with signs that globs take for patterns."""
    odd = tmp_path / "a [b] *c"
    odd.mkdir()
    urls = {
        "folder": str(tmp_path),
        "file": f"file://{tmp_path}/",
        "memory": f"memory://{tmp_path.name}",
        "odd": str(odd),
    }
    return urls[request.param]


@pytest.fixture
def snapshot(root: str, tmp_path: Path) -> Iterator[Snapshot]:
    with closing(Snapshot(root, tmp_path / "held")) as made:
        yield made


@pytest.fixture
def connection(snapshot: Snapshot) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as opened:
        VIEW.create(opened, snapshot.folder)
        yield opened


def nights(connection: duckdb.DuckDBPyConnection) -> list[tuple[int, int, int]]:
    """Shard, night and number of rows of what the view shows."""
    return connection.execute("SELECT shard, night, count(*) FROM numbers GROUP BY ALL ORDER BY ALL").fetchall()


def test_what_is_held_stays(root: str, snapshot: Snapshot, connection: duckdb.DuckDBPyConnection) -> None:
    """A file that was replaced or removed since it was taken is read as it was; the next taking sees the change."""
    write(root, 1, night=1)
    write(root, 2, night=1)
    assert snapshot.take(VIEW.pattern) == 2
    write(root, 1, night=2)
    write(root, 3, night=2)
    fs, path = fsspec.core.url_to_fs(root)
    fs.rm(f"{path.rstrip('/')}/numbers/shard=0002", recursive=True)
    assert nights(connection) == [(1, 1, 2000), (2, 1, 2000)]
    assert snapshot.take(VIEW.pattern) == 2
    assert nights(connection) == [(1, 2, 2000), (3, 2, 2000)]


def test_before_the_first_file(root: str, snapshot: Snapshot, connection: duckdb.DuckDBPyConnection) -> None:
    """A view is there, and empty, before the first night; the same view then shows what came."""
    assert snapshot.take(VIEW.pattern) == 0
    assert nights(connection) == []
    write(root, 7, night=1)
    snapshot.take(VIEW.pattern)
    assert nights(connection) == [(7, 1, 2000)]


def test_a_file_of_an_older_form(root: str, snapshot: Snapshot, connection: duckdb.DuckDBPyConnection) -> None:
    """A file that lacks a declared column is read with nulls in its place, beside files that have it."""
    write(root, 1, night=1)
    fs, path = fsspec.core.url_to_fs(root)
    former = f"{path.rstrip('/')}/numbers/shard=0002"
    fs.makedirs(former, exist_ok=True)
    with fs.open(f"{former}/data.parquet", "wb") as file:
        pq.write_table(pa.table({"user_id": ["bob"]}), file)
    snapshot.take(VIEW.pattern)
    assert nights(connection) == [(1, 1, 2000), (2, None, 1)]


def test_queries_while_a_night_writes(tmp_path: Path) -> None:
    """While shards are replaced as fast as the disk can, every answer is of whole shards, and none is an error."""
    root, done = str(tmp_path / "data"), Event()
    for shard in range(4):
        write(root, shard, night=0)

    def work() -> None:
        night = 0
        while not done.is_set():
            night += 1
            for shard in range(4):
                write(root, shard, night, n_rows=2000 + night % 7 * 100)

    writer = Thread(target=work)
    with closing(Snapshot(root, tmp_path / "held")) as snapshot, duckdb.connect() as connection:
        VIEW.create(connection, snapshot.folder)
        writer.start()
        try:
            seen = set()
            for _ in range(60):
                snapshot.take(VIEW.pattern)
                answer = nights(connection)
                assert [(shard, n) for shard, _, n in answer] == [
                    (number, 2000 + night % 7 * 100) for number, (_, night, _) in enumerate(answer)
                ]
                seen.add(answer[0][1])
        finally:
            done.set()
            writer.join()
    assert len(seen) > 3  # it did write meanwhile


def test_descriptors_are_given_back(tmp_path: Path) -> None:
    """However often files are taken, no more descriptors are open than there are files; closing gives all back."""
    before = len(os.listdir("/dev/fd"))
    with closing(Snapshot(str(tmp_path), tmp_path / "held")) as snapshot:
        for night in range(5):
            for shard in range(3):
                write(str(tmp_path), shard, night, n_rows=1)
            snapshot.take(VIEW.pattern)
        assert len(os.listdir("/dev/fd")) == before + 3
    assert len(os.listdir("/dev/fd")) == before


def test_more_files_than_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of open files is raised as far as it may be; beyond, an error says the number and the command."""
    for shard in range(3):
        write(str(tmp_path), shard, 1, n_rows=1)
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: raised.append(limits))
    for hard in (4096, 130):
        monkeypatch.setattr(resource, "getrlimit", lambda _, hard=hard: (100, hard))
        with closing(Snapshot(str(tmp_path), tmp_path / f"held-{hard}")) as snapshot:
            if hard == 4096:
                assert [snapshot.take(VIEW.pattern) for _ in range(2)] == [3, 3]
                assert set(raised) == {(134, 4096)}
            else:
                with pytest.raises(SnapshotError, match=r"3 files .* 131, and it is 130.*ulimit -Hn 134"):
                    snapshot.take(VIEW.pattern)


MANY = """
import sys
from contextlib import closing
from pathlib import Path
import duckdb
from assets.snapshot import Snapshot
from test_snapshot import VIEW
with closing(Snapshot(sys.argv[1], Path(sys.argv[2]))) as snapshot, duckdb.connect() as connection:
    VIEW.create(connection, snapshot.folder)
    for _ in range(2):
        snapshot.take(VIEW.pattern)
        print(connection.execute("SELECT count(*), sum(night) FROM numbers").fetchone())
"""


def test_many_files_under_a_low_limit(tmp_path: Path) -> None:
    """Three hundred files are read, twice, where a process may open 256 until it asks for more."""
    for shard in range(300):
        write(str(tmp_path), shard, 1, n_rows=1)
    paths = os.pathsep.join([os.getcwd(), str(Path(__file__).parent), str(Path(__file__).parents[1])])
    limited = ["bash", "-c", 'ulimit -Sn 256; exec "$0" -c "$@"']
    done = subprocess.run(
        [*limited, sys.executable, MANY, str(tmp_path), str(tmp_path / "held")],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == ["(300, 300)"] * 2, done.stderr
